#include "cuda-shim.h"

#include "fattn-mma-f16.cuh"
#include "fattn-tile.cuh"
#include "fattn-vec.cuh"

#include <vector>

extern "C" {
#include "cuda-attention.h"
}

#if SHIM_ARCH >= 750
DECL_FATTN_MMA_F16_CASE(64, 64, 8, 1);
DECL_FATTN_MMA_F16_CASE(64, 64, 2, 4);
DECL_FATTN_MMA_F16_CASE(64, 64, 8, 4);
#endif
DECL_FATTN_TILE_CASE(64, 64);
DECL_FATTN_TILE_CASE(80, 80);
DECL_FATTN_VEC_CASE( 64, GGML_TYPE_F16,  GGML_TYPE_F16);
DECL_FATTN_VEC_CASE( 64, GGML_TYPE_Q8_0, GGML_TYPE_Q8_0);
DECL_FATTN_VEC_CASE(128, GGML_TYPE_F16,  GGML_TYPE_Q4_0);

// what the launchers ask of the rest of ggml-cuda and of the CUDA runtime

static ggml_cuda_device_info devices;

const ggml_cuda_device_info & ggml_cuda_info() { return devices; }
void ggml_cuda_set_device(int) {}
int  ggml_cuda_get_device() { return 0; }

void ggml_cuda_error(const char * stmt, const char *, const char *, int, const char *) {
    fprintf(stderr, "%s failed\n", stmt);
    abort();
}

struct heap : public ggml_cuda_pool {
    void * alloc(size_t size, size_t * actual_size) override {
        *actual_size = size;
        return memset(malloc(size), 0xff, size); // NaN
    }
    void free(void * ptr, size_t) override { ::free(ptr); }
};

std::unique_ptr<ggml_cuda_pool> ggml_backend_cuda_context::new_pool_for_device(int, int) { return std::make_unique<heap>(); }
ggml_backend_cuda_context::~ggml_backend_cuda_context() {}

template <ggml_type type> static void to_half(const void * x, half * y, int64_t n, cudaStream_t) {
    std::vector<float> values(n);
    ggml_get_type_traits(type)->to_float(x, values.data(), n);
    for (int64_t i = 0; i < n; ++i) {
        y[i] = __float2half(values[i]);
    }
}

to_fp16_cuda_t ggml_get_to_fp16_cuda(ggml_type type) {
    return type == GGML_TYPE_Q8_0 ? to_half<GGML_TYPE_Q8_0> : type == GGML_TYPE_Q4_0 ? to_half<GGML_TYPE_Q4_0> : nullptr;
}

to_fp16_nc_cuda_t ggml_get_to_fp16_nc_cuda(ggml_type) { return nullptr; }

bool ggml_cuda_flash_attn_ext_mma_f16_shall_use_sparse(int, const ggml_tensor *, int, int) { return false; }
void ggml_cuda_flash_attn_ext_compact_mask(const ggml_tensor *, int32_t *, int32_t *, int32_t, int32_t, int32_t, cudaStream_t) { abort(); }

extern "C" cudaError_t  cudaGetLastError(void)           { return cudaSuccess; }
extern "C" cudaError_t  cudaEventDestroy(cudaEvent_t)    { return cudaSuccess; }
extern "C" cudaError_t  cudaStreamCreateWithFlags(cudaStream_t *, unsigned) { return cudaErrorNotSupported; } // the context has one
extern "C" const char * cudaGetErrorString(cudaError_t)  { return "no CUDA"; }

extern "C" cudaError_t  cudaLaunchKernelExC(const cudaLaunchConfig_t *, const void *, void **) { return cudaErrorNotSupported; }

extern "C" cudaError_t cudaFuncGetAttributes(cudaFuncAttributes * attributes, const void *) {
    *attributes = {}; // of no version that launches ahead of time
    return cudaSuccess;
}

extern "C" cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int * n, const void *, int, size_t, unsigned) {
    *n = 2;
    return cudaSuccess;
}

static ggml_tensor tensor(const void * data, ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2, size_t row) {
    ggml_tensor t = {};
    t.type  = type;
    t.data  = (void *) data;
    t.ne[0] = ne0, t.ne[1] = ne1, t.ne[2] = ne2, t.ne[3] = 1;
    t.nb[0] = ggml_type_size(type), t.nb[1] = row, t.nb[2] = row*ne1, t.nb[3] = row*ne1*ne2;
    return t;
}

typedef void (*launcher)(ggml_backend_cuda_context &, ggml_tensor *);

static launcher find(const struct cuda_attention & a) {
    const auto types = [&](ggml_type k, ggml_type v) { return a.type_k == k && a.type_v == v; };

#if SHIM_ARCH >= 750
    if (a.kernel == 2 && a.head == 64) { // columns: queries, and heads that share a KV head
        const bool packs = a.n_head/a.n_head_kv % 4 == 0 && a.n_kv % FATTN_KQ_STRIDE == 0;

        return !packs ? ggml_cuda_flash_attn_ext_mma_f16_case<64, 64, 8, 1> : a.n_tokens <= 2 ?
            ggml_cuda_flash_attn_ext_mma_f16_case<64, 64, 2, 4> : ggml_cuda_flash_attn_ext_mma_f16_case<64, 64, 8, 4>;
    }
#endif
    if (a.kernel == 1) {
        return a.head == 64 ? ggml_cuda_flash_attn_ext_tile_case<64, 64> : a.head == 80 ? ggml_cuda_flash_attn_ext_tile_case<80, 80> : nullptr;
    }
    if (a.kernel != 0 || a.n_kv % FATTN_KQ_STRIDE != 0) { // as where the kernel is chosen
        return nullptr;
    }
    if (a.head == 64 && types(GGML_TYPE_Q8_0, GGML_TYPE_Q8_0)) {
        return ggml_cuda_flash_attn_ext_vec_case<64, GGML_TYPE_Q8_0, GGML_TYPE_Q8_0>;
    }
    if (a.head == 64 && types(GGML_TYPE_F16, GGML_TYPE_F16)) {
        return ggml_cuda_flash_attn_ext_vec_case<64, GGML_TYPE_F16, GGML_TYPE_F16>;
    }
    if (a.head == 128 && types(GGML_TYPE_F16, GGML_TYPE_Q4_0)) {
        return ggml_cuda_flash_attn_ext_vec_case<128, GGML_TYPE_F16, GGML_TYPE_Q4_0>;
    }
    return nullptr;
}

extern "C" const char * cuda_attention(const struct cuda_attention * a) {
    const launcher launch = find(*a);
    if (launch == nullptr) {
        return "no kernel of this kind is compiled";
    }
    devices.device_count = 1;
    devices.devices[0].cc        = SHIM_ARCH;
    devices.devices[0].nsm       = a->n_sm;
    devices.devices[0].warp_size = 32;

    const ggml_type type_k = (ggml_type) a->type_k, type_v = (ggml_type) a->type_v;

    ggml_tensor q     = tensor(a->q,        GGML_TYPE_F32, a->head,   a->n_tokens, a->n_head,    4*a->head);
    ggml_tensor k     = tensor(a->k,        type_k,        a->head,   a->n_kv,     a->n_head_kv, ggml_row_size(type_k, a->head));
    ggml_tensor v     = tensor(a->v,        type_v,        a->head,   a->n_kv,     a->n_head_kv, ggml_row_size(type_v, a->head));
    ggml_tensor mask  = tensor(a->mask,     GGML_TYPE_F16, a->n_kv,   a->n_tokens, 1,            2*a->n_kv);
    ggml_tensor card  = tensor(a->log_card, GGML_TYPE_F16, a->n_kv,   1,           a->n_group,   2*a->card_row);
    ggml_tensor sinks = tensor(a->sinks,    GGML_TYPE_F32, a->n_head, 1,           1,            4*a->n_head);
    ggml_tensor dst   = tensor(nullptr,     GGML_TYPE_F32, a->head,   a->n_head,   a->n_tokens,  4*a->head);

    std::vector<char> result(ggml_nbytes(&dst) + 2*(ggml_nelements(&k) + ggml_nelements(&v)) + 1024); // K and V as halves behind it
    dst.data   = result.data();
    dst.op     = GGML_OP_FLASH_ATTN_EXT;
    dst.src[0] = &q;
    dst.src[1] = &k;
    dst.src[2] = &v;
    dst.src[3] = a->mask     ? &mask  : nullptr;
    dst.src[4] = a->sinks    ? &sinks : nullptr;
    dst.src[5] = a->log_card ? &card  : nullptr;

    const float params[] = { a->scale, a->max_bias, a->softcap };
    memcpy(dst.op_params, params, sizeof(params));

    ggml_backend_cuda_context ctx(0);
    ctx.streams[0][0] = (cudaStream_t) 1;
    launch(ctx, &dst);

    memcpy(a->dst, dst.data, ggml_nbytes(&dst));
    return nullptr;
}

extern "C" int32_t cuda_attention_launches(void) { return cuda_shim::n_launches_since(); }
