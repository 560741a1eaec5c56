#include "asymkv-scores.h"

#include <cmath>

// the paper's reference score: attention mass of the pair times its cardinality (arXiv 2506.05410)

namespace asymkv {

namespace {

double mass_merge_cost(group_state & st, uint32_t i, uint32_t j) {
    double cost = (st.scores[i] + st.scores[j])*((double) st.cards[i] + st.cards[j]);
    if (st.params.decay > 0.0f) {
        cost /= std::exp((double) (i - st.first_index)/st.params.decay);
    }
    return cost;
}

} // namespace

const score_type SCORE_MASS = { "mass", false, nullptr, mass_merge_cost, nullptr, nullptr, nullptr };

} // namespace asymkv
