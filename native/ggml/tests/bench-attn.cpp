// what attention over a cache costs: benchmarks/ops.py runs this, with a stock ggml or with ours
//
//     bench-attn MODE TYPE HEAD N_HEAD_KV N_GQA N_KV N_TOKENS N_THREADS SECONDS
//
// MODE: absent (the stock op), native (cardinalities as a source), portable (added to a mask per KV head, as libllama composes it
// of stock ops). prints the microseconds per layer of a graph of several layers: the best of all repetitions

#include "ggml-asymkv.h"

#include "ggml-cpp.h"
#include "ggml-cpu.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

static const int N_LAYERS = 8; // each with a cache of its own, so that keys and values come from memory

struct shape {
    ggml_type type;
    int64_t   head, n_head_kv, n_gqa, n_kv, n_tokens;
};

// as llama_kv_cache_asym::build_attn_pre and build_attn_post do
static ggml_tensor * portable(ggml_context * ctx, const shape & s, ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, ggml_tensor * mask, ggml_tensor * card) {
    ggml_tensor * rows = ggml_view_4d(ctx, card, s.n_kv, 1, 1, s.n_head_kv, card->nb[1], card->nb[1], card->nb[1], 0);

    q = ggml_reshape_4d(ctx, q, s.head, s.n_gqa, s.n_head_kv, s.n_tokens);
    if (s.n_tokens > 1) {
        q = ggml_cont(ctx, ggml_permute(ctx, q, 0, 1, 3, 2));
    }
    q = ggml_reshape_4d(ctx, q, s.head, s.n_gqa, s.n_tokens, s.n_head_kv);

    k = ggml_view_4d(ctx, k, s.head, s.n_kv, 1, s.n_head_kv, k->nb[2], k->nb[1], k->nb[1], 0);
    v = ggml_view_4d(ctx, v, s.head, s.n_kv, 1, s.n_head_kv, v->nb[2], v->nb[1], v->nb[1], 0);

    ggml_tensor * cur = ggml_flash_attn_ext(ctx, ggml_permute(ctx, q, 0, 2, 1, 3), k, v, ggml_add(ctx, mask, rows), 1.0f/std::sqrt((float) s.head), 0.0f, 0.0f);
    if (s.n_tokens > 1) {
        cur = ggml_reshape_3d(ctx, cur, s.head*s.n_gqa, s.n_tokens, s.n_head_kv);
        cur = ggml_cont(ctx, ggml_permute(ctx, cur, 0, 2, 1, 3));
    }
    return cur;
}

int main(int argc, char ** argv) {
    if (argc != 10) {
        fprintf(stderr, "usage: bench-attn absent|native|portable TYPE HEAD N_HEAD_KV N_GQA N_KV N_TOKENS N_THREADS SECONDS\n");
        return 2;
    }
    const std::string mode = argv[1], type = argv[2];

    shape s = { GGML_TYPE_COUNT, atoll(argv[3]), atoll(argv[4]), atoll(argv[5]), atoll(argv[6]), atoll(argv[7]) };
    for (ggml_type t : { GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 }) {
        if (type == ggml_type_name(t)) {
            s.type = t;
        }
    }
    if (s.type == GGML_TYPE_COUNT || (mode != "absent" && mode != "native" && mode != "portable")) {
        fprintf(stderr, "bench-attn: no such mode or type: %s %s\n", mode.c_str(), type.c_str());
        return 2;
    }

    ggml_context_ptr ctx(ggml_init({ 64*N_LAYERS*ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true }));
    ggml_cgraph * graph = ggml_new_graph(ctx.get());

    ggml_tensor * mask = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F16, s.n_kv, s.n_tokens);
    // one repetition serves all layers
    ggml_tensor * repeated = mode == "portable" ? ggml_repeat_4d(ctx.get(), mask, s.n_kv, s.n_tokens, 1, s.n_head_kv) : nullptr;

    std::vector<ggml_tensor *> inputs, cards;
    for (int il = 0; il < N_LAYERS; ++il) {
        ggml_tensor * q = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, s.head, s.n_head_kv*s.n_gqa, s.n_tokens);
        ggml_tensor * k = ggml_new_tensor_3d(ctx.get(), s.type, s.head, s.n_head_kv, s.n_kv);
        ggml_tensor * v = ggml_new_tensor_3d(ctx.get(), s.type, s.head, s.n_head_kv, s.n_kv);
        ggml_tensor * card = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F16, s.n_kv, s.n_head_kv);
        inputs.insert(inputs.end(), { q, k, v });
        cards.push_back(card);

        ggml_tensor * out;
        if (mode == "portable") {
            out = portable(ctx.get(), s, q, k, v, repeated, card);
        } else {
            out = ggml_flash_attn_ext(ctx.get(), ggml_permute(ctx.get(), q, 0, 2, 1, 3), ggml_permute(ctx.get(), k, 0, 2, 1, 3), ggml_permute(ctx.get(), v, 0, 2, 1, 3),
                    mask, 1.0f/std::sqrt((float) s.head), 0.0f, 0.0f);
            if (mode == "native") {
                ggml_asymkv_set_log_card(out, ggml_view_3d(ctx.get(), card, s.n_kv, 1, s.n_head_kv, card->nb[1], card->nb[1], 0));
            }
        }
        ggml_build_forward_expand(graph, out);
    }

    ggml_backend_ptr backend(ggml_backend_cpu_init());
    ggml_backend_cpu_set_n_threads(backend.get(), atoi(argv[8]));
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        if (!ggml_backend_supports_op(backend.get(), ggml_graph_node(graph, i)) ||
                (ggml_asymkv_log_card(ggml_graph_node(graph, i)) && !(ggml_asymkv_dev_ops(ggml_backend_get_device(backend.get())) & GGML_ASYMKV_OPS_ATTN))) {
            fprintf(stderr, "bench-attn: this ggml has no op for mode %s\n", mode.c_str());
            return 1;
        }
    }
    ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors(ctx.get(), backend.get()));

    std::mt19937 gen(1);
    const auto fill = [&](ggml_tensor * t, auto && value) {
        std::vector<float> values(ggml_nelements(t));
        std::generate(values.begin(), values.end(), value);
        std::vector<uint8_t> bytes(ggml_nbytes(t));
        ggml_quantize_chunk(t->type, values.data(), bytes.data(), 0, ggml_nrows(t), t->ne[0], nullptr);
        ggml_backend_tensor_set(t, bytes.data(), 0, bytes.size());
    };
    std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
    for (ggml_tensor * t : inputs) {
        fill(t, [&]() { return uniform(gen); });
    }
    for (ggml_tensor * t : cards) {
        fill(t, [&]() { return std::log(1.0f + gen() % 20); });
    }
    fill(mask, []() { return 0.0f; });

    using clock = std::chrono::steady_clock;
    const auto end = clock::now() + std::chrono::duration<double>(atof(argv[9]));

    double best = INFINITY;
    do {
        const auto start = clock::now();
        ggml_backend_graph_compute(backend.get(), graph);
        best = std::min(best, std::chrono::duration<double, std::micro>(clock::now() - start).count());
    } while (clock::now() < end);

    printf("%.3f\n", best/N_LAYERS);
    return 0;
}
