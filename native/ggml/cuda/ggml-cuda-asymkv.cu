#include "ggml-cuda-asymkv.h"

#include "ggml-asymkv-compress.h"

#include "common/asymkv-dev-merge.h"
#include "common/asymkv-dev-observe.h"
#include "common/asymkv-dev-plan.h"

// threads of a block. A query, a channel or a slot each: more of them idle where heads are small
static constexpr uint32_t n_threads = 128;

static_assert(n_threads <= AKV_MAX_THREADS, "the kernels take no more");

// blockIdx.x: group, blockIdx.y: tile. Shared memory is at most 16 rows of 512 channels, which every GPU gives unasked
#define AKV_CUDA_KERNEL(op, name, grid)                                                                        \
    static __global__ void __launch_bounds__(n_threads) asymkv_##name(const akv_buffers b, const akv_params p) { \
        extern __shared__ float asymkv_local[];                                                                \
        const akv_place at = { threadIdx.x, n_threads, blockIdx.x, blockIdx.y };                               \
        akv_##name(b, p, asymkv_local, at);                                                                    \
    }

AKV_OBSERVE_KERNELS(AKV_CUDA_KERNEL)
AKV_PLAN_KERNELS(AKV_CUDA_KERNEL)
AKV_MERGE_KERNELS(AKV_CUDA_KERNEL)

#define AKV_CUDA_LAUNCH(op, name, grid)                                                                       \
    asymkv_##name<<<dim3(p.n_group, akv_tiles(p, grid)), n_threads, n_local*sizeof(float), ctx.stream()>>>(b, p); \
    CUDA_CHECK(cudaGetLastError());

void ggml_cuda_asymkv_compress(ggml_backend_cuda_context & ctx, ggml_tensor * op) {
    const akv_params  p = ggml_asymkv_compress_params (op);
    const akv_buffers b = ggml_asymkv_compress_buffers(op);

    const uint32_t n_local = akv_local_floats(p, n_threads);

    switch (op->op) {
        case GGML_OP_ASYMKV_OBSERVE: AKV_OBSERVE_KERNELS(AKV_CUDA_LAUNCH) break;
        case GGML_OP_ASYMKV_PLAN:    AKV_PLAN_KERNELS   (AKV_CUDA_LAUNCH) break;
        case GGML_OP_ASYMKV_MERGE:   AKV_MERGE_KERNELS  (AKV_CUDA_LAUNCH) break;
        default:                     GGML_ABORT("fatal error");
    }
}
