#pragma once

#include "asymkv-plan.h"

namespace asymkv {

// observe, plan and merge one group. `state` holds keys, values, positions, cardinalities and scores afterwards. use it
// again for the next group: its memory stays
struct group_compression {
    group_state state;
    group_plan  plan;
    bool        moved = false; // positions of slots that no step touched, too

    uint64_t t_observe_us = 0;
    uint64_t t_plan_us    = 0;
};

// throws std::invalid_argument if n_keep cannot be reached
void compress_group(const asymkv_params & params, const asymkv_group & group, uint32_t n_keep, group_compression & out);

} // namespace asymkv
