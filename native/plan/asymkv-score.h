#pragma once

#include "asymkv-state.h"

#include <string>

namespace asymkv {

// one way to price operations
struct score_type {
    const char * name;

    // needs the observed probabilities, row by row
    bool keeps_rows;

    // called before the first step. may be null
    void (*prepare)(group_state & state);

    // cost of merging slot i with its right neighbour j; lower is done first. null where the score only evicts
    double (*merge_cost)(group_state & state, uint32_t i, uint32_t j);

    // updates the observed probabilities after the merge; called before cardinalities and values change. may be null
    void (*merge_apply)(group_state & state, uint32_t i, uint32_t j);

    // the same for evicting slot i; null where the score only merges
    double (*evict_cost )(group_state & state, uint32_t i);
    void   (*evict_apply)(group_state & state, uint32_t i);
};

// null if there is no such score
const score_type * score_find(int32_t score);

// all of them, for error messages
std::string score_names();

} // namespace asymkv
