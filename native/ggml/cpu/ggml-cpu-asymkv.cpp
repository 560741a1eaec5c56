#include "ggml-cpu-asymkv.h"

#include "vec.h"

#include <algorithm>

uint32_t ggml_backend_cpu_asymkv_ops(void) {
    return GGML_ASYMKV_OPS_ATTN | (ggml_cpu_asymkv_offers_compress() ? GGML_ASYMKV_OPS_COMPRESS : 0);
}

void ggml_cpu_asymkv_add_row(const ggml_fp16_t * log_card, int64_t n, float * y) {
    float part[256];

    for (int64_t i = 0; i < n; i += 256) {
        const int n_part = (int) std::min<int64_t>(256, n - i);

        ggml_cpu_fp16_to_fp32(log_card + i, part, n_part);
        ggml_vec_acc_f32(n_part, y + i, part);
    }
}

void ggml_cpu_asymkv_add_tile(const ggml_fp16_t * log_card, int n, bool is_filled, int n_cols, int n_rows, float * tile) {
    if (!is_filled) {
        std::fill_n(tile, n_cols*n_rows, 0.0f);
    }
    for (int i = 0; i < n_rows; ++i) {
        ggml_cpu_asymkv_add_row(log_card, n, tile + i*n_cols);
    }
}
