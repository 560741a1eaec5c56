#pragma once

// attention with cardinalities, for upstream's tests/test-backend-ops.cpp, which includes this after its own cases
//
// every case computes the op twice: natively, and composed of stock ops, the cardinalities added to a mask per KV head. Both
// must agree on the backend that is tested, and with the CPU's reference implementation. So the CPU alone proves something, too

#include "ggml-asymkv.h"

// what the cardinalities of a case are
enum asymkv_cards {
    ASYMKV_CARDS_ONE,    // ln 1 = 0 everywhere: on the CPU the result is the stock op's, bit for bit
    ASYMKV_CARDS_MERGED, // one slot in four stands for 2 to 300 tokens
};

enum asymkv_mask {
    ASYMKV_MASK_EMPTY,  // nothing is masked
    ASYMKV_MASK_CAUSAL, // the last queries see what came before them, and some blocks are masked for all
    ASYMKV_MASK_FULL,   // all but one slot are masked
};

struct test_asymkv_attn : public test_case {
    const int64_t n_kv;
    const int64_t n_tokens;
    const int64_t n_head_kv;
    const int64_t n_gqa;
    const bool    per_head;

    const asymkv_mask  mask;
    const asymkv_cards cards;

    test_asymkv_attn(int64_t n_kv, int64_t n_tokens, int64_t n_head_kv, int64_t n_gqa, bool per_head, asymkv_mask mask, asymkv_cards cards)
        : n_kv(n_kv), n_tokens(n_tokens), n_head_kv(n_head_kv), n_gqa(n_gqa), per_head(per_head), mask(mask), cards(cards) {}

    bool run_whole_graph() override { return true; }

    double max_err(ggml_backend_t backend) override {
        const bool is_cpu = ggml_backend_dev_type(ggml_backend_get_device(backend)) == GGML_BACKEND_DEVICE_TYPE_CPU;

        return cards == ASYMKV_CARDS_ONE && is_cpu ? 0.0 : max_nmse_err();
    }

    // the first half of the result is native, the second composed; b is the CPU's reference
    double err(const float * a, const float * b, size_t n) override {
        const size_t half = n/2;

        const double composed = memcmp(a, a + half, half*sizeof(float)) == 0 ? 0.0 : nmse(a, a + half, half);
        if (cards == ASYMKV_CARDS_ONE && composed == 0.0) {
            return nmse(a, b, half) < max_nmse_err() ? 0.0 : nmse(a, b, half);
        }
        return std::max({ composed, nmse(a, b, half), nmse(a, b + half, half) });
    }

    // rows of a longer tensor, as in a cache
    ggml_tensor * new_log_card(ggml_context * ctx) {
        ggml_tensor * all = ggml_new_tensor_2d(ctx, GGML_TYPE_F16, n_kv + 96, per_head ? n_head_kv : 1);
        ggml_set_name(all, "log_card");

        return ggml_view_3d(ctx, all, n_kv, 1, all->ne[1], all->nb[1], all->nb[1], 0);
    }

    void initialize_tensors(ggml_context * ctx) override {
        std::mt19937 gen(1);
        for (ggml_tensor * t = ggml_get_first_tensor(ctx); t != nullptr; t = ggml_get_next_tensor(ctx, t)) {
            if (t->view_src) {
                continue;
            }
            if (strcmp(t->name, "log_card") == 0) {
                std::vector<ggml_fp16_t> data(ggml_nelements(t));
                for (auto & value : data) {
                    value = ggml_fp32_to_fp16(cards == ASYMKV_CARDS_ONE || gen() % 4 != 0 ? 0.0f : std::log(2.0f + gen() % 299));
                }
                ggml_backend_tensor_set(t, data.data(), 0, data.size()*sizeof(ggml_fp16_t));
            } else if (strcmp(t->name, "mask") == 0) {
                std::vector<float> data(ggml_nelements(t));
                for (int64_t i = 0; i < (int64_t) data.size(); ++i) {
                    const int64_t token = i/n_kv % n_tokens, slot = i % n_kv;
                    const bool is_masked =
                        mask == ASYMKV_MASK_CAUSAL ? slot > n_kv - n_tokens + token || (slot/48 % 3 == 1 && slot > 0) :
                        mask == ASYMKV_MASK_FULL   ? slot != token*7 % n_kv : false;
                    data[i] = is_masked ? -INFINITY : 0.0f;
                }
                std::vector<uint8_t> bytes(ggml_nbytes(t));
                ggml_quantize_chunk(t->type, data.data(), bytes.data(), 0, ggml_nrows(t), t->ne[0], nullptr);
                ggml_backend_tensor_set(t, bytes.data(), 0, bytes.size());
            } else {
                init_tensor_uniform(t, -2.0f, 2.0f); // of some variance, so that the softmax is not flat
            }
        }
    }
};

struct test_asymkv_flash : public test_asymkv_attn {
    const int64_t   head_k;
    const int64_t   head_v;
    const ggml_type type_k;
    const ggml_type type_v;
    const bool      sinks;
    const float     softcap;

    test_asymkv_flash(int64_t head_k, int64_t head_v, ggml_type type_k, ggml_type type_v, int64_t n_kv, int64_t n_tokens, int64_t n_head_kv, int64_t n_gqa,
            bool per_head, asymkv_mask mask = ASYMKV_MASK_CAUSAL, asymkv_cards cards = ASYMKV_CARDS_MERGED, bool sinks = false, float softcap = 0.0f)
        : test_asymkv_attn(n_kv, n_tokens, n_head_kv, n_gqa, per_head, mask, cards),
          head_k(head_k), head_v(head_v), type_k(type_k), type_v(type_v), sinks(sinks), softcap(softcap) {}

    std::string op_desc(ggml_tensor *) override { return "FLASH_ATTN_EXT_LOG_CARD"; }

    std::string vars() override {
        return VARS_TO_STR13(head_k, head_v, type_k, type_v, n_kv, n_tokens, n_head_kv, n_gqa, per_head, mask, cards, sinks, softcap);
    }

    double max_nmse_err() override { return 5e-4; }

    ggml_tensor * build_graph(ggml_context * ctx) override {
        const int64_t n_head = n_head_kv*n_gqa;

        // as in a graph of libllama: heads beside each other in every row of the cache, which has rows to spare
        ggml_tensor * q_cur = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, head_k, n_head, n_tokens);
        ggml_tensor * k_all = ggml_new_tensor_3d(ctx, type_k, head_k, n_head_kv, n_kv + 32);
        ggml_tensor * v_all = ggml_new_tensor_3d(ctx, type_v, head_v, n_head_kv, n_kv + 32);

        ggml_tensor * q = ggml_permute(ctx, q_cur, 0, 2, 1, 3);
        ggml_tensor * k = ggml_view_3d(ctx, k_all, head_k, n_kv, n_head_kv, k_all->nb[2], k_all->nb[1], 0);
        ggml_tensor * v = ggml_view_3d(ctx, v_all, head_v, n_kv, n_head_kv, v_all->nb[2], v_all->nb[1], 0);

        ggml_tensor * log_card = new_log_card(ctx);

        ggml_tensor * m = ggml_new_tensor_2d(ctx, GGML_TYPE_F16, n_kv, n_tokens);
        ggml_set_name(m, "mask");
        ggml_tensor * s = sinks ? ggml_new_tensor_1d(ctx, GGML_TYPE_F32, n_head) : nullptr;

        const auto attend = [&](ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, ggml_tensor * m, ggml_tensor * s) {
            ggml_tensor * out = ggml_flash_attn_ext(ctx, q, k, v, m, 1.0f/sqrtf(head_k), 0.0f, softcap);
            ggml_flash_attn_ext_add_sinks(out, s);
            ggml_prec_set_acc(out, GGML_PREC_F32);
            return out;
        };

        ggml_tensor * native = attend(q, k, v, m, s);
        ggml_asymkv_set_log_card(native, log_card);

        // one KV head after the other, where each has its own mask
        const int64_t n_group = log_card->ne[2];
        const int64_t n_q     = n_head/n_group;
        const int64_t n_k     = n_head_kv/n_group;

        ggml_tensor * composed = nullptr;
        for (int64_t g = 0; g < n_group; ++g) {
            ggml_tensor * row = ggml_view_1d(ctx, log_card, n_kv, g*log_card->nb[2]);

            ggml_tensor * out = attend(
                    ggml_view_3d(ctx, q, head_k, n_tokens, n_q, q->nb[1], q->nb[2], g*n_q*q->nb[2]),
                    ggml_view_3d(ctx, k, head_k, n_kv,     n_k, k->nb[1], k->nb[2], g*n_k*k->nb[2]),
                    ggml_view_3d(ctx, v, head_v, n_kv,     n_k, v->nb[1], v->nb[2], g*n_k*v->nb[2]),
                    ggml_add(ctx, m, row), s ? ggml_view_1d(ctx, s, n_q, g*n_q*s->nb[0]) : nullptr);
            composed = composed ? ggml_concat(ctx, composed, out, 1) : out;
        }

        return ggml_concat(ctx, native, composed, 3);
    }
};

struct test_asymkv_soft_max : public test_asymkv_attn {
    const ggml_type type_mask;
    const float     max_bias;
    const bool      sinks;

    test_asymkv_soft_max(ggml_type type_mask, int64_t n_kv, int64_t n_tokens, int64_t n_head_kv, int64_t n_gqa, bool per_head,
            asymkv_mask mask = ASYMKV_MASK_CAUSAL, asymkv_cards cards = ASYMKV_CARDS_MERGED, float max_bias = 0.0f, bool sinks = false)
        : test_asymkv_attn(n_kv, n_tokens, n_head_kv, n_gqa, per_head, mask, cards), type_mask(type_mask), max_bias(max_bias), sinks(sinks) {}

    std::string op_desc(ggml_tensor *) override { return "SOFT_MAX_LOG_CARD"; }

    std::string vars() override {
        return VARS_TO_STR10(type_mask, n_kv, n_tokens, n_head_kv, n_gqa, per_head, mask, cards, max_bias, sinks);
    }

    double max_nmse_err() override { return 1e-6; }

    ggml_tensor * build_graph(ggml_context * ctx) override {
        const int64_t n_head = n_head_kv*n_gqa;
        const float   scale  = 0.7f;

        ggml_tensor * scores   = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, n_kv, n_tokens, n_head);
        ggml_tensor * log_card = new_log_card(ctx);

        ggml_tensor * m = ggml_new_tensor_2d(ctx, type_mask, n_kv, n_tokens);
        ggml_set_name(m, "mask");
        ggml_tensor * s = sinks ? ggml_new_tensor_1d(ctx, GGML_TYPE_F32, n_head) : nullptr;

        ggml_tensor * native = ggml_soft_max_ext(ctx, scores, m, scale, max_bias);
        ggml_soft_max_add_sinks(native, s);
        ggml_asymkv_set_log_card(native, log_card);

        // added to the scores before the softmax. query heads of one KV head stand in dim 2, KV heads in dim 3
        ggml_tensor * rows = ggml_cast(ctx, log_card, GGML_TYPE_F32);
        rows = ggml_reshape_4d(ctx, rows, n_kv, 1, 1, log_card->ne[2]);

        ggml_tensor * sum = ggml_reshape_4d(ctx, ggml_scale(ctx, scores, scale), n_kv, n_tokens, n_gqa, n_head_kv);
        sum = ggml_reshape_3d(ctx, ggml_add(ctx, sum, rows), n_kv, n_tokens, n_head);

        ggml_tensor * composed = ggml_soft_max_ext(ctx, sum, m, 1.0f, max_bias);
        ggml_soft_max_add_sinks(composed, s);

        return ggml_concat(ctx, native, composed, 3);
    }
};

static void add_asymkv_attn_cases(std::vector<std::unique_ptr<test_case>> & cases) {
    const auto flash = [&](auto... args) { cases.emplace_back(new test_asymkv_flash(args...)); };
    const auto soft_max = [&](auto... args) { cases.emplace_back(new test_asymkv_soft_max(args...)); };

    const auto F16 = GGML_TYPE_F16, Q8_0 = GGML_TYPE_Q8_0, Q4_0 = GGML_TYPE_Q4_0;

    // head sizes, one token and a batch, one row of cardinalities and one for every KV head
    for (int64_t head : { 32, 40, 64, 80, 96, 128, 256 }) {
        for (int64_t n_tokens : { 1, 37 }) {
            for (bool per_head : { false, true }) {
                flash(head, head, F16, F16, 256, n_tokens, 2, 4, per_head);
            }
        }
    }
    // slots that are no multiple of a tile, few and many; the CPU splits a cache of 512 and more among its threads
    for (int64_t n_kv : { 32, 113, 300, 512, 1027 }) {
        for (int64_t n_tokens : { 1, 3, 8, 64, 130 }) {
            flash(64, 64, F16, F16, n_kv, std::min(n_tokens, n_kv), 2, 4, true);
        }
    }
    // query heads per KV head
    for (int64_t n_gqa : { 1, 2, 4, 8, 16 }) {
        for (int64_t n_tokens : { 1, 5, 70 }) {
            for (bool per_head : { false, true }) {
                flash(128, 128, F16,  F16,  512, n_tokens, 4, n_gqa, per_head);
                flash(128, 128, Q8_0, Q8_0, 512, n_tokens, 4, n_gqa, per_head);
            }
        }
    }
    // types of the cache
    for (ggml_type type : { GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_F32, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1, GGML_TYPE_IQ4_NL }) {
        for (int64_t n_tokens : { 1, 37 }) {
            flash(64,  64,  type, type, 256, n_tokens, 2, 4, true);
            flash(128, 128, type, type, 300, n_tokens, 2, 4, true);
        }
    }
    flash(128, 128, Q8_0, Q4_0, 256, 1,  2, 4, true);
    flash(128, 128, Q8_0, F16,  256, 37, 2, 4, true);
    flash(192, 128, F16,  F16,  256, 1,  1, 16, true);
    flash(192, 128, F16,  F16,  256, 37, 1, 16, false);

    for (asymkv_mask mask : { ASYMKV_MASK_EMPTY, ASYMKV_MASK_CAUSAL, ASYMKV_MASK_FULL }) {
        for (asymkv_cards cards : { ASYMKV_CARDS_ONE, ASYMKV_CARDS_MERGED }) {
            for (int64_t n_tokens : { 1, 70 }) {
                flash(64,  64,  F16,  F16,  513, n_tokens, 2, 4, false, mask, cards);
                flash(64,  64,  Q8_0, Q8_0, 513, n_tokens, 2, 4, false, mask, cards);
                soft_max(F16,           513, n_tokens, 2, 4, true, mask, cards);
                soft_max(GGML_TYPE_F32, 513, n_tokens, 2, 4, true, mask, cards);
            }
        }
    }
    for (int64_t n_tokens : { 1, 70 }) {
        flash(64,  64,  F16, F16, 512, n_tokens, 2, 4, true, ASYMKV_MASK_CAUSAL, ASYMKV_CARDS_MERGED, true,  0.0f);
        flash(128, 128, F16, F16, 512, n_tokens, 2, 4, true, ASYMKV_MASK_CAUSAL, ASYMKV_CARDS_MERGED, false, 30.0f);
        // gpt-oss: eight query heads of 64 channels for each of eight KV heads, and sinks
        for (bool per_head : { false, true }) {
            flash(64, 64, F16,  F16,  1027, n_tokens, 8, 8, per_head, ASYMKV_MASK_CAUSAL, ASYMKV_CARDS_MERGED, true);
            flash(64, 64, Q8_0, Q8_0, 1027, n_tokens, 8, 8, per_head, ASYMKV_MASK_CAUSAL, ASYMKV_CARDS_MERGED, true);
            soft_max(GGML_TYPE_F32,   1027, n_tokens, 8, 8, per_head, ASYMKV_MASK_CAUSAL, ASYMKV_CARDS_MERGED, 0.0f, true);
        }
    }

    for (int64_t n_kv : { 32, 113, 512, 1027, 4200 }) {
        for (int64_t n_gqa : { 1, 4, 8 }) {
            for (bool per_head : { false, true }) {
                soft_max(GGML_TYPE_F32, n_kv, 1,  4, n_gqa, per_head);
                soft_max(GGML_TYPE_F16, n_kv, 19, 4, n_gqa, per_head);
            }
        }
    }
    // the slope of ALiBi is for the mask alone
    soft_max(GGML_TYPE_F16, 300, 19, 3, 4, true, ASYMKV_MASK_CAUSAL, ASYMKV_CARDS_MERGED, 8.0f, false);
    soft_max(GGML_TYPE_F32, 300, 19, 3, 4, true, ASYMKV_MASK_CAUSAL, ASYMKV_CARDS_MERGED, 0.0f, true);
}
