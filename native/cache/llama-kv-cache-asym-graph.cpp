#include "llama-kv-cache-asym.h"

#include "llama-asymkv-next.h"
#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>
#include <stdexcept>

// the part of llama_kv_cache_asym that speaks to the graph: observed queries go out, cardinalities come in

// rows of the query ring, one input for all layers of a graph
class llm_graph_input_asym : public llm_graph_input_i {
public:
    llm_graph_input_asym(const llama_kv_cache_asym * kv, bool merged) : kv(kv), merged(merged) {}

    void set_input(const llama_ubatch * ubatch) override {
        if (rows && rows->buffer) {
            kv->set_input_ring(rows, ubatch);
        }
    }

    bool can_reuse(const llm_graph_params & params) override {
        // the first merge changes the topology, and removing all merged slots changes it back
        return merged == kv->is_merged() && (!rows || rows->ne[0] == kv->n_observed(params.ubatch.n_tokens));
    }

    ggml_tensor * rows = nullptr; // I64 [n_observed]

    // the mask, repeated for every KV head: the same in all layers that have as many
    ggml_tensor * mask     = nullptr;
    ggml_tensor * repeated = nullptr;

private:
    const llama_kv_cache_asym * kv;
    const bool merged;
};

static llm_graph_input_asym * find_input(llm_graph_result * res) {
    for (auto & inp : res->inputs) {
        if (auto * found = dynamic_cast<llm_graph_input_asym *>(inp.get())) {
            return found;
        }
    }
    return nullptr;
}

void llama_kv_cache_asym::set_input_ring(ggml_tensor * dst, const llama_ubatch * ubatch) const {
    GGML_ASSERT(ggml_backend_buffer_is_host(dst->buffer));

    int64_t * data = (int64_t *) dst->data;

    const uint32_t n_rows = dst->ne[0];

    for (uint32_t i = 0; i < n_rows; ++i) {
        const uint32_t row = n_ring++ % params.observe;

        ring_pos[row] = ubatch->pos[ubatch->n_tokens - 1 - (n_rows - 1 - i)*observe_stride()];
        data[i] = row;
    }
    // one token at a time: the last one's row is free again, until one comes that is to stay
    if (ubatch->n_tokens == 1 && ubatch->pos[0] % observe_stride() != 0) {
        --n_ring;
    }
}

uint32_t llama_kv_cache_asym::observe_stride() const {
    return params.observe > 0 ? params.recent/params.observe : 1;
}

int64_t llama_kv_cache_asym::n_observed(int64_t n_tokens) const {
    return std::min<int64_t>((n_tokens + observe_stride() - 1)/observe_stride(), params.observe);
}

// the stock cache's
ggml_tensor * llama_kv_cache_context::build_attn(const llm_attn_hook & hook) const {
    return hook.attend();
}

// what the graph tells of a layer, once
void llama_kv_cache_asym::capture(const llm_attn_hook & hook, asym_layer & layer) const {
    const std::string problem = layer.rope.capture(hook.k_cur);
    if (!problem.empty()) {
        const std::string sentence = std::string("the architecture '") + llm_arch_name(model.arch) + "' cannot be merged: " + problem;
        llama_asymkv_fail(ASYMKV_ERR_UNSUPPORTED, sentence);
        throw std::runtime_error(sentence);
    }
    layer.kq_scale = hook.kq_scale;
    layer.sinks    = hook.sinks && hook.sinks->op == GGML_OP_NONE ? hook.sinks : nullptr; // what outlives the graph
    layer.captured = true;
}

// some of the last queries, evenly spread. layers that read another layer's keys leave the owner's queries alone
void llama_kv_cache_asym::keep_queries(const llm_attn_hook & hook, const asym_layer & layer, bool merged) const {
    ggml_context * ctx = hook.ctx;

    const int64_t n_tokens = hook.q->ne[2];

    auto * inp = find_input(hook.res);
    if (!inp) {
        auto created = std::make_unique<llm_graph_input_asym>(this, merged);
        if (params.observe > 0) {
            created->rows = ggml_new_tensor_1d(ctx, GGML_TYPE_I64, n_observed(n_tokens));
            ggml_set_input(created->rows);
            ggml_set_name(created->rows, "asymkv_inp_ring_rows");
        }
        inp = static_cast<llm_graph_input_asym *>(hook.res->add_input(std::move(created)));
    }
    if (!inp->rows || !hook.k_cur) {
        return;
    }

    const int64_t n_rows = inp->rows->ne[0];
    const int64_t stride = observe_stride();
    const int64_t n_embd = hook.q->ne[0]*hook.q->ne[1];

    ggml_tensor * q = ggml_is_contiguous(hook.q) ? ggml_reshape_2d(ctx, hook.q, n_embd, n_tokens) : ggml_cont_2d(ctx, hook.q, n_embd, n_tokens);

    q = ggml_view_2d(ctx, q, n_embd, n_rows, stride*q->nb[1], (n_tokens - 1 - (n_rows - 1)*stride)*q->nb[1]);

    ggml_build_forward_expand(hook.gf, ggml_set_rows(ctx, layer.q_ring, q, inp->rows));
}

ggml_tensor * llama_kv_cache_asym::build_attn(const llm_attn_hook & hook, bool merged) const {
    ggml_context * ctx = hook.ctx;

    auto & layer = get_layer(hook.il);

    if (hook.k_cur && !layer.captured) {
        capture(hook, layer);
    }
    keep_queries(hook, layer, merged);

    const int64_t n_kv    = hook.kq_mask->ne[0];
    const int64_t n_group = layer.tables.size();

    // until something is merged this is the stock graph
    if (has_native_attn()) {
        if (merged) {
            hook.log_card = ggml_view_3d(ctx, layer.log_card, n_kv, 1, n_group, layer.log_card->nb[1], layer.log_card->nb[1], 0);
        }
        return hook.attend();
    }

    // composed of stock ops: per head, too, this is the stock graph until something is merged. with one plan per layer it need
    // not change its shape: ln 1 = 0 leaves the mask as it is, bit for bit
    if (!merged && n_group > 1) {
        return hook.attend();
    }

    ggml_tensor * log_card = ggml_view_4d(ctx, layer.log_card, n_kv, 1, 1, n_group,
            layer.log_card->nb[1], layer.log_card->nb[1], layer.log_card->nb[1], 0);

    if (hook.kq_mask->type != log_card->type) {
        log_card = ggml_cast(ctx, log_card, hook.kq_mask->type);
    }

    if (n_group == 1) {
        hook.kq_mask = ggml_add(ctx, hook.kq_mask, log_card);
        return hook.attend();
    }

    GGML_ASSERT(hook.kq_mask->ne[2] == 1 && hook.kq_mask->ne[3] == 1);

    return hook.sinks ? attend_by_head(hook, layer, log_card) : attend_folded(hook, layer, log_card);
}

// every KV head has its own cardinalities: heads move to dim 3, the only one along which all backends take a mask per head
ggml_tensor * llama_kv_cache_asym::attend_folded(const llm_attn_hook & hook, const asym_layer & layer, ggml_tensor * log_card) const {
    ggml_context * ctx = hook.ctx;

    const int64_t n_kv      = hook.kq_mask->ne[0];
    const int64_t n_tokens  = hook.q->ne[2];
    const int64_t n_head_kv = layer.n_head_kv;
    const int64_t n_gqa     = hook.q->ne[1]/n_head_kv;

    auto * inp = find_input(hook.res);

    if (inp->mask != hook.kq_mask || inp->repeated->ne[3] != n_head_kv) {
        inp->mask     = hook.kq_mask;
        inp->repeated = ggml_repeat_4d(ctx, hook.kq_mask, n_kv, hook.kq_mask->ne[1], 1, n_head_kv);
    }
    hook.kq_mask = ggml_add(ctx, inp->repeated, log_card);

    // q: [head_k, n_head, n_tokens] -> [head_k, n_gqa, n_tokens*n_head_kv], the tokens of a KV head together
    ggml_tensor * q = ggml_is_contiguous(hook.q) ? hook.q : ggml_cont(ctx, hook.q);
    q = ggml_reshape_4d(ctx, q, layer.head_k, n_gqa, n_head_kv, n_tokens);
    if (n_tokens > 1) {
        q = ggml_cont(ctx, ggml_permute(ctx, q, 0, 1, 3, 2));
    }
    hook.q = ggml_reshape_3d(ctx, q, layer.head_k, n_gqa, n_tokens*n_head_kv);

    // k, v: one head in dim 1, all heads in dim 3
    ggml_tensor * k = layers[layer.ikv].k;
    hook.k = ggml_view_4d(ctx, k, layer.head_k, 1, n_kv, n_head_kv,
            ggml_row_size(k->type, layer.head_k), k->nb[1], ggml_row_size(k->type, layer.head_k), 0);

    ggml_tensor * v = layers[layer.ikv].v;
    if (!v_trans) {
        hook.v = ggml_view_4d(ctx, v, layer.head_v, 1, n_kv, n_head_kv,
                ggml_row_size(v->type, layer.head_v), v->nb[1], ggml_row_size(v->type, layer.head_v), 0);
    } else {
        const size_t row_size = ggml_row_size(v->type, get_size());
        hook.v = ggml_view_4d(ctx, v, n_kv, 1, layer.head_v, n_head_kv,
                row_size*layer.head_v, row_size, row_size*layer.head_v, 0);
    }

    ggml_tensor * cur = hook.attend();

    // [head_v*n_gqa, n_tokens*n_head_kv] -> [head_v*n_head, n_tokens]
    const int64_t n_embd = cur->ne[0];

    if (n_tokens > 1) {
        cur = ggml_reshape_3d(ctx, cur, n_embd, n_tokens, n_head_kv);
        cur = ggml_cont(ctx, ggml_permute(ctx, cur, 0, 2, 1, 3));
    }
    cur = ggml_reshape_2d(ctx, cur, n_embd*n_head_kv, n_tokens);

    ggml_build_forward_expand(hook.gf, cur);

    return cur;
}

// attention sinks are one number for each head of dim 2, so that heads cannot move: one KV head after the other
ggml_tensor * llama_kv_cache_asym::attend_by_head(const llm_attn_hook & hook, const asym_layer & layer, ggml_tensor * log_card) const {
    ggml_context * ctx = hook.ctx;

    const int64_t n_kv     = hook.kq_mask->ne[0];
    const int64_t n_tokens = hook.q->ne[2];
    const int64_t n_gqa    = hook.q->ne[1]/layer.n_head_kv;

    ggml_tensor * q     = hook.q;
    ggml_tensor * mask  = hook.kq_mask;
    ggml_tensor * sinks = hook.sinks;

    ggml_tensor * k = layers[layer.ikv].k;
    ggml_tensor * v = layers[layer.ikv].v;

    const size_t k_row = ggml_row_size(k->type, layer.head_k);
    const size_t v_row = ggml_row_size(v->type, v_trans ? get_size() : layer.head_v);

    ggml_tensor * res = nullptr;
    for (uint32_t h = 0; h < layer.n_head_kv; ++h) {
        hook.q       = ggml_view_3d(ctx, q, layer.head_k, n_gqa, n_tokens, q->nb[1], q->nb[2], h*n_gqa*q->nb[1]);
        hook.k       = ggml_view_4d(ctx, k, layer.head_k, 1, n_kv, 1, k_row, k->nb[1], k->nb[2], h*k_row);
        hook.v       = v_trans ?
            ggml_view_4d(ctx, v, n_kv, 1, layer.head_v, 1, v_row*layer.head_v, v_row, v_row*layer.head_v, h*v_row*layer.head_v) :
            ggml_view_4d(ctx, v, layer.head_v, 1, n_kv, 1, v_row, v->nb[1], v->nb[2], h*v_row);
        hook.kq_mask = ggml_add(ctx, mask, ggml_view_2d(ctx, log_card, n_kv, 1, log_card->nb[1], h*log_card->nb[3]));
        hook.sinks   = ggml_cont(ctx, ggml_view_1d(ctx, sinks, n_gqa, h*n_gqa*sinks->nb[0])); // Vulkan takes none that begin just anywhere

        ggml_tensor * cur = hook.attend();

        res = res ? ggml_concat(ctx, res, cur, 0) : cur;
    }

    ggml_build_forward_expand(hook.gf, res);

    return res;
}

uint32_t llama_kv_cache_asym::n_nodes() const {
    constexpr uint32_t n_of_head = 24; // views and the ops between them, without flash attention and with a soft cap

    uint32_t n = 0;
    for (const auto & [il, at] : map_layer_ids) {
        const auto & layer = asym_layers[at];
        if (model.layers[il].attn_sinks && layer.tables.size() > 1 && !has_native_attn()) {
            n += n_of_head*layer.n_head_kv;
        }
    }
    return n;
}
