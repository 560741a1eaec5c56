#pragma once

// compression of a cache, for upstream's tests/test-backend-ops.cpp, which includes this after its own cases
//
// every case runs OBSERVE, PLAN and MERGE on a small layer, and compares the mass that was observed and all of K and V
// afterwards with the CPU's, which runs the same kernels. That those are right is told by tests/test_device_*.py

#include "ggml-asymkv.h"
#include "ggml-asymkv-compress.h"

struct test_asymkv_compress : public test_case {
    const ggml_type type_k;
    const ggml_type type_v;
    const int64_t   n_slots;
    const int64_t   head;
    const int64_t   n_head_kv;
    const int64_t   n_gqa;
    const bool      per_head;
    const bool      v_trans;
    const int       score;
    const int       key_weights;
    const int       hadamard;
    const bool      sinks;

    static constexpr int64_t n_observed = 9;

    test_asymkv_compress(ggml_type type_k, ggml_type type_v, int64_t n_slots, int64_t head, int64_t n_head_kv, int64_t n_gqa, bool per_head = true,
            int score = AKV_SCORE_EXACT, int key_weights = AKV_KEYS_MASS, int hadamard = 0, bool v_trans = false, bool sinks = false)
        : type_k(type_k), type_v(type_v), n_slots(n_slots), head(head), n_head_kv(n_head_kv), n_gqa(n_gqa), per_head(per_head), v_trans(v_trans),
          score(score), key_weights(key_weights), hadamard(hadamard), sinks(sinks) {}

    std::string op_desc(ggml_tensor *) override { return "ASYMKV_COMPRESS"; }

    std::string vars() override {
        return VARS_TO_STR12(type_k, type_v, n_slots, head, n_head_kv, n_gqa, per_head, v_trans, score, key_weights, hadamard, sinks);
    }

    bool run_whole_graph() override { return true; }

    // a row that is rounded to its neighbour, here and there
    double max_nmse_err() override { return ggml_is_quantized(type_k) ? 1e-4 : 1e-5; }

    ggml_tensor * build_graph(ggml_context * ctx) override {
        const int64_t n_cells = n_slots + n_slots/8;
        const int64_t n_group = per_head ? n_head_kv : 1;

        ggml_asymkv_compress_sources src = {};
        src.k      = ggml_new_tensor_2d(ctx, type_k, head*n_head_kv, n_cells);
        src.v      = ggml_new_tensor_2d(ctx, type_v, head*n_head_kv, n_cells);
        src.q      = ggml_new_tensor_2d(ctx, ggml_is_quantized(type_k) ? GGML_TYPE_Q8_0 : GGML_TYPE_F16, head*n_head_kv*n_gqa, n_observed + 3);
        src.q_rows = ggml_new_tensor_2d(ctx, GGML_TYPE_I32, n_observed, 2);
        src.cells  = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n_slots);
        src.slots  = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, n_slots, AKV_SLOT_FIELDS, n_group);
        src.freqs  = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, head/2);
        src.sinks  = sinks ? ggml_new_tensor_1d(ctx, GGML_TYPE_F32, n_head_kv*n_gqa) : nullptr;
        ggml_set_name(src.q_rows, "q_rows");
        ggml_set_name(src.cells,  "cells");
        ggml_set_name(src.slots,  "slots");
        ggml_set_name(src.freqs,  "freqs");

        ggml_asymkv_compress_scalars scalars = {};
        scalars.n_keep      = (uint32_t) n_slots*2/3;
        scalars.n_heads     = (uint32_t) (n_head_kv/n_group);
        scalars.n_gqa       = (uint32_t) n_gqa;
        scalars.head_k      = (uint32_t) head;
        scalars.head_v      = (uint32_t) head;
        scalars.hadamard    = (uint32_t) hadamard;
        scalars.scale       = 1.0f/sqrtf((float) head);
        scalars.first_index = 4;
        scalars.score       = (uint8_t) score;
        scalars.key_weights = (uint8_t) key_weights;
        scalars.merges      = score < AKV_SCORE_H2O;
        scalars.evicts      = score >= AKV_SCORE_H2O || score == AKV_SCORE_EXACT;
        scalars.rope_neox   = 1;
        scalars.v_trans     = v_trans;

        src.seen = ggml_asymkv_compress(ctx, src, scalars);
        src.plan = ggml_asymkv_compress(ctx, src, scalars);
        ggml_tensor * merge = ggml_asymkv_compress(ctx, src, scalars);

        // K and V are read when MERGE is done
        const auto after = [&](ggml_tensor * t) {
            ggml_tensor * view = ggml_view_tensor(ctx, t);
            view->op     = GGML_OP_VIEW;
            view->src[0] = t;
            view->src[1] = merge;
            ggml_tensor * floats = t->type == GGML_TYPE_F32 ? ggml_cont(ctx, view) :
                ggml_cpy(ctx, view, ggml_new_tensor_2d(ctx, GGML_TYPE_F32, t->ne[0], t->ne[1])); // a cast's reference to itself would not be copied
            return ggml_reshape_1d(ctx, floats, ggml_nelements(floats));
        };
        ggml_tensor * mass = ggml_cont(ctx, ggml_view_2d(ctx, src.seen, n_slots, n_group, src.seen->nb[1], 0));

        ggml_tensor * out = ggml_concat(ctx, ggml_concat(ctx, after(src.k), after(src.v), 0), ggml_reshape_1d(ctx, mass, n_slots*n_group), 0);
        ggml_set_name(out, "out");
        return out;
    }

    void initialize_tensors(ggml_context * ctx) override {
        std::mt19937 gen(1);
        const auto uniform = [&]() { return std::uniform_real_distribution<float>(-1.0f, 1.0f)(gen); };

        for (ggml_tensor * t = ggml_get_first_tensor(ctx); t != nullptr; t = ggml_get_next_tensor(ctx, t)) {
            if (t->op != GGML_OP_NONE || t->view_src) {
                continue;
            }
            std::vector<float>   floats(ggml_nelements(t));
            std::vector<int32_t> ints  (ggml_nelements(t));

            if (strcmp(t->name, "q_rows") == 0) {
                for (int64_t i = 0; i < n_observed; ++i) {
                    ints[i]              = (int32_t) ((i*5 + 2) % (n_observed + 3));
                    ints[i + n_observed] = (int32_t) (3*n_slots - n_observed + i);
                }
                ggml_backend_tensor_set(t, ints.data(), 0, ggml_nbytes(t));
            } else if (strcmp(t->name, "cells") == 0) {
                for (int64_t i = 0; i < n_slots; ++i) {
                    ints[i] = (int32_t) (i + i/9);
                }
                ggml_backend_tensor_set(t, ints.data(), 0, ggml_nbytes(t));
            } else if (strcmp(t->name, "slots") == 0) {
                for (int64_t g = 0; g < t->ne[2]; ++g) {
                    float * f = floats.data() + g*AKV_SLOT_FIELDS*n_slots;
                    for (int64_t i = 0; i < n_slots; ++i) {
                        const bool is_protected = i < 4 || i >= n_slots - 12;
                        const int  card = is_protected || gen() % 3 != 0 ? 1 : 2 + gen() % 5;
                        f[i]             = (float) (3*i);
                        f[i + n_slots]   = card > 1 ? 0.5f + 0.4f*uniform() : 0.0f;
                        f[i + 2*n_slots] = (float) card;
                        f[i + 3*n_slots] = std::fabs(uniform());
                        f[i + 4*n_slots] = is_protected ? AKV_PROTECTED : i % 9 == 5 ? AKV_EXPIRED : AKV_FREE;
                        f[i + 5*n_slots] = 0.1f*f[i + 3*n_slots];
                    }
                }
                ggml_backend_tensor_set(t, floats.data(), 0, ggml_nbytes(t));
            } else if (strcmp(t->name, "freqs") == 0) {
                for (int64_t i = 0; i < head/2; ++i) {
                    floats[i] = std::pow(10000.0f, -2.0f*i/head);
                }
                ggml_backend_tensor_set(t, floats.data(), 0, ggml_nbytes(t));
            } else {
                for (float & x : floats) {
                    x = 2.0f*uniform();
                }
                std::vector<uint8_t> bytes(ggml_nbytes(t));
                ggml_quantize_chunk(t->type, floats.data(), bytes.data(), 0, ggml_nrows(t), t->ne[0], nullptr);
                ggml_backend_tensor_set(t, bytes.data(), 0, bytes.size());
            }
        }
    }
};

static void add_asymkv_compress_cases(std::vector<std::unique_ptr<test_case>> & cases) {
    const ggml_type types[] = { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 };

    for (ggml_type type : types) {
        for (int64_t head : { 32, 64, 128, 256 }) {
            cases.emplace_back(new test_asymkv_compress(type, type, 100, head, 2, 4));
        }
        for (bool per_head : { true, false }) {
            for (int64_t n_gqa : { 1, 4, 8 }) {
                cases.emplace_back(new test_asymkv_compress(type, type, 301, 64, 2, n_gqa, per_head));
            }
        }
        for (int score : { AKV_SCORE_MASS, AKV_SCORE_OUTPUT, AKV_SCORE_EXACT }) {
            for (int key_weights : { AKV_KEYS_MEAN, AKV_KEYS_MASS, AKV_KEYS_SLIMMER, AKV_KEYS_FISHER }) {
                cases.emplace_back(new test_asymkv_compress(type, type, 97, 64, 2, 2, true, score, key_weights, ggml_is_quantized(type) ? 64 : 0));
            }
        }
    }
    for (int score : { AKV_SCORE_H2O, AKV_SCORE_SNAPKV, AKV_SCORE_TOVA, AKV_SCORE_STREAMING }) {
        cases.emplace_back(new test_asymkv_compress(GGML_TYPE_F16, GGML_TYPE_F16, 300, 64, 2, 2, true, score));
    }
    cases.emplace_back(new test_asymkv_compress(GGML_TYPE_Q8_0, GGML_TYPE_F16, 200, 64, 2, 2));
    cases.emplace_back(new test_asymkv_compress(GGML_TYPE_F16,  GGML_TYPE_F16, 300, 64, 2, 2, true, AKV_SCORE_EXACT, AKV_KEYS_MASS, 0, true));
    cases.emplace_back(new test_asymkv_compress(GGML_TYPE_F32,  GGML_TYPE_F32, 300, 48, 2, 2, true, AKV_SCORE_EXACT, AKV_KEYS_MASS, 0, true));
    cases.emplace_back(new test_asymkv_compress(GGML_TYPE_F16,  GGML_TYPE_F16, 1100, 128, 2, 4));
    for (bool per_head : { true, false }) {
        cases.emplace_back(new test_asymkv_compress(GGML_TYPE_F16,  GGML_TYPE_F16, 300, 64, 2, 4, per_head, AKV_SCORE_EXACT, AKV_KEYS_FISHER, 0, false, true));
        cases.emplace_back(new test_asymkv_compress(GGML_TYPE_Q8_0, GGML_TYPE_F16, 300, 64, 2, 1, per_head, AKV_SCORE_MASS,  AKV_KEYS_MASS,   0, false, true));
    }
}
