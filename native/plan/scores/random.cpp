#include "asymkv-scores.h"

#include "asymkv-math.h"

// a random order: the control that every other score must beat

namespace asymkv {

namespace {

double random_merge_cost(group_state & st, uint32_t i, uint32_t /*j*/) {
    return hash_uniform(st.params.seed + i + 65536ull*st.cards[i]);
}

double random_evict_cost(group_state & st, uint32_t i) {
    return hash_uniform(st.params.seed + i);
}

} // namespace

const score_type SCORE_RANDOM = { "random", false, nullptr, random_merge_cost, nullptr, random_evict_cost, nullptr };

} // namespace asymkv
