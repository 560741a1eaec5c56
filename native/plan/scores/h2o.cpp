#include "asymkv-scores.h"

// H2O (arXiv 2306.14048): the slot with the least attention so far goes first

namespace asymkv {

namespace {

void h2o_prepare(group_state & st) {
    st.priority = st.scores;
}

} // namespace

const score_type SCORE_H2O = { "h2o", false, h2o_prepare, nullptr, nullptr, priority_evict_cost, nullptr };

} // namespace asymkv
