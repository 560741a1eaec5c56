#pragma once

#include "ggml-asymkv.h"

#ifdef __cplusplus
extern "C" {
#endif

// what the CPU backend can do: bits of ggml_asymkv_ops
uint32_t ggml_backend_cpu_asymkv_ops(void);

// y[i] += log_card[i]
void ggml_cpu_asymkv_add_row(const ggml_fp16_t * log_card, int64_t n, float * y);

// adds n columns to every row of a tile, or, where the tile holds nothing yet, writes them
void ggml_cpu_asymkv_add_tile(const ggml_fp16_t * log_card, int n, bool is_filled, int n_cols, int n_rows, float * tile);

// whether it does compression, too: where somebody wants to try or to compare it, since the host's own code is faster
bool ggml_cpu_asymkv_offers_compress(void);

// one thread's share of OBSERVE, PLAN or MERGE
struct ggml_compute_params;
void ggml_cpu_asymkv_compress(const struct ggml_compute_params * params, struct ggml_tensor * op);

#ifdef __cplusplus
}
#endif
