#pragma once

#include <stdint.h>

// CDEF begin

// attention of ggml-cuda on the CPU. q: [n_head][n_tokens][head] floats, k and v: [n_head_kv][n_kv][head] of their type, mask:
// [n_tokens][n_kv] and log_card: [n_group][card_row] halves (0: none of them), dst: [n_tokens][n_head][head]
struct cuda_attention {
    const float    * q;
    const void     * k;
    const void     * v;
    const uint16_t * mask;
    const uint16_t * log_card;
    const float    * sinks;
    float          * dst;

    int32_t type_k, type_v; // ggml_type
    int32_t head, n_tokens, n_kv, n_head, n_head_kv, n_group, card_row;
    int32_t kernel;         // 0: vec, 1: tile, 2: mma (with SHIM_ARCH 750)
    int32_t n_sm;           // multiprocessors; the more, the more blocks share a query
    float   scale, softcap, max_bias;
};

// NULL, or why it cannot run
const char * cuda_attention(const struct cuda_attention * a);

// kernels that were launched since the last call
int32_t cuda_attention_launches(void);

// CDEF end
