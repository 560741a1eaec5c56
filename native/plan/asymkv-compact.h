#pragma once

#include "asymkv-state.h"

#include <vector>

namespace asymkv {

// where the kept slots and the next batch would span more positions than params.span, moves all slots before the last
// protected run (the recent window) up towards it, and their keys with them: every slot gets as many positions as it stands
// for tokens, but not more than fit. order and recent window stay. returns whether anything moved.
//
// attention sees differences of positions only, so this keeps them within what the model has learnt, however long the text
// is (arXiv 2506.05410, section 4, numbers all slots anew at every step; here they move only when they have to)
bool compact_positions(group_state & state, const std::vector<uint32_t> & kept);

} // namespace asymkv
