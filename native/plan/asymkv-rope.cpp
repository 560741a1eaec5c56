#include "asymkv-rope.h"

#include <cmath>

namespace asymkv {

void rope_move(float * x, double delta, const float * freqs, uint32_t n_rot, bool neox) {
    if (delta == 0.0) {
        return;
    }

    const uint32_t n_pairs = n_rot/2;

    for (uint32_t t = 0; t < n_pairs; ++t) {
        const double theta = delta * freqs[t];
        const double c = std::cos(theta);
        const double s = std::sin(theta);

        float & x0 = neox ? x[t]           : x[2*t];
        float & x1 = neox ? x[t + n_pairs] : x[2*t + 1];

        const double y0 = x0*c - x1*s;
        const double y1 = x0*s + x1*c;

        x0 = (float) y0;
        x1 = (float) y1;
    }
}

} // namespace asymkv
