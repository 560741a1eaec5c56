#include "llama-asymkv-rows.h"

#include "asymkv-kernels.h"

#include <cmath>
#include <cstring>

namespace asymkv {

void rows_to_float(ggml_type type, const uint8_t * src, float * dst, int64_t n) {
    if (type == GGML_TYPE_F32) {
        memcpy(dst, src, n*sizeof(float));
    } else if (type == GGML_TYPE_F16) {
        kernels().half_to_float((const uint16_t *) src, dst, n);
    } else {
        ggml_get_type_traits(type)->to_float(src, dst, n);
    }
}

void rows_from_float(ggml_type type, const float * src, uint8_t * dst, int64_t n) {
    ggml_quantize_chunk(type, src, dst, 0, 1, n, nullptr);
}

void hadamard(float * x, uint32_t n_channels, uint32_t n) {
    const float norm = 1.0f/std::sqrt((float) n);

    for (uint32_t b = 0; b < n_channels; b += n) {
        float * y = x + b;
        for (uint32_t len = 1; len < n; len *= 2) {
            for (uint32_t i = 0; i < n; i += 2*len) {
                for (uint32_t j = i; j < i + len; ++j) {
                    const float u = y[j];
                    const float v = y[j + len];
                    y[j]       = u + v;
                    y[j + len] = u - v;
                }
            }
        }
        for (uint32_t i = 0; i < n; ++i) {
            y[i] *= norm;
        }
    }
}

} // namespace asymkv
