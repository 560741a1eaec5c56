#pragma once

#include "asymkv-state.h"

#include <vector>

namespace asymkv {

struct op_costs {
    std::vector<double> merge; // [n_slots] of slot i with its right neighbour; +inf: not allowed
    std::vector<double> evict; // [n_slots]
};

// the plan of one group, and the group after it
struct group_plan {
    std::vector<asymkv_op> ops;
    std::vector<uint32_t>  kept;  // [n_keep] slots that are left, ascending
    op_costs               first; // costs before the first step
    uint32_t n_merges    = 0;
    uint32_t n_evictions = 0;
    uint64_t n_lost      = 0;     // tokens no longer counted: evicted, or clipped off by max_cardinality
};

// true greedy: one operation at a time, the cheapest first, its neighbours re-scored, until n_keep slots are left.
// keys and values are merged as it goes, in `state`. throws std::invalid_argument if n_keep cannot be reached
group_plan plan_group(group_state & state, uint32_t n_keep);

} // namespace asymkv
