#pragma once

#include "asymkv-state.h"

#include <string>

namespace asymkv {

// one way to price operations. a new score is one entry in the table of asymkv-score.cpp
struct score_type {
    const char * name;

    // needs the observed probabilities, row by row
    bool keeps_rows;

    // cost of merging slot i with its right neighbour j; lower is done first
    double (*merge_cost)(const group_state & state, uint32_t i, uint32_t j);

    // updates the observed probabilities after the merge; called before cardinalities and values change. may be null
    void (*merge_apply)(group_state & state, uint32_t i, uint32_t j);

    // the same for evicting slot i; null where the score only merges
    double (*evict_cost )(const group_state & state, uint32_t i);
    void   (*evict_apply)(group_state & state, uint32_t i);
};

// null if there is no such score
const score_type * score_find(int32_t score);

} // namespace asymkv
