#pragma once

#include "llama-asymkv-rope.h"
#include "llama-kv-cache.h"
#include "llama-kv-cache-asym-hook.h"

#include "asymkv.h"
#include "asymkv-table.h"

#include <atomic>
#include <string>
#include <utility>
#include <vector>

//
// llama_kv_cache_asym: a cache of bounded size whose old slots are merged
//
// invariants, after every compression:
//   - live slots fill [0, n_slots): sinks, then merged slots, then the recent window, ascending in position
//   - every layer and group has the same slots; sinks and the recent window are exact and equal in all of them (sinks that
//     have moved up are rotated, and may stand elsewhere in each group)
//   - the cells' positions of merged slots are labels: ascending, at or before every token that any group holds there
//   - sum of cardinalities + lost tokens = tokens, in every group
//   - free slots have ln(cardinality) = 0 on the device
//
// one sequence, one stream
//

class llama_kv_cache_asym : public llama_kv_cache {
public:
    llama_kv_cache_asym(
            const llama_model & model,
          const llama_hparams & hparams,
                    ggml_type   type_k,
                    ggml_type   type_v,
                         bool   v_trans,
                         bool   offload,
                     uint32_t   kv_size,
                     uint32_t   n_ctx,
                     uint32_t   n_pad,
        const layer_filter_cb & filter,
        const  layer_reuse_cb & reuse,
          const asymkv_params & params);

    //
    // llama_memory_i
    //

    llama_memory_context_ptr init_full() override;
    llama_memory_context_ptr init_update(llama_context * lctx, bool optimize) override;

    bool get_can_shift() const override { return false; }

    void clear(bool data) override;

    bool seq_rm  (llama_seq_id seq_id,                              llama_pos p0, llama_pos p1) override;
    void seq_cp  (llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) override;
    void seq_keep(llama_seq_id seq_id)                                                          override;
    void seq_add (llama_seq_id seq_id,                              llama_pos p0, llama_pos p1, llama_pos shift) override;
    void seq_div (llama_seq_id seq_id,                              llama_pos p0, llama_pos p1, int d) override;

    void state_write(llama_io_write_i & io, llama_seq_id seq_id = -1, llama_state_seq_flags flags = 0) const override;
    void state_read (llama_io_read_i  & io, llama_seq_id seq_id = -1, llama_state_seq_flags flags = 0) override;

    //
    // llama_kv_cache
    //

    slot_info_vec_t prepare(const std::vector<llama_ubatch> & ubatches) override;

    llama_memory_context_ptr make_context(slot_info_vec_t sinfos, std::vector<llama_ubatch> ubatches) override;

    //
    // llama_kv_cache_asym specific API
    //

    // down to n_keep slots; called before a batch that does not fit. returns an asymkv_status; on failure the cache is unchanged, or, if it had to be, cleared
    int compress(llama_context * lctx, uint32_t n_keep);

    const asymkv_params & get_params() const { return params; }

    // whether the layers with a sliding window still hold what they need to go on after a cut
    bool can_cut_window(const llama_kv_cache & swa, llama_seq_id seq_id, llama_pos p0, llama_pos p1) const;

    void get_stats(asymkv_stats & stats) const;

    uint32_t n_layer() const { return asym_layers.size(); }
    uint32_t n_group(uint32_t layer) const { return asym_layers[layer].tables.size(); }

    // ascending in position
    std::vector<asymkv_slot> get_slots(uint32_t layer, uint32_t group) const;

    uint64_t get_n_lost(uint32_t layer, uint32_t group) const { return asym_layers[layer].tables[group].n_lost; }

    // one group's arrays, dequantized, outside of the device
    struct group_arrays {
        asymkv_group group = {};

        std::vector<float>    keys;
        std::vector<float>    values;
        std::vector<float>    queries;
        std::vector<int32_t>  query_positions;
        std::vector<double>   positions;
        std::vector<uint32_t> cardinalities;
        std::vector<float>    scores;
        std::vector<uint8_t>  is_protected;
        std::vector<uint8_t>  is_expired;
        std::vector<float>    sink_logits; // empty: none
    };

    void read_group(llama_context * lctx, uint32_t layer, uint32_t group, group_arrays & out) const;

    // the first invariant that does not hold; "": all do. with_device: reads it, which has to be idle
    std::string problem(bool with_device) const;

    //
    // graph_build API
    //

    // some slot stands for more than one token, or some token is gone: attention needs the cardinalities
    bool is_merged() const { return n_middle > 0; }

    ggml_tensor * build_attn(const llm_attn_hook & hook, bool merged) const;

    // nodes of a graph that build_attn adds where KV heads attend one after the other
    uint32_t n_nodes() const;

    //
    // input API
    //

    // rows of the query ring for the queries of the ubatch that are kept: of every `stride`-th token, the last one among them
    void     set_input_ring(ggml_tensor * dst, const llama_ubatch * ubatch) const;
    int64_t  n_observed(int64_t n_tokens) const;
    uint32_t observe_stride() const;

private:
    // what one group knows of its slots, for the packed slots [0, n_packed), and perhaps for some that were taken back; later
    // slots hold one token each
    struct group_table {
        asymkv::slot_table packed;
        uint64_t n_lost = 0;

        std::vector<ggml_fp16_t> log_card; // of all packed slots, until it is uploaded

        void pack(const std::vector<asymkv_slot> & slots);
    };

    struct asym_layer {
        uint32_t il;  // in the model
        uint32_t ikv; // in `layers`

        uint32_t n_head;
        uint32_t n_head_kv;
        uint32_t heads_per_group;
        uint32_t head_k;
        uint32_t head_v;

        ggml_tensor * log_card; // F16 [kv_size, n_group]
        ggml_tensor * q_ring;   // [head_k*n_head, observe], as the keys are stored: after RoPE and Hadamard

        // read from the first graph
        bool              captured = false;
        llama_asymkv_rope rope;
        float             kq_scale = 0.0f;
        ggml_tensor     * sinks    = nullptr; // of the model: F32 [n_head], null: none

        std::vector<group_table> tables;
    };

    // one layer's K and V on the host
    struct layer_bytes {
        std::vector<uint8_t> k;
        std::vector<uint8_t> v;
        std::vector<uint8_t> q;
        uint8_t       * k_data = nullptr; // of the vectors, or of the cache itself where the host can see it
        uint8_t       * v_data = nullptr;
        const uint8_t * q_data = nullptr; // of the query ring
        std::vector<float> sinks;         // [n_head], or empty
    };

    struct host_layer;  // a layer whose groups the host compresses
    struct host_worker; // a thread that compresses group after group

    const asymkv_params params;
    const uint32_t      n_ctx; // longest text

    // slots of the current text that the tables describe
    uint32_t n_packed = 0;

    // the part between sinks and recent window of the last compression: its slots and the tokens it stands for,
    // whose positions lie in [middle_pos0, middle_pos1]
    uint32_t  n_middle        = 0;
    uint64_t  n_middle_tokens = 0;
    llama_pos middle_pos0     = -1;
    llama_pos middle_pos1     = -1;

    // slots before the recent window stand elsewhere than their tokens did (asymkv_params.span)
    bool moved = false;

    // the context that decodes with this cache
    llama_context * owner = nullptr;

    // query ring: position of the query in each row, -1: none. mutable, since inputs are set through const caches
    mutable std::vector<llama_pos> ring_pos;
    mutable uint64_t               n_ring = 0;

    // filled by the graph hooks, which are const
    mutable std::vector<asym_layer> asym_layers;

    // bits of ggml_asymkv_ops that run natively: chosen once, when the cache is made
    uint32_t native_ops = 0;

    asymkv_stats counters = {};

    uint32_t n_live() const { return v_cells[0].get_used(); }
    uint64_t n_tokens() const { return (uint64_t) n_live() - n_middle + n_middle_tokens; }

    asym_layer & get_layer(int32_t il) const;

    // block size of the Hadamard transform of K, 0: none (llama_kv_cache::build_input_k_rot)
    uint32_t k_hadamard() const;

    bool has_native_attn() const { return (native_ops & GGML_ASYMKV_OPS_ATTN) != 0; }

    uint32_t choose_native_ops(bool offload) const;

    // the parts of build_attn
    void capture(const llm_attn_hook & hook, asym_layer & layer) const;
    void keep_queries(const llm_attn_hook & hook, const asym_layer & layer, bool merged) const;
    ggml_tensor * attend_folded (const llm_attn_hook & hook, const asym_layer & layer, ggml_tensor * log_card) const;
    ggml_tensor * attend_by_head(const llm_attn_hook & hook, const asym_layer & layer, ggml_tensor * log_card) const;

    void reset_tables();
    void upload_log_card(asym_layer & layer) const;

    // live cells, ascending in position
    std::vector<uint32_t> sorted_cells() const;

    // of these cells, as one group sees them
    std::vector<asymkv_slot> slots_of(const group_table & table, const std::vector<uint32_t> & cells) const;

    // beyond the horizon
    bool is_expired(const asymkv_slot & slot) const;

    // how many of the sinks, and of the recent tokens, are exact and protected
    std::pair<uint32_t, uint32_t> exact_ends(const std::vector<uint32_t> & order) const;

    std::string cells_problem() const;
    std::string table_problem(const asym_layer & layer, uint32_t group, const std::vector<uint32_t> & order, bool with_device) const;

    void read_layer(const asym_layer & layer, layer_bytes & bytes) const;
    std::vector<float> read_sinks(const asym_layer & layer) const;
    void fill_group(const asym_layer & layer, uint32_t group, const layer_bytes & bytes, const std::vector<uint32_t> & cells,
            const std::vector<asymkv_slot> & slots, group_arrays & out) const;

    void relabel_cells(const std::vector<uint32_t> & cells, uint32_t n_keep);

    // compression on the host (llama-kv-cache-asym-host.cpp)

    // the layers that have no tables yet, group by group on all threads. throws when it fails; is_written: when it is too late
    void compress_on_host(llama_context * lctx, const std::vector<uint32_t> & cells, uint32_t n_keep, std::vector<std::vector<group_table>> & tables, bool & is_written);

    void compress_host_group(const host_layer & work, uint32_t group, const std::vector<uint32_t> & cells, uint32_t n_keep, host_worker & worker) const;
    void store_host_group   (const host_layer & work, uint32_t group, uint32_t n_keep, host_worker & worker) const;

    // bytes that one thread of the host needs to compress one of the layer's groups after the other
    size_t host_worker_bytes(const asym_layer & layer, size_t n_slots, uint32_t n_keep) const;

    // compression where the cache is (llama-kv-cache-asym-device.cpp)
    struct device_layer;

    // fills the tables of the layers that it takes; throws when it fails. is_written: when it is too late to do nothing
    void compress_on_device(llama_context * lctx, const std::vector<uint32_t> & cells, uint32_t n_keep, std::vector<std::vector<group_table>> & tables, bool & is_written);

    bool has_device_plan(const std::vector<uint32_t> & cells) const;
    ggml_backend_t device_backend(llama_context * lctx, const asym_layer & layer) const;

    bool build_device_layer(const asym_layer & layer, const std::vector<uint32_t> & cells, uint32_t n_keep, device_layer & work) const;
    void set_device_inputs (const asym_layer & layer, const std::vector<uint32_t> & cells, uint32_t n_keep, const device_layer & work) const;
    void run_device_layer  (const asym_layer & layer, const std::vector<uint32_t> & cells, uint32_t n_keep, device_layer & work) const;
    void read_device_plan  (const asym_layer & layer, uint32_t group, const std::vector<uint32_t> & cells, uint32_t n_keep,
            const float * steps_i, const float * steps_j, const float * kept, const float * mass, device_layer & work) const;
};

class llama_kv_cache_asym_context : public llama_kv_cache_context {
public:
    // full cache, to reserve the largest graph
    llama_kv_cache_asym_context(llama_kv_cache_asym * kv);

    // batch
    llama_kv_cache_asym_context(llama_kv_cache_asym * kv, slot_info_vec_t sinfos, std::vector<llama_ubatch> ubatches);

    ggml_tensor * build_attn(const llm_attn_hook & hook) const override;

private:
    llama_kv_cache_asym * kv_asym;

    enum { FULL, BATCH } kind;

    bool is_merged() const;
};

// the merged cache if this thread asked for one (asymkv_set_next), else the stock one. throws where the model cannot be merged
llama_kv_cache * llama_kv_cache_create(
            const llama_model & model,
          const llama_hparams & hparams,
                    ggml_type   type_k,
                    ggml_type   type_v,
                         bool   v_trans,
                         bool   offload,
                         bool   unified,
                     uint32_t   kv_size,
                     uint32_t   n_seq_max,
                     uint32_t   n_pad,
                     uint32_t   n_swa,
               llama_swa_type   swa_type,
               llama_memory_t   mem_other,
        const llama_memory_i::layer_filter_cb & filter,
        const llama_memory_i::layer_reuse_cb  & reuse,
        const llama_memory_i::layer_share_cb  & share);

// the cache of the layers with a sliding window beside `base`: restored cell by cell if `base` is merged, else the stock one
llama_kv_cache * llama_kv_cache_create_window(
       const llama_kv_cache & base,
          const llama_model & model,
        const llama_hparams & hparams,
                  ggml_type   type_k,
                  ggml_type   type_v,
                       bool   v_trans,
                       bool   offload,
                       bool   unified,
                   uint32_t   kv_size,
                   uint32_t   n_seq_max,
                   uint32_t   n_pad,
                   uint32_t   n_swa,
             llama_swa_type   swa_type,
             llama_memory_t   mem_other,
        const llama_memory_i::layer_filter_cb & filter,
        const llama_memory_i::layer_reuse_cb  & reuse,
        const llama_memory_i::layer_share_cb  & share);

// whether interleaved SWA caches can lose [p0, p1): always in stock contexts; in merged ones, whose caller is promised a
// true answer, only if the sliding window before the cut is still there
bool llama_kv_cache_can_cut(const llama_kv_cache & base, const llama_kv_cache & swa, llama_seq_id seq_id, llama_pos p0, llama_pos p1);
