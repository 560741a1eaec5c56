#include "asymkv-scores.h"

// StreamingLLM (arXiv 2309.17453): the oldest slot after the sinks goes first

namespace asymkv {

namespace {

void streaming_prepare(group_state & st) {
    st.priority.resize(st.n_slots);
    for (uint32_t i = 0; i < st.n_slots; ++i) {
        st.priority[i] = i;
    }
}

} // namespace

const score_type SCORE_STREAMING = { "streaming", false, streaming_prepare, nullptr, nullptr, priority_evict_cost, nullptr };

} // namespace asymkv
