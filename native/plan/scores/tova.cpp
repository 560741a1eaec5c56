#include "asymkv-scores.h"

#include <algorithm>

// TOVA (arXiv 2401.06104): the slot that the last query looks at least

namespace asymkv {

namespace {

void tova_prepare(group_state & st) {
    const auto & g = st.group;

    st.priority.assign(st.n_slots, 0.0);
    if (g.n_queries == 0) {
        return;
    }
    const int32_t last = *std::max_element(g.query_positions, g.query_positions + g.n_queries);
    for (uint32_t i = 0; i < st.n_slots; ++i) {
        for (uint32_t h = 0; h < st.n_heads; ++h) {
            const float * prob = st.rows(i, h).prob;
            for (uint32_t r = 0; r < g.n_queries; ++r) {
                st.priority[i] += g.query_positions[r] == last ? prob[r] : 0.0;
            }
        }
    }
}

} // namespace

const score_type SCORE_TOVA = { "tova", true, tova_prepare, nullptr, nullptr, priority_evict_cost, nullptr };

} // namespace asymkv
