#pragma once

#include "asymkv-dev.h"

// what the kernels are called with, and where they leave what
//
// one call works on `n_group` groups of one layer. A group shares one plan: a KV head, or all KV heads of the layer. Slots
// are the live ones, ascending in position, called by their number.
//
//   OBSERVE  ring of queries, K, V        -> `seen`:  probabilities, their logarithms, value distances, mass
//   PLAN     seen (which it changes)      -> `plan`:  steps, slots that are kept, the members of each and their weights
//   MERGE    plan, K, V                   -> `rows`:  the kept slots' rows, and these back into K and V
//
// each is a few kernels (AKV_KERNELS), launched one after the other on one stream, every one with the same arguments:
//
//   akv_KERNEL(akv_buffers, AKV_PARAMS, AKV_LOCAL float * local, akv_place)
//
// with a grid of p.n_group x akv_tiles(p, GRID) blocks, of any number of threads that is at most AKV_MAX_THREADS and the
// same in a block, and akv_local_floats(p, n_threads) floats of shared memory. Nothing needs to be cleared before.
// Numbers of slots and cells in float arrays are exact: akv_fits() refuses what has more

#define AKV_MAX_THREADS 256u
#define AKV_TILE        256u // slots of a block of OBSERVE and of PLAN's first costs
#define AKV_SUB         16u  // slots whose keys or values a block holds in shared memory
#define AKV_MERGE_TILE  32u  // kept slots of a block of MERGE
#define AKV_PARTS       16u  // of a sum over the block
#define AKV_MAX_HEAD    512u // channels
#define AKV_SLOT_FIELDS 6u
#define AKV_PLAN_HEADER 8u

// what may happen to a slot
#define AKV_FREE      0.0f
#define AKV_PROTECTED 1.0f
#define AKV_EXPIRED   2.0f // beyond the horizon: where slots may leave, it leaves before all others

// kinds of grid: blocks per group
enum {
    AKV_GRID_ONE   = 0,
    AKV_GRID_HEADS = 1, // a KV head each
    AKV_GRID_SLOTS = 2, // AKV_TILE slots each
    AKV_GRID_KEPT  = 3, // AKV_MERGE_TILE kept slots each
};

// what runs in which order: X(op, kernel, grid). A kernel for which akv_runs() is false may be skipped
#define AKV_OBSERVE_KERNELS(X)                \
    X(OBSERVE, observe_queries, AKV_GRID_HEADS) \
    X(OBSERVE, observe_logits,  AKV_GRID_SLOTS) \
    X(OBSERVE, observe_probs,   AKV_GRID_SLOTS) \
    X(OBSERVE, observe_outputs, AKV_GRID_HEADS) \
    X(OBSERVE, observe_dists,   AKV_GRID_SLOTS)

#define AKV_PLAN_KERNELS(X)                   \
    X(PLAN, plan_totals, AKV_GRID_ONE)          \
    X(PLAN, plan_slots,  AKV_GRID_SLOTS)        \
    X(PLAN, plan_costs,  AKV_GRID_SLOTS)        \
    X(PLAN, plan_greedy, AKV_GRID_ONE)

#define AKV_MERGE_KERNELS(X)                  \
    X(MERGE, merge_rows,  AKV_GRID_KEPT)        \
    X(MERGE, merge_store, AKV_GRID_KEPT)

// as in asymkv.h
enum {
    AKV_SCORE_MASS      = 0,
    AKV_SCORE_OUTPUT    = 1,
    AKV_SCORE_EXACT     = 2,
    AKV_SCORE_H2O       = 4,
    AKV_SCORE_SNAPKV    = 5,
    AKV_SCORE_TOVA      = 6,
    AKV_SCORE_STREAMING = 7,
};
enum {
    AKV_KEYS_MEAN    = 0,
    AKV_KEYS_MASS    = 1,
    AKV_KEYS_SLIMMER = 2,
    AKV_KEYS_FISHER  = 3,
};

// as in ggml.h
enum {
    AKV_TYPE_F32  = 0,
    AKV_TYPE_F16  = 1,
    AKV_TYPE_Q4_0 = 2,
    AKV_TYPE_Q8_0 = 8,
    AKV_TYPE_BF16 = 30,
};

// AKV_CDEF begin

struct akv_params {
    uint32_t n_slots;     // live
    uint32_t n_keep;      // less than that
    uint32_t n_group;     // of this call
    uint32_t first_group; // of this call, in the layer
    uint32_t n_heads;     // KV heads of a group
    uint32_t n_gqa;       // query heads of a KV head
    uint32_t n_observed;  // tokens whose queries are observed; at least 1
    uint32_t head_k;      // channels of a key
    uint32_t head_v;      // "            value

    uint32_t n_rot;       // rotated channels; 0: no RoPE
    uint32_t rope_neox;   // pairs are (t, t + n_rot/2); else (2t, 2t + 1)
    uint32_t hadamard;    // block of the Hadamard transform that K and the queries went through; 0: none
    float    scale;       // of q.k
    float    softcap;     // 0: none
    uint32_t has_sinks;   // query heads have learned attention sinks

    uint32_t score;           // AKV_SCORE_*
    uint32_t key_weights;     // AKV_KEYS_*
    uint32_t merges;          // 0: only evict
    uint32_t evicts;          // 0: only merge
    uint32_t max_cardinality; // 0: none
    float    decay;           // AKV_SCORE_MASS; 0: none
    uint32_t first_index;     // slots that are protected at the front, for decay

    uint32_t k_type;    // AKV_TYPE_*
    uint32_t v_type;
    uint32_t q_type;
    uint32_t k_row;     // bytes from cell to cell
    uint32_t v_row;     // "
    uint32_t v_channel; // bytes from channel to channel where V is transposed; 0: rows
    uint32_t q_row;     // bytes from row to row of the ring
};

// AKV_CDEF end

struct akv_buffers {
    AKV_GLOBAL uint8_t       * k;      // the layer's K: heads in rows of cells
    AKV_GLOBAL uint8_t       * v;      // "       V, in rows or transposed
    AKV_GLOBAL const uint8_t * q;      // ring of queries: all query heads in a row
    AKV_GLOBAL const int32_t * q_rows; // [2][n_observed] row in the ring; position of the query
    AKV_GLOBAL const int32_t * cells;  // [n_slots] where a slot's rows are. ascending
    AKV_GLOBAL const float   * slots;  // [n_group][AKV_SLOT_FIELDS][n_slots] position, rounded down; the rest of it; cardinality;
                                       // attention mass so far, weighed; AKV_FREE, ...; history, weighed
    AKV_GLOBAL const float   * freqs;  // [n_rot/2] radians per position
    AKV_GLOBAL float         * seen;   // akv_seen_layout()
    AKV_GLOBAL float         * plan;   // akv_plan_layout()
    AKV_GLOBAL uint8_t       * rows;   // akv_rows_bytes()
    AKV_GLOBAL const float   * sinks;  // [query heads of the layer] logit of each one's sink; not read without has_sinks
};

// where a thread is
struct akv_place {
    uint32_t thread;
    uint32_t n_threads; // of the block
    uint32_t group;     // the block's
    uint32_t tile;      // "
};

//
// sizes and layouts: offsets in floats, within one group. rows: x = head*n_queries + query
//

AKV_SHARED uint32_t akv_n_queries(AKV_PARAMS p) { return p.n_observed*p.n_gqa; }
AKV_SHARED uint32_t akv_n_rows   (AKV_PARAMS p) { return p.n_heads*akv_n_queries(p); }
AKV_SHARED uint32_t akv_n_tiles  (AKV_PARAMS p) { return (p.n_slots + AKV_TILE - 1)/AKV_TILE; }

AKV_SHARED bool akv_keeps_rows(AKV_PARAMS p) {
    return p.score == AKV_SCORE_EXACT || p.score == AKV_SCORE_OUTPUT || p.score == AKV_SCORE_TOVA;
}

AKV_SHARED bool akv_wants_fisher(AKV_PARAMS p) { return p.merges != 0 && p.key_weights == AKV_KEYS_FISHER; }
AKV_SHARED bool akv_wants_mean  (AKV_PARAMS p) { return p.merges != 0 && p.key_weights == AKV_KEYS_SLIMMER; }

// value distances, query by query
AKV_SHARED bool akv_wants_dists(AKV_PARAMS p) { return p.score == AKV_SCORE_EXACT || akv_wants_fisher(p); }

AKV_SHARED bool akv_wants_values(AKV_PARAMS p) {
    return akv_wants_dists(p) || p.score == AKV_SCORE_OUTPUT || akv_wants_mean(p);
}

AKV_SHARED uint32_t akv_tiles(AKV_PARAMS p, uint32_t grid) {
    return grid == AKV_GRID_HEADS ? p.n_heads :
           grid == AKV_GRID_SLOTS ? akv_n_tiles(p) :
           grid == AKV_GRID_KEPT  ? (p.n_keep + AKV_MERGE_TILE - 1)/AKV_MERGE_TILE : 1;
}

AKV_SHARED uint32_t akv_local_floats(AKV_PARAMS p, uint32_t n_threads) {
    const uint32_t head = p.head_k > p.head_v ? p.head_k : p.head_v;
    const uint32_t sums = 4*(n_threads + AKV_PARTS);
    const uint32_t rows = AKV_SUB*head;
    return rows > sums ? rows : sums;
}

// AKV_CDEF begin

struct akv_seen_layout {
    uint32_t mass;      // [n_slots] attention mass, summed over rows
    uint32_t prob;      // [n_slots][n_rows] a_i(q)
    uint32_t log_prob;  // [n_slots][n_rows] ln(a_i(q)/c_i), not below AKV_LOG_ZERO
    uint32_t dist_sq;   // [n_slots][n_rows] |v_i - o(q)|^2
    uint32_t out_norm;  // [n_rows] |o(q)|
    uint32_t values;    // [n_slots][n_heads][head_v]
    uint32_t fisher;    // [n_slots][n_heads][head_k] sum over queries of a_i^2 |v_i - o|^2 q[ch]^2
    uint32_t queries;   // [n_heads][head_k][n_queries]
    uint32_t query_sq;  // " squared, for fisher
    uint32_t top;       // [n_tiles][n_rows] largest logit of a tile
    uint32_t sum;       // [n_tiles][n_rows] sum of its exponentials
    uint32_t out;       // [n_tiles][n_heads][head_v][n_queries] outputs; the first tile's, of all slots
    uint32_t n_floats;
};

// AKV_CDEF end

AKV_SHARED akv_seen_layout akv_seen(AKV_PARAMS p) {
    const uint32_t n     = p.n_slots;
    const uint32_t rows  = akv_n_rows(p);
    const uint32_t tiles = akv_n_tiles(p);

    akv_seen_layout s;
    uint32_t x = 0;
    s.mass     = x; x += n;
    s.prob     = x; x += n*rows;
    s.log_prob = x; x += n*rows;
    s.dist_sq  = x; x += akv_wants_dists (p) ? n*rows : 0;
    s.out_norm = x; x += akv_wants_dists (p) ? rows : 0;
    s.values   = x; x += akv_wants_values(p) ? n*p.n_heads*p.head_v : 0;
    s.fisher   = x; x += akv_wants_fisher(p) ? n*p.n_heads*p.head_k : 0;
    s.queries  = x; x += rows*p.head_k;
    s.query_sq = x; x += akv_wants_fisher(p) ? rows*p.head_k : 0;
    s.top      = x; x += tiles*rows;
    s.sum      = x; x += tiles*rows;
    s.out      = x; x += akv_wants_dists (p) ? tiles*rows*p.head_v : 0;
    s.n_floats = x;
    return s;
}

// AKV_CDEF begin

struct akv_plan_layout {
    uint32_t header;      // [AKV_PLAN_HEADER] steps that were done, merges, sum of the slots' mass
    uint32_t op_i;        // [n_slots - n_keep] the steps: the slot that takes in its right neighbour, or leaves
    uint32_t op_j;        // " the neighbour; -1: none
    uint32_t op_w;        // " weight of the left key (for fisher, of channels that nothing is known of)
    uint32_t op_share;    // " share of the left value
    uint32_t op_cost;     // "
    uint32_t kept;        // [n_keep] ascending
    uint32_t member_next; // [n_slots] the slot after this one in the list of those that became one; -1: none
    uint32_t weight_k;    // [n_slots] of a member's key
    uint32_t weight_v;    // [n_slots] of a member's value
    uint32_t pos;         // [n_slots] of what has become of it: rounded down
    uint32_t pos_rest;    // [n_slots] the rest
    uint32_t card;        // [n_slots]
    uint32_t score;       // [n_slots]
    uint32_t history;     // [n_slots] what earlier compressions saw, weighed
    uint32_t cost_merge;  // [n_slots] with the right neighbour; AKV_HUGE: not allowed
    uint32_t cost_evict;  // [n_slots] "
    uint32_t prev;        // [n_slots] live neighbours; -1: none
    uint32_t next;        // [n_slots]
    uint32_t live;        // [n_slots]
    uint32_t member_last; // [n_slots]
    uint32_t norm;        // [n_slots][n_heads] |v|
    uint32_t dist;        // [n_slots][n_heads] |v - v of the right neighbour|^2
    uint32_t far;         // [n_slots] |v - mean value|_1, of slimmer
    uint32_t info;        // [n_slots] sum of fisher
    uint32_t factor;      // [n_rows] a probability is prob*factor
    uint32_t mean;        // [n_heads][head_v] mean value, of slimmer
    uint32_t n_floats;
};

// AKV_CDEF end

AKV_SHARED akv_plan_layout akv_plan(AKV_PARAMS p) {
    const uint32_t n     = p.n_slots;
    const uint32_t steps = p.n_slots - p.n_keep;

    akv_plan_layout s;
    uint32_t x = 0;
    s.header      = x; x += AKV_PLAN_HEADER;
    s.op_i        = x; x += steps;
    s.op_j        = x; x += steps;
    s.op_w        = x; x += steps;
    s.op_share    = x; x += steps;
    s.op_cost     = x; x += steps;
    s.kept        = x; x += p.n_keep;
    s.member_next = x; x += n;
    s.weight_k    = x; x += n;
    s.weight_v    = x; x += n;
    s.pos         = x; x += n;
    s.pos_rest    = x; x += n;
    s.card        = x; x += n;
    s.score       = x; x += n;
    s.history     = x; x += n;
    s.cost_merge  = x; x += n;
    s.cost_evict  = x; x += n;
    s.prev        = x; x += n;
    s.next        = x; x += n;
    s.live        = x; x += n;
    s.member_last = x; x += n;
    s.norm        = x; x += n*p.n_heads;
    s.dist        = x; x += n*p.n_heads;
    s.far         = x; x += n;
    s.info        = x; x += n;
    s.factor      = x; x += akv_n_rows(p);
    s.mean        = x; x += p.n_heads*p.head_v;
    s.n_floats    = x;
    return s;
}

// of `n` channels in a row
AKV_SHARED uint32_t akv_row_bytes(uint32_t type, uint32_t n) {
    return type == AKV_TYPE_F32 ? 4*n : type == AKV_TYPE_Q8_0 ? n/32*34 : type == AKV_TYPE_Q4_0 ? n/32*18 : 2*n;
}

// the kept slots' rows of one group: keys, then values
AKV_SHARED uint32_t akv_rows_values(AKV_PARAMS p) {
    return (p.n_keep*akv_row_bytes(p.k_type, p.n_heads*p.head_k) + 15)/16*16;
}
AKV_SHARED uint32_t akv_rows_bytes(AKV_PARAMS p) {
    return akv_rows_values(p) + (p.n_keep*akv_row_bytes(p.v_type, p.n_heads*p.head_v) + 15)/16*16;
}

// whether all offsets fit into 32 bits, and numbers of slots into single precision
AKV_SHARED bool akv_fits(AKV_PARAMS p) {
    const float rows   = (float) akv_n_rows(p);
    const float heads  = (float) p.n_heads*(float) (p.head_k + p.head_v);
    const float floats = (float) p.n_slots*(3.0f*rows + heads + 32.0f) + rows*(float) (2*p.head_k + 4 + akv_n_tiles(p)*(p.head_v + 2));
    return floats < 5e8f && p.n_slots < (1u << 23);
}
