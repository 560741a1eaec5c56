#include "llama-kv-cache-asym.h"

#include "llama-asymkv-model.h"
#include "llama-asymkv-native.h"
#include "llama-asymkv-next.h"
#include "llama-context.h"
#include "llama-impl.h"
#include "llama-model.h"

#include "asymkv-params.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <stdexcept>

//
// llama_kv_cache_create
//

// with attention sinks the heads attend one by one (attend_by_head), from views that begin at each one's rows
static bool is_misaligned(ggml_backend_dev_t dev, size_t row_size) {
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(dev);

    return reg && strcmp(ggml_backend_reg_name(reg), "Vulkan") == 0 && row_size % 64 != 0;
}

static std::string cache_problem(
          const llama_model & model,
                  ggml_type   type_k,
                  ggml_type   type_v,
                       bool   offload,
                   uint32_t   n_seq_max,
             llama_memory_t   mem_other,
        const asymkv_params & params,
        const llama_memory_i::layer_filter_cb & filter) {
    const std::string problem = llama_asymkv_model_problem(model);
    if (!problem.empty()) {
        return problem;
    }
    if (n_seq_max != 1) {
        return "a merged cache holds one sequence, but n_seq_max is " + std::to_string(n_seq_max) + ": use one context per sequence";
    }
    if (mem_other) {
        return "a merged cache cannot be shared between two contexts";
    }
    if (params.span == ASYMKV_SPAN_TRAINED && model.hparams.n_ctx_train < 2*((uint64_t) params.recent + params.room)) {
        return "compact positions need a model that was trained for " + std::to_string(2*((uint64_t) params.recent + params.room)) +
            " tokens or more with " + std::to_string(params.recent) + " recent tokens and batches of " + std::to_string(params.room) +
            ", this one was for " + std::to_string(model.hparams.n_ctx_train) + ": lower recent or the batch size, or keep positions original";
    }
    uint32_t n_merged = 0;
    for (uint32_t il = 0; il < model.hparams.n_layer(); ++il) {
        if (!model.hparams.has_kv(il) || (filter && !filter(il))) {
            continue;
        }
        n_merged++;

        if (params.per_head) {
            // each head's rows are moved by themselves, so a quantization block may not span two heads
            if (model.hparams.n_embd_head_k(il) % ggml_blck_size(type_k) != 0 || model.hparams.n_embd_head_v(il) % ggml_blck_size(type_v) != 0) {
                return std::string("a ") + ggml_type_name(type_k) + "/" + ggml_type_name(type_v) + " cache packs heads of " +
                    std::to_string(model.hparams.n_embd_head_k(il)) + " channels together: use an f16 cache, or set per_head to false";
            }
            if (offload && model.layers[il].attn_sinks &&
                    (is_misaligned(model.dev_layer(il), ggml_row_size(type_k, model.hparams.n_embd_head_k(il))) ||
                     is_misaligned(model.dev_layer(il), ggml_row_size(type_v, model.hparams.n_embd_head_v(il))))) {
                return std::string("Vulkan cannot attend to single heads of a ") + ggml_type_name(type_k) + "/" + ggml_type_name(type_v) +
                    " cache in a model with attention sinks: use an f16 cache, or set per_head to false";
            }
        }
    }
    if (n_merged == 0) {
        return std::string("the architecture '") + llm_arch_name(model.arch) + "' cannot be merged: in this model every layer with attention has a sliding window, and no cache grows with the text";
    }
    return "";
}

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
        const llama_memory_i::layer_share_cb  & share) {
    const asymkv_params * params = llama_asymkv_next();

    if (!params) {
        return new llama_kv_cache(model, hparams, type_k, type_v, v_trans, offload, unified, kv_size, n_seq_max, n_pad,
                n_swa, swa_type, mem_other, filter, reuse, share);
    }

    const std::string problem = cache_problem(model, type_k, type_v, offload, n_seq_max, mem_other, *params, filter);
    if (!problem.empty()) {
        llama_asymkv_fail(ASYMKV_ERR_UNSUPPORTED, problem);
        throw std::runtime_error(problem);
    }

    // a multiple of 256, as attention kernels like it; what the padding adds is room, not budget
    const uint64_t capacity = GGML_PAD((uint64_t) params->budget + params->room, 256);

    auto * res = new llama_kv_cache_asym(model, hparams, type_k, type_v, v_trans, offload,
            (uint32_t) std::min<uint64_t>(kv_size, capacity), kv_size, n_pad, filter, reuse, *params);

    llama_asymkv_next_clear();

    return res;
}

//
// llama_kv_cache_asym
//

static asymkv_params with_trained_span(asymkv_params params, uint32_t n_ctx_train) {
    if (params.span == ASYMKV_SPAN_TRAINED) {
        params.span = n_ctx_train;
    }
    return params;
}

// 8 bits tell what a query attends to, far better than its neighbours would; no block may span two heads
static ggml_type ring_type(ggml_type type_k, uint32_t head_k, ggml_backend_dev_t dev) {
    if (type_k == GGML_TYPE_F32) {
        return GGML_TYPE_F32;
    }
    if (head_k % ggml_blck_size(GGML_TYPE_Q8_0) != 0) {
        return GGML_TYPE_F16;
    }
    ggml_context_ptr ctx(ggml_init({ 4*ggml_tensor_overhead(), nullptr, /*.no_alloc =*/ true }));

    ggml_tensor * ring = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_Q8_0, head_k, 1);
    ggml_tensor * q    = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32,  head_k, 1);
    ggml_tensor * rows = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I64,  1);

    return !dev || ggml_backend_dev_supports_op(dev, ggml_set_rows(ctx.get(), ring, q, rows)) ? GGML_TYPE_Q8_0 : GGML_TYPE_F16;
}

llama_kv_cache_asym::llama_kv_cache_asym(
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
      const asymkv_params & params) :
    llama_kv_cache(model, hparams, type_k, type_v, v_trans, offload, true, kv_size, 1, n_pad, 0, LLAMA_SWA_TYPE_NONE, nullptr, filter, reuse, nullptr),
    params(with_trained_span(params, hparams.n_ctx_train)), n_ctx(n_ctx), ring_pos(params.observe, -1) {

    struct buft_comparator {
        bool operator()(const ggml_backend_buffer_type_t & lhs, const ggml_backend_buffer_type_t & rhs) const {
            return strcmp(ggml_backend_buft_name(lhs), ggml_backend_buft_name(rhs)) < 0;
        }
    };
    std::map<ggml_backend_buffer_type_t, ggml_context_ptr, buft_comparator> ctx_map;

    for (uint32_t ikv = 0; ikv < layers.size(); ++ikv) {
        const uint32_t il = layers[ikv].il;

        ggml_backend_buffer_type_t buft = offload ? ggml_backend_dev_buffer_type(model.dev_layer(il)) : ggml_backend_cpu_buffer_type();

        auto it = ctx_map.find(buft);
        if (it == ctx_map.end()) {
            ggml_init_params ctx_params = {
                /*.mem_size   =*/ 2*layers.size()*ggml_tensor_overhead(),
                /*.mem_buffer =*/ nullptr,
                /*.no_alloc   =*/ true,
            };
            it = ctx_map.emplace(buft, ggml_init(ctx_params)).first;
        }
        ggml_context * ctx = it->second.get();
        if (!ctx) {
            throw std::runtime_error("failed to create ggml context for the cardinalities");
        }

        asym_layer layer = {};
        layer.il              = il;
        layer.ikv             = ikv;
        layer.n_head          = hparams.n_head(il);
        layer.n_head_kv       = hparams.n_head_kv(il);
        layer.heads_per_group = params.per_head ? 1 : layer.n_head_kv;
        layer.head_k          = hparams.n_embd_head_k(il);
        layer.head_v          = hparams.n_embd_head_v(il);
        layer.tables.resize(layer.n_head_kv/layer.heads_per_group);

        layer.log_card = ggml_new_tensor_2d(ctx, GGML_TYPE_F16, kv_size, layer.tables.size());
        ggml_format_name(layer.log_card, "cache_log_card_l%d", il);

        if (params.observe > 0) {
            ggml_backend_dev_t dev = offload ? model.dev_layer(il) : ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);

            layer.q_ring = ggml_new_tensor_2d(ctx, ring_type(type_k, layer.head_k, dev), (int64_t) layer.head_k*layer.n_head, params.observe);
            ggml_format_name(layer.q_ring, "cache_q_ring_l%d", il);
        }

        asym_layers.push_back(std::move(layer));
    }

    for (auto & [buft, ctx] : ctx_map) {
        ggml_backend_buffer_t buf;
        if (hparams.no_alloc) {
            buf = ggml_backend_buft_alloc_buffer(buft, /*size =*/ 0);
            for (ggml_tensor * t = ggml_get_first_tensor(ctx.get()); t != nullptr; t = ggml_get_next_tensor(ctx.get(), t)) {
                t->buffer = buf;
            }
        } else {
            buf = ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), buft);
        }
        if (!buf) {
            throw std::runtime_error("failed to allocate the cardinalities");
        }
        ggml_backend_buffer_clear(buf, 0);
        ctxs_bufs.emplace_back(std::move(ctx), buf);
    }

    counters.budget     = params.budget;
    counters.n_capacity = kv_size;
    counters.n_layer    = (uint32_t) asym_layers.size();
    for (const auto & layer : asym_layers) {
        counters.n_group   = std::max(counters.n_group,   (uint32_t) layer.tables.size());
        counters.n_head_kv = std::max(counters.n_head_kv, layer.n_head_kv);
        counters.table_bytes += ggml_nbytes(layer.log_card) + (layer.q_ring ? ggml_nbytes(layer.q_ring) : 0);
    }
    native_ops = choose_native_ops(offload);
    counters.native_ops     = native_ops;
    counters.kv_bytes       = size_k_bytes() + size_v_bytes();
    counters.stock_kv_bytes = counters.kv_bytes/kv_size*n_ctx;

    LLAMA_LOG_INFO("%s: merged cache: budget %u of %u slots, %u layers x %u plans, %.2f MiB instead of %.2f MiB, %s attention\n", __func__,
            params.budget, kv_size, counters.n_layer, counters.n_group, counters.kv_bytes/1024.0/1024.0, counters.stock_kv_bytes/1024.0/1024.0,
            has_native_attn() ? "native" : "portable");
}

uint32_t llama_kv_cache_asym::choose_native_ops(bool offload) const {
    const auto dev_of = [&](const asym_layer & layer) {
        return offload ? model.dev_layer(layer.il) : ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    };
    // flash attention takes no F32: the graph casts it
    const auto type_of = [&](const ggml_tensor * t) { return t->type == GGML_TYPE_F32 ? GGML_TYPE_F16 : t->type; };

    std::vector<ggml_backend_dev_t> devs;
    for (const auto & layer : asym_layers) {
        devs.push_back(dev_of(layer));
    }
    uint32_t ops = llama_asymkv_dev_ops(devs);

    for (const auto & layer : asym_layers) {
        const auto & kv = layers[layer.ikv];

        // where the cache is made for flash attention, the context may still decide against it
        for (bool flash : { false, true }) {
            const llama_asymkv_attn_kind kind = {
                dev_of(layer), type_of(kv.k), type_of(kv.v), layer.head_k, layer.head_v, layer.n_head/layer.n_head_kv,
                layer.tables.size() > 1, flash, hparams.attn_soft_cap ? hparams.f_attn_logit_softcapping : 0.0f,
                model.layers[layer.il].attn_sinks != nullptr,
            };
            if ((ops & GGML_ASYMKV_OPS_ATTN) && !(flash && v_trans) && !llama_asymkv_try_attn(kind)) {
                ops &= ~GGML_ASYMKV_OPS_ATTN;
            }
        }
    }
    return ops;
}

llama_kv_cache_asym::asym_layer & llama_kv_cache_asym::get_layer(int32_t il) const {
    return asym_layers[map_layer_ids.at(il)];
}

void llama_kv_cache_asym::get_stats(asymkv_stats & stats) const {
    const size_t size = stats.size;
    stats          = counters;
    stats.size     = size;
    stats.n_slots  = n_live();
    stats.n_tokens = n_tokens();
    for (const auto & layer : asym_layers) {
        for (const auto & table : layer.tables) {
            stats.table_bytes += table.packed.n_bytes();
        }
    }
}

std::vector<uint32_t> llama_kv_cache_asym::sorted_cells() const {
    const auto & cells = v_cells[0];

    std::vector<uint32_t> res;
    res.reserve(cells.get_used());
    for (uint32_t i = 0; i < cells.size(); ++i) {
        if (!cells.is_empty(i)) {
            res.push_back(i);
        }
    }
    std::stable_sort(res.begin(), res.end(), [&](uint32_t a, uint32_t b) { return cells.pos_get(a) < cells.pos_get(b); });

    return res;
}

std::vector<asymkv_slot> llama_kv_cache_asym::slots_of(const group_table & table, const std::vector<uint32_t> & cells) const {
    const auto packed = table.packed.unpack(n_packed);

    std::vector<asymkv_slot> res;
    res.reserve(cells.size());
    for (uint32_t cell : cells) {
        if (cell < n_packed) {
            res.push_back(packed[cell]);
        } else {
            const llama_pos pos = v_cells[0].pos_get(cell);
            res.push_back({ (double) pos, pos, pos, 1, 0.0f });
        }
    }
    return res;
}

std::vector<asymkv_slot> llama_kv_cache_asym::get_slots(uint32_t layer, uint32_t group) const {
    return slots_of(asym_layers[layer].tables[group], sorted_cells());
}

static ggml_fp16_t log_card_of(const asymkv_slot & slot) { return ggml_fp32_to_fp16(std::log((float) slot.cardinality)); }

void llama_kv_cache_asym::group_table::pack(const std::vector<asymkv_slot> & slots) {
    packed.pack(slots.data(), (uint32_t) slots.size());

    log_card.resize(slots.size());
    std::transform(slots.begin(), slots.end(), log_card.begin(), log_card_of);
}

//
// llama_memory_i
//

llama_memory_context_ptr llama_kv_cache_asym::init_full() {
    return std::make_unique<llama_kv_cache_asym_context>(this);
}

llama_memory_context_ptr llama_kv_cache_asym::init_update(llama_context * lctx, bool /*optimize*/) {
    owner = lctx;

    return std::make_unique<llama_kv_cache_context>(this, lctx, false, stream_copy_info{});
}

llama_memory_context_ptr llama_kv_cache_asym::make_context(slot_info_vec_t sinfos, std::vector<llama_ubatch> ubatches) {
    return std::make_unique<llama_kv_cache_asym_context>(this, std::move(sinfos), std::move(ubatches));
}

llama_kv_cache::slot_info_vec_t llama_kv_cache_asym::prepare(const std::vector<llama_ubatch> & ubatches) {
    uint32_t n_tokens = 0;
    for (const auto & ubatch : ubatches) {
        if (!ubatch.token && hparams.n_pos_per_embd() > 1) {
            llama_asymkv_fail(ASYMKV_ERR_UNSUPPORTED, "a merged cache of a model with M-RoPE reads text only, and this batch has embeddings "
                    "(of an image or sound): open the model without asymkv for it");
            return {};
        }
        for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
            if (ubatch.n_seq_id[i] != 1 || ubatch.seq_id[i][0] != 0) {
                llama_asymkv_fail(ASYMKV_ERR_UNSUPPORTED, "a merged cache holds one sequence, number 0: use one context per sequence");
                return {};
            }
        }
        n_tokens += ubatch.n_tokens;
    }

    auto res = llama_kv_cache::prepare(ubatches);

    // compressing here, and not as an update of the memory, spares a reservation of the worst-case graph: a merged cache
    // is what it was reserved for
    if (res.empty() && owner && n_live() > params.budget) {
        if (compress(owner, params.budget) != ASYMKV_OK) {
            return {};
        }
        res = llama_kv_cache::prepare(ubatches);
    }
    if (res.empty()) {
        llama_asymkv_fail(ASYMKV_ERR_PARAMS, "a batch of " + std::to_string(n_tokens) + " tokens does not fit into the " +
                std::to_string(get_size() - n_live()) + " free slots beside the budget: use smaller batches, or more room");
    }
    return res;
}

void llama_kv_cache_asym::reset_tables() {
    const bool was_packed = n_packed > 0;

    for (auto & layer : asym_layers) {
        for (auto & table : layer.tables) {
            table = {};
        }
        if (was_packed && !hparams.no_alloc) {
            n_packed = 0;
            upload_log_card(layer);
        }
    }
    n_packed        = 0;
    n_middle        = 0;
    n_middle_tokens = 0;
    middle_pos0     = -1;
    middle_pos1     = -1;
    moved           = false;

    std::fill(ring_pos.begin(), ring_pos.end(), -1);
    n_ring = 0;
}

void llama_kv_cache_asym::upload_log_card(asym_layer & layer) const {
    std::vector<ggml_fp16_t> data((size_t) get_size()*layer.tables.size(), ggml_fp32_to_fp16(0.0f));

    for (size_t g = 0; g < layer.tables.size(); ++g) {
        auto & table = layer.tables[g];
        auto * row   = data.data() + g*get_size();

        if (table.log_card.size() == n_packed) {
            std::copy(table.log_card.begin(), table.log_card.end(), row);
        } else {
            const auto slots = table.packed.unpack(n_packed);
            std::transform(slots.begin(), slots.end(), row, log_card_of);
        }
        table.log_card = {};
    }
    ggml_backend_tensor_set(layer.log_card, data.data(), 0, data.size()*sizeof(ggml_fp16_t));
}

static std::string range_name(llama_pos p0, llama_pos p1) {
    return "tokens " + std::to_string(std::max(p0, 0)) + " to " + (p1 < 0 || p1 == std::numeric_limits<llama_pos>::max() ? "the end" : std::to_string(p1 - 1));
}

void llama_kv_cache_asym::clear(bool data) {
    llama_kv_cache::clear(data);
    reset_tables();
}

bool llama_kv_cache_asym::seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    const auto & cells = v_cells[0];

    if (seq_id > 0 || cells.get_used() == 0) {
        return true; // nothing there
    }

    p0 = std::max(p0, 0);
    if (p1 < 0) {
        p1 = std::numeric_limits<llama_pos>::max();
    }

    const llama_pos pos_max = cells.seq_pos_max(0);
    if (p0 >= p1 || p0 > pos_max) {
        return true;
    }

    const bool is_tail = p1 > pos_max;

    if (is_merged() && p0 <= middle_pos1) {
        // a merged slot cannot give back some of its tokens: all of the middle goes, with what follows it, or nothing
        // nor can what is left of sinks that have moved up be where new text begins
        if (!is_tail || p0 > middle_pos0 || (moved && p0 > cells.seq_pos_min(0))) {
            llama_asymkv_fail(ASYMKV_ERR_UNSUPPORTED, range_name(p0, p1) + " cannot be removed: tokens " + std::to_string(middle_pos0) + " to " +
                    std::to_string(middle_pos1) + " are merged, and go together with all that follows them, or not at all");
            return false;
        }
    }

    if (is_tail && p0 <= cells.seq_pos_min(0)) {
        clear(false);
        return true;
    }

    // the packed part has to stay whole from its start: a hole in it makes what follows an ordinary token again,
    // which it is, since only the middle is merged
    uint32_t first_removed = get_size();
    for (uint32_t i = 0; i < cells.size(); ++i) {
        if (!cells.is_empty(i) && cells.pos_in(i, p0, p1)) {
            first_removed = std::min(first_removed, i);
        }
    }

    const bool res = llama_kv_cache::seq_rm(0, p0, p1);

    if (first_removed < n_packed) {
        n_packed = first_removed;
    }

    if (is_merged() && p0 <= middle_pos0) {
        for (auto & layer : asym_layers) {
            for (auto & table : layer.tables) {
                table.n_lost = 0;
            }
            upload_log_card(layer);
        }
        n_middle        = 0;
        n_middle_tokens = 0;
        middle_pos0     = -1;
        middle_pos1     = -1;
    }

    for (auto & pos : ring_pos) {
        if (pos >= p0 && pos < p1) {
            pos = -1;
        }
    }
    // the rows of the last queries are free again: a draft that is taken back must not push out those before it
    for (uint32_t i = 0; i < params.observe && n_ring > 0 && ring_pos[(n_ring - 1) % params.observe] < 0; ++i) {
        --n_ring;
    }

    return res;
}

bool llama_kv_cache_asym::can_cut_window(const llama_kv_cache & swa, llama_seq_id seq_id, llama_pos p0, llama_pos p1) const {
    seq_id = std::max(seq_id, 0);
    p0     = std::max(p0, 0);

    const llama_pos base_min = seq_pos_min(seq_id);
    const llama_pos swa_min  = swa.seq_pos_min(seq_id);
    const llama_pos swa_max  = swa.seq_pos_max(seq_id);

    const bool is_tail = p1 < 0 || p1 > swa_max;
    if (swa_max < 0 || !is_tail || p0 > swa_max || p0 <= base_min) {
        return true;
    }
    if (swa_min <= std::max(base_min, p0 - (llama_pos) hparams.n_swa + 1)) {
        return true;
    }
    llama_asymkv_fail(ASYMKV_ERR_UNSUPPORTED, range_name(p0, p1) + " cannot be removed: the layers with a sliding window hold nothing before token " +
            std::to_string(swa_min));
    return false;
}

bool llama_kv_cache_can_cut(const llama_kv_cache & base, const llama_kv_cache & swa, llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    const auto * asym = dynamic_cast<const llama_kv_cache_asym *>(&base);

    return !asym || asym->can_cut_window(swa, seq_id, p0, p1);
}

// refused before they come here, for all of a model's caches (llama_asymkv_refuses)
void llama_kv_cache_asym::seq_cp (llama_seq_id, llama_seq_id, llama_pos, llama_pos) {}
void llama_kv_cache_asym::seq_add(llama_seq_id, llama_pos, llama_pos, llama_pos) {}
void llama_kv_cache_asym::seq_div(llama_seq_id, llama_pos, llama_pos, int) {}

void llama_kv_cache_asym::seq_keep(llama_seq_id seq_id) {
    if (seq_id != 0) {
        clear(false);
    }
}

//
// llama_kv_cache_asym_context
//

llama_kv_cache_asym_context::llama_kv_cache_asym_context(llama_kv_cache_asym * kv) :
    llama_kv_cache_context(kv), kv_asym(kv), kind(FULL) {
}

llama_kv_cache_asym_context::llama_kv_cache_asym_context(llama_kv_cache_asym * kv, slot_info_vec_t sinfos, std::vector<llama_ubatch> ubatches) :
    llama_kv_cache_context(kv, std::move(sinfos), std::move(ubatches)), kv_asym(kv), kind(BATCH) {
}

bool llama_kv_cache_asym_context::is_merged() const {
    return kind == FULL || kv_asym->is_merged();
}

ggml_tensor * llama_kv_cache_asym_context::build_attn(const llm_attn_hook & hook) const {
    return kv_asym->build_attn(hook, is_merged());
}
