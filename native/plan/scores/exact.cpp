#include "asymkv-scores.h"

#include "asymkv-weights.h"

#include <algorithm>
#include <cmath>

// the output change itself, of merging and of evicting, in one unit: exactly for the observed queries, and roughly for those of
// earlier compressions, which a fact needs that nobody looks at for a while

namespace asymkv {

namespace {

pair_terms pair_of(const group_state & st, uint32_t i, uint32_t j) {
    pair_terms t = {};
    t.card   = (float) st.merged_cardinality(i, j);
    t.share  = (float) ((double) st.cards[i]/((double) st.cards[i] + st.cards[j]));
    t.weight = (float) weight_scalar(st, i, j);
    return t;
}

void pair_in_head(const group_state & st, uint32_t i, uint32_t j, uint32_t h, pair_terms & t) {
    t.dist_sq = st.value_distance_sq(i, j, h);
    t.norm    = std::max(st.value_norm[(size_t) i*st.n_heads + h], st.value_norm[(size_t) j*st.n_heads + h]);
}

double exact_merge_cost(group_state & st, uint32_t i, uint32_t j) {
    pair_terms t = pair_of(st, i, j);

    // of earlier queries only their sums are known: as if each had looked at both slots in the same proportion
    const double past = std::fabs(st.history[i]*(1.0 - t.share) - st.history[j]*t.share)/st.n_heads;

    double cost = 0.0;
    for (uint32_t h = 0; h < st.n_heads; ++h) {
        pair_in_head(st, i, j, h, t);
        cost += kernels().merge_change(st.rows(i, h), st.rows(j, h), st.queries(h), t, st.group.n_queries);
        cost += past*std::sqrt(t.dist_sq);
    }
    return cost;
}

void exact_merge_apply(group_state & st, uint32_t i, uint32_t j) {
    pair_terms t = pair_of(st, i, j);

    for (uint32_t h = 0; h < st.n_heads; ++h) {
        pair_in_head(st, i, j, h, t);
        kernels().merge_apply(st.rows(i, h), st.rows(j, h), st.queries(h), t, st.group.n_queries);
    }
}

double exact_evict_cost(group_state & st, uint32_t i) {
    double cost = 0.0;
    for (uint32_t h = 0; h < st.n_heads; ++h) {
        const float norm = st.value_norm[(size_t) i*st.n_heads + h];
        cost += kernels().evict_change(st.rows(i, h), st.queries(h), norm, st.group.n_queries);
        cost += st.history[i]/st.n_heads*norm;
    }
    return cost;
}

void exact_evict_apply(group_state & st, uint32_t i) {
    for (uint32_t h = 0; h < st.n_heads; ++h) {
        kernels().evict_apply(st.rows(i, h), st.queries(h), st.group.n_queries);
    }
}

} // namespace

const score_type SCORE_EXACT = { "exact", true, nullptr, exact_merge_cost, exact_merge_apply, exact_evict_cost, exact_evict_apply };

} // namespace asymkv
