// asymkv: a bounded KV cache for llama.cpp that merges adjacent slots
//
// Merging is asymmetric (AsymKV, NeurIPS 2025, arXiv 2506.05410): of two adjacent slots the keys become one well-chosen
// key, the values their mean by cardinality, and the new slot counts for both: attention adds ln(cardinality) to its
// score ("locally merged attention").
//
// Conventions
//   - a "slot" is one row of the KV cache; its "cardinality" is the number of tokens that it stands for
//   - every function returns an asymkv_status; on failure asymkv_last_error() holds one sentence, per thread
//   - structs that cross this interface begin with their own size, so that either side can be newer
//   - no function aborts on bad input, and no C++ exception leaves this interface
//   - cffi parses this file: keep to plain declarations between the ASYMKV_CDEF marks

#ifndef ASYMKV_H
#define ASYMKV_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && !defined(__MINGW32__)
#    ifdef LLAMA_BUILD
#        define ASYMKV_API __declspec(dllexport)
#    else
#        define ASYMKV_API __declspec(dllimport)
#    endif
#else
#    define ASYMKV_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

// ASYMKV_CDEF begin

struct llama_model;
struct llama_context;

enum asymkv_status {
    ASYMKV_OK              =  0,
    ASYMKV_ERR_PARAMS      = -1, // a parameter is out of range
    ASYMKV_ERR_UNSUPPORTED = -2, // this model, or this context, cannot be merged
    ASYMKV_ERR_NO_CACHE    = -3, // the context was made without asymkv
    ASYMKV_ERR_FAILED      = -4, // out of memory, or a backend failed
};

// what an operation (merge or evict) costs: the cheapest one is done first
enum asymkv_score {
    ASYMKV_SCORE_MASS   = 0, // observed attention mass of the pair x its cardinality (the paper)
    ASYMKV_SCORE_OUTPUT = 1, // output change of forcing equal attention per token on the pair
    ASYMKV_SCORE_EXACT  = 2, // output change itself, of merging the pair and of evicting a slot
    ASYMKV_SCORE_RANDOM = 3, // a random order: the control that every other score must beat

    // these only evict: the slots' order is fixed when a compression begins
    ASYMKV_SCORE_H2O       = 4, // least accumulated attention mass first (arXiv 2306.14048)
    ASYMKV_SCORE_SNAPKV    = 5, // least mass of the observed queries, max-pooled over 7 slots (arXiv 2404.14469)
    ASYMKV_SCORE_TOVA      = 6, // least mass of the last query (arXiv 2401.06104)
    ASYMKV_SCORE_STREAMING = 7, // oldest first (arXiv 2309.17453)
    ASYMKV_SCORE_KEYDIFF   = 8, // key most like the mean key first (arXiv 2504.15364)
};

// whether slots may be dropped
enum asymkv_evict {
    ASYMKV_EVICT_NEVER = 0, // only merge
    ASYMKV_EVICT_TOO   = 1, // `exact`: the cheaper of merging and evicting; other scores do what they do
    ASYMKV_EVICT_ONLY  = 2, // never merge: `exact` and `random`, and the scores that only evict
};

// how the two keys of a merge are weighed
enum asymkv_key_weights {
    ASYMKV_KEYS_MEAN    = 0, // cardinality
    ASYMKV_KEYS_MASS    = 1, // observed attention mass
    ASYMKV_KEYS_SLIMMER = 2, // KVSlimmer (arXiv 2603.00907): forward-only second derivatives
    ASYMKV_KEYS_FISHER  = 3, // AsymKV's Fisher diagonal, per channel, from the observed queries
};

enum { ASYMKV_SPAN_TRAINED = 0x7fffffff };

// what a patched ggml does in ops of its own; all else, and all in a stock ggml, is composed of stock ops (the portable path)
enum asymkv_native {
    ASYMKV_NATIVE_ATTN     = 1, // attention adds ln(cardinality) inside its kernels
    ASYMKV_NATIVE_COMPRESS = 2, // some layers' caches are compressed on their device
};

struct asymkv_params {
    size_t   size;            // sizeof(struct asymkv_params)
    uint32_t budget;          // slots that are left after a compression
    uint32_t room;            // slots kept for what comes next: the longest batch; capacity = budget + room, rounded up to 256
    uint32_t sinks;           // first tokens, never merged
    uint32_t recent;          // last tokens, never merged
    uint32_t observe;         // queries kept per layer, whose attention decides: of every (recent/observe)-th of the last tokens; at most `recent`
    int32_t  score;           // enum asymkv_score
    int32_t  key_weights;     // enum asymkv_key_weights
    int32_t  per_head;        // 1: every KV head plans for itself; 0: all heads of a layer share one plan (the paper)
    int32_t  evict;           // enum asymkv_evict
    uint32_t max_cardinality; // 0: none; else cardinalities are clipped here, as the paper's code does at 5
    float    decay;           // `mass` only. 0: none; else (1 to 2^24) divide scores by exp(i / decay), i = slots after the sinks
    float    accumulate;      // weight of the scores of earlier compressions, in [0, 1]
    uint64_t seed;            // `random` only
    uint32_t span;            // 0: positions stay as they are; else the most positions that slots and the next batch may span:
                              // where they would span more, all before the recent window moves up. ASYMKV_SPAN_TRAINED: the
                              // context that the model was trained for
    float    history;         // `exact` only: weight of what earlier queries saw of a slot, per compression, at most 1000; 0: none
    uint32_t horizon;         // 0: none; else slots whose last token lies further back than this many tokens leave before all others
};

struct asymkv_stats {
    size_t   size;             // sizeof(struct asymkv_stats)
    uint64_t n_tokens;         // tokens that the cache has read and that were not removed again
    uint32_t n_slots;          // live slots (equal in all layers and heads)
    uint32_t n_capacity;       // allocated slots
    uint32_t budget;
    uint32_t n_layer;          // merged layers
    uint32_t n_group;          // plans per layer: 1, or the number of KV heads (the largest one, where layers differ)
    uint32_t n_head_kv;
    uint64_t n_compressions;
    uint64_t n_merges;         // summed over layers and groups
    uint64_t n_evictions;      // "
    uint64_t kv_bytes;         // K and V, as allocated
    uint64_t table_bytes;      // cardinalities, query ring and host tables, as they are now: these are coded
    uint64_t stock_kv_bytes;   // K and V of a stock cache of n_ctx slots
    uint64_t t_observe_us;     // where a device compresses: all three
    uint64_t t_plan_us;
    uint64_t t_merge_us;
    uint64_t t_compress_us;    // all of a compression, wall clock
    uint32_t native_ops;       // enum asymkv_native: what this cache does with ops of its own inside ggml
    uint64_t n_device_compressions; // of n_compressions: those that the device of the cache did
};

// one live slot as one group (a KV head, or a layer) sees it
struct asymkv_slot {
    double   position;    // where the key stands; real-valued after a merge
    int32_t  first;       // first and last position of the tokens it stands for
    int32_t  last;
    uint32_t cardinality;
    float    score;       // accumulated attention mass
};

// the arrays of one group, without any context: what the planner reads
struct asymkv_group {
    size_t   size;
    uint32_t n_slots;
    uint32_t n_heads;      // KV heads in this group
    uint32_t n_queries;    // observed queries per KV head (tokens x query heads per KV head)
    uint32_t head_k;       // channels of a key
    uint32_t head_v;       // channels of a value
    uint32_t n_rot;        // rotated channels; 0: no RoPE
    int32_t  rope_neox;    // 1: channel c is rotated with c + n_rot/2; 0: 2c with 2c + 1
    float    scale;        // attention scores are scale * q.k
    float    softcap;      // 0: none; else softcap * tanh(score / softcap)
    const float    * keys;            // [n_slots][n_heads][head_k], after RoPE
    const float    * values;          // [n_slots][n_heads][head_v]
    const float    * queries;         // [n_heads][n_queries][head_k], after RoPE
    const int32_t  * query_positions; // [n_queries]; a query sees the slots at or before its position
    const double   * positions;       // [n_slots], ascending
    const uint32_t * cardinalities;   // [n_slots]
    const float    * scores;          // [n_slots], accumulated attention mass
    const uint8_t  * is_protected;    // [n_slots]
    const float    * rope_freqs;      // [n_rot/2], radians per position
    const uint8_t  * is_expired;      // [n_slots], beyond the horizon: leaves first if it is not protected. null: none is
    const float    * sink_logits;     // [n_heads][n_queries] learned attention sinks: a score that takes part in the softmax
                                      // and has no value; -infinity, or a null pointer: none
};

// one step of a plan: slot `i` takes in its right neighbour `j` (merge), or leaves (evict, j = UINT32_MAX)
struct asymkv_op {
    uint32_t i;
    uint32_t j;
    double   cost;
};

// what asymkv_compress_group writes; a null pointer is skipped
struct asymkv_result {
    size_t   size;
    uint32_t n_ops;
    uint32_t n_merges;
    uint32_t n_evictions;
    float    * mass;          // [n_slots] attention mass over the observed queries
    double   * cost_merge;    // [n_slots] before the first step, of slot i with its right neighbour; +inf: not allowed
    double   * cost_evict;    // [n_slots] "
    struct asymkv_op * ops;   // [n_slots - n_keep]
    uint32_t * kept;          // [n_keep] the slots that are left, as indices before
    float    * keys;          // [n_keep][n_heads][head_k]
    float    * values;        // [n_keep][n_heads][head_v]
    double   * positions;     // [n_keep]
    uint32_t * cardinalities; // [n_keep]
    float    * scores;        // [n_keep]
};

ASYMKV_API const char * asymkv_last_error(void);

// sizeof of the structs above, in the order they appear; for binding layers to check their own layout
ASYMKV_API void asymkv_struct_sizes(size_t * params, size_t * stats, size_t * slot, size_t * group, size_t * op, size_t * result);

// defaults: budget 2048, room 512, sinks 4, recent 64, observe 32, exact, fisher, per head, evict, accumulate 0.95, history 0.15
ASYMKV_API void asymkv_params_init(struct asymkv_params * params);
ASYMKV_API int  asymkv_params_check(const struct asymkv_params * params);

// ASYMKV_OK if the model can be merged this way; else the reason in asymkv_last_error()
ASYMKV_API int  asymkv_model_check(const struct llama_model * model, const struct asymkv_params * params);

// names of the architectures that llama.cpp knows, numbered from 0; null: there are no more
ASYMKV_API const char * asymkv_architecture(uint32_t i);

// the next cache made in this thread is a merged one. the wish stays until a cache takes it: take it back with NULL after
// making the context, or a context that failed, or whose architecture has other caches, leaves it to the next one
ASYMKV_API int  asymkv_set_next(const struct asymkv_params * params);

//
// a context made that way. not thread-safe with llama_decode on the same context, like all of llama.cpp
//

ASYMKV_API int asymkv_get_params(struct llama_context * ctx, struct asymkv_params * params);
ASYMKV_API int asymkv_get_stats (struct llama_context * ctx, struct asymkv_stats * stats);

// compress now, down to n_keep slots (0: the budget); does nothing when that few are live
ASYMKV_API int asymkv_compress(struct llama_context * ctx, uint32_t n_keep);

// live slots of one group, ascending in position; writes at most n_max, returns how many there are or an asymkv_status
ASYMKV_API int asymkv_slots(struct llama_context * ctx, uint32_t layer, uint32_t group, struct asymkv_slot * slots, uint32_t n_max);

// tokens that one group no longer counts: evicted, or clipped off by max_cardinality
ASYMKV_API int asymkv_n_lost(struct llama_context * ctx, uint32_t layer, uint32_t group, uint64_t * n_lost);

// the group's arrays, dequantized. call with null pointers to learn the sizes, then with buffers of those sizes
ASYMKV_API int asymkv_read_group(struct llama_context * ctx, uint32_t layer, uint32_t group, struct asymkv_group * out);

// whether all invariants of the cache hold; if not, asymkv_last_error() names the first that does not. slow: for tests
ASYMKV_API int asymkv_check(struct llama_context * ctx);

//
// no context needed
//

// enum asymkv_native: what the loaded ggml's devices can all do, and ASYMKV_NATIVE_OPS=0 does not forbid; a cache may use less
ASYMKV_API uint32_t asymkv_native_ops(void);

// observe, plan and merge one group down to n_keep slots
ASYMKV_API int asymkv_compress_group(const struct asymkv_params * params, const struct asymkv_group * group, uint32_t n_keep, struct asymkv_result * result);

// ASYMKV_CDEF end

#ifdef __cplusplus
}
#endif

#endif // ASYMKV_H
