#include "asymkv-rope.h"

#include "asymkv-kernels.h"

namespace asymkv {

void rope_move(float * x, uint32_t n_heads, uint32_t head_k, double delta, const float * freqs, uint32_t n_rot, bool neox, std::vector<float> & scratch) {
    if (delta == 0.0) {
        return;
    }

    const uint32_t n_pairs = n_rot/2;

    scratch.resize(2*(size_t) n_pairs);
    float * c = scratch.data();
    float * s = scratch.data() + n_pairs;

    kernels().cos_sin(delta, freqs, c, s, n_pairs);

    for (uint32_t h = 0; h < n_heads; ++h, x += head_k) {
        for (uint32_t t = 0; t < n_pairs; ++t) {
            float & x0 = neox ? x[t]           : x[2*t];
            float & x1 = neox ? x[t + n_pairs] : x[2*t + 1];

            const float y0 = x0*c[t] - x1*s[t];
            const float y1 = x0*s[t] + x1*c[t];

            x0 = y0;
            x1 = y1;
        }
    }
}

} // namespace asymkv
