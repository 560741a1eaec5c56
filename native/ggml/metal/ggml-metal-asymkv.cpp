#include "ggml-metal-asymkv.h"

#include "ggml-asymkv-compress.h"
#include "ggml-asymkv.h"

#include "ggml-impl.h"

#include <algorithm>
#include <string>

uint32_t ggml_metal_asymkv_ops(void) {
    return GGML_ASYMKV_OPS_ATTN | GGML_ASYMKV_OPS_COMPRESS;
}

bool ggml_metal_asymkv_supports_op(const ggml_tensor * op, size_t max_threadgroup_memory) {
    return ggml_asymkv_compress_supported(op) &&
        akv_local_floats(ggml_asymkv_compress_params(op), AKV_MAX_THREADS)*sizeof(float) <= max_threadgroup_memory;
}

struct kernel_of_compression {
    ggml_metal_asymkv_what what;
    const char *           name;
    uint32_t               grid;
};

#define AKV_METAL_KERNEL(what, name, grid) { GGML_METAL_ASYMKV_##what, "kernel_asymkv_" #name, grid },

static const kernel_of_compression KERNELS[] = {
    AKV_OBSERVE_KERNELS(AKV_METAL_KERNEL)
    AKV_PLAN_KERNELS   (AKV_METAL_KERNEL)
    AKV_MERGE_KERNELS  (AKV_METAL_KERNEL)
};

#undef AKV_METAL_KERNEL

void ggml_metal_asymkv_launch(
        ggml_metal_library_t lib, ggml_metal_encoder_t enc, ggml_metal_asymkv_what what, const akv_params & params,
        const ggml_metal_buffer_id (&buffers)[11], uint32_t n_threads, int n_kernels) {
    for (const kernel_of_compression & kernel : KERNELS) {
        if (kernel.what != what || n_kernels == 0) {
            continue;
        }
        n_kernels--;

        ggml_metal_pipeline_with_params pipeline = ggml_metal_library_get_pipeline(lib, kernel.name);
        if (!pipeline.pipeline) {
            pipeline = ggml_metal_library_compile_pipeline(lib, kernel.name, kernel.name, nullptr);
        }
        const uint32_t most = ggml_metal_pipeline_max_theads_per_threadgroup(pipeline);
        const uint32_t n    = std::min({ n_threads, most, AKV_MAX_THREADS });

        akv_params copy = params;

        ggml_metal_encoder_set_pipeline(enc, pipeline);
        ggml_metal_encoder_set_bytes   (enc, &copy, sizeof(copy), 0);
        for (int i = 0; i < 11; ++i) {
            ggml_metal_encoder_set_buffer(enc, buffers[i], i + 1);
        }
        const size_t smem = GGML_PAD(akv_local_floats(params, n)*sizeof(float), 16);
        ggml_metal_encoder_set_threadgroup_memory_size(enc, smem, 0);
        ggml_metal_encoder_dispatch_threadgroups(enc, params.n_group, akv_tiles(params, kernel.grid), 1, n, 1, 1);
        ggml_metal_encoder_memory_barrier(enc); // the next one needs what it writes
    }
}

void ggml_metal_asymkv_compress(
        ggml_metal_library_t lib, ggml_metal_encoder_t enc, const ggml_tensor * op,
        ggml_metal_buffer_id (*buffer_id)(const ggml_tensor *)) {
    const ggml_metal_asymkv_what what =
        op->op == GGML_OP_ASYMKV_OBSERVE ? GGML_METAL_ASYMKV_OBSERVE :
        op->op == GGML_OP_ASYMKV_PLAN    ? GGML_METAL_ASYMKV_PLAN : GGML_METAL_ASYMKV_MERGE;

    // the op's own result comes behind its first sources; what it does not have, its kernels do not touch
    ggml_metal_buffer_id buffers[11];
    for (int i = 0; i < 11; ++i) {
        const ggml_tensor * src = i < 9 ? op->src[i] : i == 10 ? op->src[9] : nullptr;
        buffers[i] = buffer_id(src && i != 7 + (int) what ? src : op);
    }
    ggml_metal_asymkv_launch(lib, enc, what, ggml_asymkv_compress_params(op), buffers, AKV_MAX_THREADS);
}
