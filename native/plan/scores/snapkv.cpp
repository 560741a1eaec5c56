#include "asymkv-scores.h"

#include <algorithm>

// SnapKV (arXiv 2404.14469): the least attention of the observation window, pooled so that neighbours stay together

namespace asymkv {

namespace {

constexpr uint32_t POOL = 7; // slots, as in the method's code

void snapkv_prepare(group_state & st) {
    const auto & mass = st.seen.mass;

    st.priority.resize(st.n_slots);
    for (uint32_t i = 0; i < st.n_slots; ++i) {
        const uint32_t first = i < POOL/2 ? 0 : i - POOL/2;
        const uint32_t last  = std::min(i + POOL/2, st.n_slots - 1);
        st.priority[i] = *std::max_element(mass.begin() + first, mass.begin() + last + 1);
    }
}

} // namespace

const score_type SCORE_SNAPKV = { "snapkv", false, snapkv_prepare, nullptr, nullptr, priority_evict_cost, nullptr };

} // namespace asymkv
