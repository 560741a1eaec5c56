#pragma once

#include "ggml.h"

#include "common/asymkv-dev-args.h"

#include <string.h>

// 2. compression of a cache (see ggml-asymkv.h for 1.): OBSERVE, PLAN and MERGE, whose kernels are in common/. All three have
//    the same sources and parameters, so that a backend launches all kernels alike:
//
//        src[0] k       [head_k*n_head_kv, kv_size]                     written by MERGE
//        src[1] v       [head_v*n_head_kv, kv_size], or transposed      "
//        src[2] q       [head_k*n_head, ring]        observed queries
//        src[3] q_rows  I32 [n_observed, 2]          rows of the ring; positions
//        src[4] cells   I32 [n_slots]                rows of k and v, ascending
//        src[5] slots   F32 [n_slots, 6, n_group]    position, rounded down; the rest; cardinality; mass so far; AKV_FREE, ...; history
//        src[6] freqs   F32 [n_rot/2], or NULL       radians per position
//        src[7] seen    F32 [seen, n_group]          OBSERVE's result; PLAN changes it
//        src[8] plan    F32 [plan, n_group]          PLAN's result
//        src[9] sinks   F32 [n_head], or NULL        learned attention sinks: logits; OBSERVE reads them
//
//    OBSERVE has neither seen nor plan, PLAN no plan. MERGE's result, I8 [bytes, n_group], is of no use to anybody: K and V are

// as in op_params, 14 of 16 words. the rest of akv_params is read from the sources
struct ggml_asymkv_compress_scalars {
    uint32_t n_keep;
    uint32_t first_group;
    uint32_t n_heads;
    uint32_t n_gqa;
    uint32_t head_k;
    uint32_t head_v;
    uint32_t hadamard;
    float    scale;
    float    softcap;
    uint32_t max_cardinality;
    float    decay;
    uint32_t first_index;
    uint8_t  score;
    uint8_t  key_weights;
    uint8_t  merges;
    uint8_t  evicts;
    uint8_t  rope_neox;
    uint8_t  v_trans;
    uint8_t  unused[2];
};

// what the kernels are called with; op is one of the three
static inline akv_params ggml_asymkv_compress_params(const ggml_tensor * op) {
    const ggml_tensor * k = op->src[0];
    const ggml_tensor * v = op->src[1];

    ggml_asymkv_compress_scalars s;
    memcpy(&s, op->op_params, sizeof(s));

    akv_params p;
    p.n_slots         = (uint32_t) op->src[4]->ne[0];
    p.n_keep          = s.n_keep;
    p.n_group         = (uint32_t) op->src[5]->ne[2];
    p.first_group     = s.first_group;
    p.n_heads         = s.n_heads;
    p.n_gqa           = s.n_gqa;
    p.n_observed      = (uint32_t) op->src[3]->ne[0];
    p.head_k          = s.head_k;
    p.head_v          = s.head_v;
    p.n_rot           = op->src[6] ? 2*(uint32_t) op->src[6]->ne[0] : 0;
    p.rope_neox       = s.rope_neox;
    p.hadamard        = s.hadamard;
    p.scale           = s.scale;
    p.softcap         = s.softcap;
    p.has_sinks       = op->src[9] != NULL;
    p.score           = s.score;
    p.key_weights     = s.key_weights;
    p.merges          = s.merges;
    p.evicts          = s.evicts;
    p.max_cardinality = s.max_cardinality;
    p.decay           = s.decay;
    p.first_index     = s.first_index;
    p.k_type          = (uint32_t) k->type;
    p.v_type          = (uint32_t) v->type;
    p.q_type          = (uint32_t) op->src[2]->type;
    p.k_row           = (uint32_t) k->nb[1];
    p.v_row           = s.v_trans ? 0 : (uint32_t) v->nb[1];
    p.v_channel       = s.v_trans ? (uint32_t) (k->ne[1]*v->nb[0]) : 0; // v is as long as k
    p.q_row           = (uint32_t) op->src[2]->nb[1];
    return p;
}

// of a device whose tensors' data are plain pointers
static inline akv_buffers ggml_asymkv_compress_buffers(const ggml_tensor * op) {
    akv_buffers b;
    b.k      = (uint8_t       *) op->src[0]->data;
    b.v      = (uint8_t       *) op->src[1]->data;
    b.q      = (const uint8_t *) op->src[2]->data;
    b.q_rows = (const int32_t *) op->src[3]->data;
    b.cells  = (const int32_t *) op->src[4]->data;
    b.slots  = (const float   *) op->src[5]->data;
    b.freqs  = (const float   *) (op->src[6] ? op->src[6]->data : NULL);
    b.seen   = (float         *) (op->src[7] ? op->src[7]->data : op->data);
    b.plan   = (float         *) (op->src[8] ? op->src[8]->data : op->src[7] ? op->data : NULL);
    b.rows   = (uint8_t       *) (op->src[8] ? op->data : NULL);
    b.sinks  = (const float   *) (op->src[9] ? op->src[9]->data : NULL);
    return b;
}

static inline bool ggml_asymkv_compress_type(enum ggml_type type, uint32_t head) {
    return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16 ||
        ((type == GGML_TYPE_Q8_0 || type == GGML_TYPE_Q4_0) && head % 32 == 0);
}

// whether the kernels take these sources. what they do not take is compressed on the host
static inline bool ggml_asymkv_compress_supported(const ggml_tensor * op) {
    const ggml_tensor * k = op->src[0];
    const ggml_tensor * v = op->src[1];

    ggml_asymkv_compress_scalars s;
    memcpy(&s, op->op_params, sizeof(s));

    // offsets are 32 bits wide, and numbers of slots and positions whole numbers in single precision
    const size_t max_bytes = 0xffffffffu;

    return ggml_asymkv_compress_type(k->type, s.head_k) && ggml_asymkv_compress_type(v->type, s.head_v) &&
        ggml_asymkv_compress_type(op->src[2]->type, s.head_k) && !(s.v_trans && ggml_is_quantized(v->type)) &&
        s.head_k <= AKV_MAX_HEAD && s.head_v <= AKV_MAX_HEAD && (s.hadamard & (s.hadamard - 1)) == 0 &&
        (s.hadamard == 0 || s.head_k % s.hadamard == 0) &&
        k->ne[1] < (1 << 23) && ggml_nbytes(k) < max_bytes && ggml_nbytes(v) < max_bytes && ggml_nbytes(op) < max_bytes &&
        akv_fits(ggml_asymkv_compress_params(op)) &&
        s.score != 3 && s.score <= AKV_SCORE_STREAMING && op->src[3]->ne[0] > 0;
}

// the sources, in the order above; those that an op does not have stay out
struct ggml_asymkv_compress_sources {
    ggml_tensor * k;
    ggml_tensor * v;
    ggml_tensor * q;
    ggml_tensor * q_rows;
    ggml_tensor * cells;
    ggml_tensor * slots;
    ggml_tensor * freqs;
    ggml_tensor * seen;
    ggml_tensor * plan;
    ggml_tensor * sinks;
};

// OBSERVE without seen and plan, PLAN without plan, MERGE with all
static inline ggml_tensor * ggml_asymkv_compress(ggml_context * ctx, const ggml_asymkv_compress_sources & src, const ggml_asymkv_compress_scalars & scalars) {
    static_assert(sizeof(scalars) <= GGML_MAX_OP_PARAMS, "the scalars do not fit into a tensor");

    ggml_tensor sources = {};
    memcpy(sources.src,       &src,     sizeof(src));
    memcpy(sources.op_params, &scalars, sizeof(scalars));

    const akv_params p = ggml_asymkv_compress_params(&sources);

    ggml_tensor * res =
        src.plan ? ggml_new_tensor_2d(ctx, GGML_TYPE_I8,  akv_rows_bytes(p),      p.n_group) :
        src.seen ? ggml_new_tensor_2d(ctx, GGML_TYPE_F32, akv_plan(p).n_floats, p.n_group) :
                   ggml_new_tensor_2d(ctx, GGML_TYPE_F32, akv_seen(p).n_floats, p.n_group);

    res->op = src.plan ? GGML_OP_ASYMKV_MERGE : src.seen ? GGML_OP_ASYMKV_PLAN : GGML_OP_ASYMKV_OBSERVE;
    memcpy(res->src,       &src,     sizeof(src));
    memcpy(res->op_params, &scalars, sizeof(scalars));

    return res;
}

// what the ops leave while they run, in bytes per group
static inline uint64_t ggml_asymkv_compress_bytes(const akv_params & p) {
    return 4*((uint64_t) akv_seen(p).n_floats + akv_plan(p).n_floats) + akv_rows_bytes(p);
}
