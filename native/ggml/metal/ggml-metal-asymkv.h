#pragma once

#include "ggml-metal-device.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// bits of ggml_asymkv_ops
uint32_t ggml_metal_asymkv_ops(void);

// OBSERVE, PLAN and MERGE (ggml-asymkv-compress.h)
bool ggml_metal_asymkv_supports_op(const struct ggml_tensor * op, size_t max_threadgroup_memory);

// whether an op writes to its source i
static inline bool ggml_metal_asymkv_writes_src(const struct ggml_tensor * op, int i) {
    return (op->op == GGML_OP_ASYMKV_PLAN && i == 7) || (op->op == GGML_OP_ASYMKV_MERGE && i < 2);
}

#ifdef __cplusplus
}

// the node's kernels, one after the other, and a barrier behind each
void ggml_metal_asymkv_compress(
        ggml_metal_library_t lib, ggml_metal_encoder_t enc, const ggml_tensor * op,
        ggml_metal_buffer_id (*buffer_id)(const ggml_tensor *));

struct akv_params;

// the same, of kernels that are named by AKV_*_KERNELS's first word; the buffers of akv_buffers in their order
enum ggml_metal_asymkv_what {
    GGML_METAL_ASYMKV_OBSERVE,
    GGML_METAL_ASYMKV_PLAN,
    GGML_METAL_ASYMKV_MERGE,
};

void ggml_metal_asymkv_launch(
        ggml_metal_library_t lib, ggml_metal_encoder_t enc, ggml_metal_asymkv_what what, const akv_params & params,
        const ggml_metal_buffer_id (&buffers)[11], uint32_t n_threads, int n_kernels = -1);
#endif
