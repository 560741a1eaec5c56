#pragma once

#include "ggml.h"
#include "ggml-backend.h"

// what our patches add to ggml, for whoever builds graphs or runs them. No new symbol is needed: all of it is inline
//
// 1. attention with cardinality: FLASH_ATTN_EXT and SOFT_MAX take one source more, log_card. A slot of the cache that stands
//    for c tokens has ln c there, which is added to its scores after scale, softcap and mask:
//
//        score = softcap(scale*q.k) + slope*mask + log_card
//
//    - F16, [n_kv, 1, n_group, 1], contiguous in dim 0; a view of a longer tensor, mostly. Finite and >= 0
//    - n_group is 1, or the number of KV heads: query head h reads row h/(n_head/n_group)
//    - what the mask forbids stays forbidden, and ALiBi's slope is for the mask alone

#ifdef __cplusplus
extern "C" {
#endif

// what a backend can do, as its registry answers when it is asked for the function of this name. A backend that does not
// answer can do nothing of this: ggml_backend_dev_supports_op() says no in its name, so that none ignores the source
#define GGML_ASYMKV_OPS_PROC "ggml_backend_asymkv_ops"

typedef uint32_t (*ggml_backend_asymkv_ops_t)(void);

enum ggml_asymkv_ops {
    GGML_ASYMKV_OPS_ATTN     = 1, // attention with log_card
    GGML_ASYMKV_OPS_COMPRESS = 2, // the ops that compress a cache
};

// the source itself, NULL: none
static inline struct ggml_tensor * ggml_asymkv_log_card(const struct ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_FLASH_ATTN_EXT: return op->src[5];
        case GGML_OP_SOFT_MAX:       return op->src[3];
        default:                     return NULL;
    }
}

static inline void ggml_asymkv_set_log_card(struct ggml_tensor * attn, struct ggml_tensor * log_card) {
    const bool is_flash = attn->op == GGML_OP_FLASH_ATTN_EXT;

    GGML_ASSERT(is_flash || attn->op == GGML_OP_SOFT_MAX);

    if (!log_card) {
        attn->src[is_flash ? 5 : 3] = NULL;
        return;
    }

    const int64_t n_kv   = is_flash ? attn->src[1]->ne[1] : attn->ne[0];
    const int64_t n_head = is_flash ? attn->src[0]->ne[2] : attn->ne[2];

    GGML_ASSERT(log_card->type == GGML_TYPE_F16 && log_card->nb[0] == sizeof(ggml_fp16_t));
    GGML_ASSERT(log_card->ne[0] == n_kv && log_card->ne[1] == 1 && log_card->ne[3] == 1);
    GGML_ASSERT(n_head % log_card->ne[2] == 0);
    GGML_ASSERT(!is_flash || log_card->ne[2] == 1 || log_card->ne[2] == attn->src[1]->ne[2]);

    attn->src[is_flash ? 5 : 3] = log_card;
}

// the row that query head h of n_head reads, where the data are the host's
static inline const ggml_fp16_t * ggml_asymkv_log_card_row(const struct ggml_tensor * log_card, int64_t h, int64_t n_head) {
    return (const ggml_fp16_t *) ((const char *) log_card->data + h/(n_head/log_card->ne[2])*log_card->nb[2]);
}

// bits of ggml_asymkv_ops: what an op needs beyond stock ggml
static inline uint32_t ggml_asymkv_needed_ops(const struct ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_ASYMKV_OBSERVE:
        case GGML_OP_ASYMKV_PLAN:
        case GGML_OP_ASYMKV_MERGE:
            return GGML_ASYMKV_OPS_COMPRESS;
        default:
            return ggml_asymkv_log_card(op) ? GGML_ASYMKV_OPS_ATTN : 0;
    }
}

// bits of ggml_asymkv_ops: what a device can do
static inline uint32_t ggml_asymkv_dev_ops(ggml_backend_dev_t dev) {
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(dev);

    // a device that stands for several others has no registry
    void * proc = reg ? ggml_backend_reg_get_proc_address(reg, GGML_ASYMKV_OPS_PROC) : NULL;

    return proc ? ((ggml_backend_asymkv_ops_t) proc)() : 0;
}

#ifdef __cplusplus
}
#endif
