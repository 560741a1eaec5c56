#include "asymkv-scores.h"

#include <cmath>

// change of the output when the pair's attention is spread equally over its tokens

namespace asymkv {

namespace {

double output_merge_cost(group_state & st, uint32_t i, uint32_t j) {
    const double ci = st.cards[i];
    const double cj = st.cards[j];

    double cost = 0.0;
    for (uint32_t h = 0; h < st.n_heads; ++h) {
        const double sum = kernels().unevenness(st.rows(i, h).prob, st.rows(j, h).prob, (float) ci, (float) cj, st.group.n_queries);
        cost += sum/(ci + cj)*std::sqrt(st.value_distance_sq(i, j, h));
    }
    return cost;
}

void output_merge_apply(group_state & st, uint32_t i, uint32_t j) {
    float       * pi = st.rows(i, 0).prob; // of all heads
    const float * pj = st.rows(j, 0).prob;
    for (size_t x = 0; x < st.n_rows; ++x) {
        pi[x] += pj[x];
    }
}

} // namespace

const score_type SCORE_OUTPUT = { "output", true, nullptr, output_merge_cost, output_merge_apply, nullptr, nullptr };

} // namespace asymkv
