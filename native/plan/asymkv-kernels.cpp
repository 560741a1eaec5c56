#include "asymkv-kernels.h"

#if defined(__GNUC__) && !defined(__clang__)
#    pragma GCC diagnostic ignored "-Wpsabi" // vectors are only passed to functions that are inlined
#endif

#include "asymkv-kernels-body.h"

#if defined(__x86_64__) && defined(__GNUC__)
#    define ASYMKV_X86
#endif

namespace asymkv {

namespace {

// the bodies are inlined into one function per instruction set; ROWS: rows of a product that fit into its registers
#define ASYMKV_KERNELS(NAME, TARGET, ROWS)                                                                                                      \
    TARGET void NAME##_products(const float * x, size_t x_row, size_t x_col, const float * m, size_t m_row, float * y, size_t y_row,            \
            uint32_t n_rows, uint32_t n_mid, uint32_t n, bool add) {                                                                            \
        body::products<ROWS>(x, x_row, x_col, m, m_row, y, y_row, n_rows, n_mid, n, add);                                                       \
    }                                                                                                                                           \
    TARGET void NAME##_distances(const float * x, size_t x_row, const float * m, size_t m_row, float * y, size_t y_row,                         \
            uint32_t n_rows, uint32_t n_mid, uint32_t n) {                                                                                      \
        body::distances<ROWS>(x, x_row, m, m_row, y, y_row, n_rows, n_mid, n);                                                                  \
    }                                                                                                                                           \
    TARGET void NAME##_softmax_top(float * s, float scale, float log_card, float * top, uint32_t n) {                                           \
        body::softmax_top(s, scale, log_card, top, n);                                                                                          \
    }                                                                                                                                           \
    TARGET void NAME##_softmax_exp(const float * s, float log_card, const float * top, float * p, float * sum, uint32_t n) {                    \
        body::softmax_exp(s, log_card, top, p, sum, n);                                                                                         \
    }                                                                                                                                           \
    TARGET double NAME##_softmax_end(float * s, float * p, const float * factor, const float * shift, uint32_t n) {                             \
        return body::softmax_end(s, p, factor, shift, n);                                                                                       \
    }                                                                                                                                           \
    TARGET double NAME##_information(const float * p, const float * d, const float * m, float * y, uint32_t n) {                                \
        return body::information(p, d, m, y, n);                                                                                                \
    }                                                                                                                                           \
    TARGET float NAME##_distance_sq(const float * x, const float * y, uint32_t n) {                                                             \
        return body::distance_sq(x, y, n);                                                                                                      \
    }                                                                                                                                           \
    TARGET double NAME##_unevenness(const float * pi, const float * pj, float ci, float cj, uint32_t n) {                                       \
        return body::unevenness(pi, pj, ci, cj, n);                                                                                             \
    }                                                                                                                                           \
    TARGET double NAME##_merge_change(const slot_rows & i, const slot_rows & j, const query_rows & q, const pair_terms & t, uint32_t n) {       \
        return body::merge_change(i, j, q, t, n);                                                                                               \
    }                                                                                                                                           \
    TARGET double NAME##_evict_change(const slot_rows & i, const query_rows & q, float norm, uint32_t n) {                                      \
        return body::evict_change(i, q, norm, n);                                                                                               \
    }                                                                                                                                           \
    TARGET void NAME##_merge_apply(const slot_rows & i, const slot_rows & j, const query_rows & q, const pair_terms & t, uint32_t n) {          \
        body::merge_apply(i, j, q, t, n);                                                                                                       \
    }                                                                                                                                           \
    TARGET void NAME##_evict_apply(const slot_rows & i, const query_rows & q, uint32_t n) {                                                     \
        body::evict_apply(i, q, n);                                                                                                             \
    }                                                                                                                                           \
    TARGET void NAME##_cos_sin(double delta, const float * freqs, float * cos, float * sin, uint32_t n) {                                       \
        body::cos_sin(delta, freqs, cos, sin, n);                                                                                               \
    }                                                                                                                                           \
    TARGET void NAME##_half_to_float(const uint16_t * x, float * y, size_t n) {                                                                 \
        body::half_to_float(x, y, n);                                                                                                           \
    }                                                                                                                                           \
    const kernel_table NAME##_table = {                                                                                                         \
        #NAME,                                                                                                                                  \
        NAME##_products, NAME##_distances, NAME##_softmax_top, NAME##_softmax_exp, NAME##_softmax_end, NAME##_information, NAME##_distance_sq, \
        NAME##_unevenness, NAME##_merge_change, NAME##_evict_change, NAME##_merge_apply, NAME##_evict_apply, NAME##_cos_sin,                    \
        NAME##_half_to_float,                                                                                                                   \
    };

ASYMKV_KERNELS(base, , 4)

#if defined(ASYMKV_X86)
ASYMKV_KERNELS(avx2,   __attribute__((target("avx2,fma"))), 4)
ASYMKV_KERNELS(avx512, __attribute__((target("avx2,fma,avx512f,avx512vl,avx512bw,avx512dq,prefer-vector-width=512"))), 8)
#endif

struct kernel_list {
    const kernel_table * tables[4] = {};

    kernel_list() {
        uint32_t n = 0;
#if defined(ASYMKV_X86)
        __builtin_cpu_init();
        const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        if (has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")) {
            tables[n++] = &avx512_table;
        }
        if (has_avx2) {
            tables[n++] = &avx2_table;
        }
#endif
        tables[n] = &base_table;
    }
};

const kernel_list & list() {
    static const kernel_list found;
    return found;
}

} // namespace

const kernel_table & kernels() {
    return *list().tables[0];
}

const kernel_table * const * kernels_all() {
    return list().tables;
}

} // namespace asymkv
