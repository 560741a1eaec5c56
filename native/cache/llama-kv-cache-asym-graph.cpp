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
        return merged == kv->is_merged() && (!rows || rows->ne[0] == std::min<int64_t>(params.ubatch.n_tokens, kv->get_params().observe));
    }

    ggml_tensor * rows = nullptr; // I64 [n_observed]

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

    const uint32_t n_observed = dst->ne[0];

    for (uint32_t i = 0; i < n_observed; ++i) {
        const uint32_t row = n_ring++ % params.observe;

        ring_pos[row] = ubatch->pos[ubatch->n_tokens - n_observed + i];
        data[i] = row;
    }
}

void llama_kv_cache_asym::build_attn_pre(const llm_attn_hook & hook, bool merged) const {
    ggml_context * ctx = hook.ctx;

    auto & layer = get_layer(hook.il);

    const int64_t n_tokens  = hook.q->ne[2];
    const int64_t n_head    = hook.q->ne[1];
    const int64_t n_head_kv = layer.n_head_kv;

    if (hook.k_cur && !layer.captured) {
        const std::string problem = layer.rope.capture(hook.k_cur);
        if (!problem.empty()) {
            const std::string sentence = std::string("the architecture '") + llm_arch_name(model.arch) + "' cannot be merged: " + problem;
            llama_asymkv_fail(ASYMKV_ERR_UNSUPPORTED, sentence);
            throw std::runtime_error(sentence);
        }
        layer.kq_scale = hook.kq_scale;
        layer.captured = true;
    }

    auto * inp = find_input(hook.res);
    if (!inp) {
        auto created = std::make_unique<llm_graph_input_asym>(this, merged);
        if (params.observe > 0) {
            created->rows = ggml_new_tensor_1d(ctx, GGML_TYPE_I64, std::min<int64_t>(n_tokens, params.observe));
            ggml_set_input(created->rows);
            ggml_set_name(created->rows, "asymkv_inp_ring_rows");
        }
        inp = static_cast<llm_graph_input_asym *>(hook.res->add_input(std::move(created)));
    }

    // keep the last queries. layers that read another layer's keys leave the owner's queries alone
    if (inp->rows && hook.k_cur) {
        const int64_t n_observed = inp->rows->ne[0];
        const int64_t n_embd     = hook.q->ne[0]*n_head;

        ggml_tensor * q = ggml_is_contiguous(hook.q) ? ggml_reshape_2d(ctx, hook.q, n_embd, n_tokens) : ggml_cont_2d(ctx, hook.q, n_embd, n_tokens);

        q = ggml_view_2d(ctx, q, n_embd, n_observed, q->nb[1], (n_tokens - n_observed)*q->nb[1]);

        ggml_build_forward_expand(hook.gf, ggml_set_rows(ctx, layer.q_ring, q, inp->rows));
    }

    const int64_t n_kv    = hook.kq_mask->ne[0];
    const int64_t n_group = layer.tables.size();

    // until something is merged, per head, this is the stock graph. with one plan per layer it need not change its shape:
    // ln 1 = 0 leaves the mask as it is, bit for bit
    if (!merged && n_group > 1) {
        return;
    }

    ggml_tensor * log_card = ggml_view_4d(ctx, layer.log_card, n_kv, 1, 1, n_group,
            layer.log_card->nb[1], layer.log_card->nb[1], layer.log_card->nb[1], 0);

    if (hook.kq_mask->type != log_card->type) {
        log_card = ggml_cast(ctx, log_card, hook.kq_mask->type);
    }

    if (n_group == 1) {
        hook.kq_mask = ggml_add(ctx, hook.kq_mask, log_card);
        return;
    }

    // every KV head has its own cardinalities: heads move to dim 3, the only one along which all backends take a mask per head
    GGML_ASSERT(hook.kq_mask->ne[2] == 1 && hook.kq_mask->ne[3] == 1);

    hook.kq_mask = ggml_add(ctx, ggml_repeat_4d(ctx, hook.kq_mask, n_kv, hook.kq_mask->ne[1], 1, n_group), log_card);

    const int64_t n_gqa = n_head/n_head_kv;

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
}

ggml_tensor * llama_kv_cache_asym::build_attn_post(const llm_attn_hook & hook, ggml_tensor * cur, bool merged) const {
    const auto & layer = get_layer(hook.il);

    if (!merged || layer.tables.size() == 1) {
        return cur;
    }

    ggml_context * ctx = hook.ctx;

    // [head_v*n_gqa, n_tokens*n_head_kv] -> [head_v*n_head, n_tokens]
    const int64_t n_embd   = cur->ne[0];
    const int64_t n_tokens = cur->ne[1]/layer.n_head_kv;

    if (n_tokens > 1) {
        cur = ggml_reshape_3d(ctx, cur, n_embd, n_tokens, layer.n_head_kv);
        cur = ggml_cont(ctx, ggml_permute(ctx, cur, 0, 2, 1, 3));
    }
    cur = ggml_reshape_2d(ctx, cur, n_embd*layer.n_head_kv, n_tokens);

    ggml_build_forward_expand(hook.gf, cur);

    return cur;
}
