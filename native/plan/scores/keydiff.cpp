#include "asymkv-scores.h"

#include <algorithm>
#include <cmath>
#include <vector>

// KeyDiff (arXiv 2504.15364): the key that is most like all others goes first, attention is not asked

namespace asymkv {

namespace {

void keydiff_prepare(group_state & st) {
    st.priority.assign(st.n_slots, st.n_heads); // 1 - cosine, summed over heads

    std::vector<double> mean  (st.head_k);
    std::vector<double> length(st.n_slots);

    for (uint32_t h = 0; h < st.n_heads; ++h) {
        std::fill(mean.begin(), mean.end(), 0.0);
        for (uint32_t i = 0; i < st.n_slots; ++i) {
            const float * k = st.key(i, h);
            double sum = 0.0;
            for (uint32_t c = 0; c < st.head_k; ++c) {
                sum += (double) k[c]*k[c];
            }
            length[i] = std::max(std::sqrt(sum), 1e-30);
            for (uint32_t c = 0; c < st.head_k; ++c) {
                mean[c] += k[c]/length[i];
            }
        }
        double norm = 0.0;
        for (double m : mean) {
            norm += m*m;
        }
        norm = std::max(std::sqrt(norm), 1e-30);
        for (uint32_t i = 0; i < st.n_slots; ++i) {
            const float * k = st.key(i, h);
            double cosine = 0.0;
            for (uint32_t c = 0; c < st.head_k; ++c) {
                cosine += k[c]*mean[c];
            }
            st.priority[i] -= cosine/(length[i]*norm);
        }
    }
}

} // namespace

const score_type SCORE_KEYDIFF = { "keydiff", false, keydiff_prepare, nullptr, nullptr, priority_evict_cost, nullptr };

} // namespace asymkv
