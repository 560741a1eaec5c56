#pragma once

// what the tests call (ctypes, tests/metal_shim.py): one attention on the device of metal-device.cpp, by ggml's own interface

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum metal_shim_result {
    METAL_SHIM_OK          = 0,
    METAL_SHIM_UNSUPPORTED = 1, // supports_op says no
    METAL_SHIM_FAILED      = 2, // metal_shim_error() says why
};

struct metal_shim_attention {
    int32_t flash;     // FLASH_ATTN_EXT, or SOFT_MAX of `q`
    int32_t type;      // of K and V: a ggml_type
    int32_t mask_type; // F16, or F32 for SOFT_MAX
    int32_t dk;
    int32_t dv;
    int32_t n_kv;    // slots in use
    int32_t n_slots; // of the cache: K, V and log_card are views of its first n_kv
    int32_t n_tokens;
    int32_t n_head;
    int32_t n_head_kv;
    int32_t n_group;        // rows of log_card
    int32_t n_kv_max;       // hint: at most so many slots of a row are not masked; 0: none
    int32_t written_before; // log_card is written by a node of the same graph
    float   scale;
    float   max_bias;
    float   softcap;

    const void  * q;        // F32 [dk, n_tokens, n_head], or the scores [n_kv, n_tokens, n_head]
    const void  * k;        // [dk*n_head_kv, n_slots]
    const void  * v;        // [dv*n_head_kv, n_slots]
    const void  * mask;     // [n_kv, n_tokens]; NULL: none
    const void  * sinks;    // F32 [n_head]; NULL: none
    const void  * log_card; // F16 [n_slots, n_group], or F32 if it is written before; NULL: none
    float       * result;   // [dv, n_head, n_tokens], or the probabilities
};

int metal_shim_attention(const struct metal_shim_attention * a);

// what the vec kernel is made for, instead of what the device's table says: queries of a threadgroup and head elements of a
// thread; 0 0: the table again
void metal_shim_vec_config(int n_queries, int n_elements);

uint32_t metal_shim_asymkv_ops(void);

const char * metal_shim_error(void);

// the names of all pipelines that ran so far, a line each
const char * metal_shim_dispatched(void);

struct ggml_backend * metal_shim_backend(void);

#ifdef __cplusplus
void metal_shim_rethrow(void); // what went wrong in a dispatch, if anything did
#endif

#ifdef __cplusplus
}
#endif
