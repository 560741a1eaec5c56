// what the programs of this folder share: a model, contexts with a merged cache, texts, states

#pragma once

#include "asymkv.h"
#include "llama.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#define CHECK(x)                                                                                              \
    do {                                                                                                      \
        if (!(x)) {                                                                                           \
            fprintf(stderr, "FAIL %s (%s:%d); last error: %s\n", #x, __FILE__, __LINE__, asymkv_last_error()); \
            abort();                                                                                          \
        }                                                                                                     \
    } while (0)

namespace capi {

struct model_deleter   { void operator()(llama_model   * model) const { llama_model_free(model); } };
struct context_deleter { void operator()(llama_context * ctx)   const { llama_free(ctx); } };

using model_ptr   = std::unique_ptr<llama_model,   model_deleter>;
using context_ptr = std::unique_ptr<llama_context, context_deleter>;
using bytes       = std::vector<uint8_t>;
using tokens      = std::vector<llama_token>;

constexpr uint32_t N_CTX   = 1024;
constexpr uint32_t N_BATCH = 48;

inline void be_quiet() {
    if (!getenv("ASYMKV_CAPI_LOG")) { // for whoever looks for the reason of a failure
        llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    }
}

inline model_ptr open_model(const char * path) {
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;

    model_ptr model(llama_model_load_from_file(path, params));
    if (!model) {
        fprintf(stderr, "FAIL the model %s does not load\n", path);
        exit(1);
    }
    return model;
}

// a cache that is full after a few batches: 256 slots is the least that there is
inline asymkv_params small_params() {
    asymkv_params p;
    asymkv_params_init(&p);
    p.budget  = 96;
    p.room    = N_BATCH;
    p.sinks   = 4;
    p.recent  = 24;
    p.observe = 12;
    return p;
}

inline llama_context_params small_context() {
    llama_context_params params = llama_context_default_params();
    params.n_ctx           = N_CTX;
    params.n_batch         = 2*N_BATCH;
    params.n_ubatch        = 2*N_BATCH;
    params.n_threads       = 1;
    params.n_threads_batch = 1;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.swa_full        = false;
    params.no_perf         = true;
    return params;
}

// params == null: a stock cache
inline context_ptr open_context(llama_model * model, const asymkv_params * params, llama_context_params settings = small_context()) {
    CHECK(asymkv_set_next(params) == ASYMKV_OK);
    context_ptr ctx(llama_init_from_model(model, settings));
    CHECK(asymkv_set_next(nullptr) == ASYMKV_OK);
    return ctx;
}

inline uint32_t n_vocab(const llama_context * ctx) {
    return (uint32_t) llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));
}

inline tokens random_text(const llama_context * ctx, size_t n, uint32_t seed) {
    std::mt19937 rng(seed);
    tokens res(n);
    for (auto & token : res) {
        token = (llama_token) (3 + rng() % (n_vocab(ctx) - 3));
    }
    return res;
}

// where the text goes on by itself
inline int32_t decode(llama_context * ctx, const llama_token * text, size_t n) {
    return llama_decode(ctx, llama_batch_get_one(const_cast<llama_token *>(text), (int32_t) n));
}

inline void read(llama_context * ctx, const tokens & text, size_t n_batch = N_BATCH) {
    for (size_t i = 0; i < text.size(); i += n_batch) {
        CHECK(decode(ctx, text.data() + i, std::min(n_batch, text.size() - i)) == 0);
    }
}

inline std::vector<float> last_logits(llama_context * ctx) {
    const float * logits = llama_get_logits_ith(ctx, -1);
    CHECK(logits);
    return { logits, logits + n_vocab(ctx) };
}

inline std::vector<float> read_on(llama_context * ctx, const tokens & text, size_t n_batch = N_BATCH) {
    read(ctx, text, n_batch);
    return last_logits(ctx);
}

inline bool all_finite(const std::vector<float> & x) {
    for (const float v : x) {
        if (!std::isfinite(v)) {
            return false;
        }
    }
    return true;
}

inline llama_memory_t memory(llama_context * ctx) { return llama_get_memory(ctx); }

inline llama_pos pos_max(llama_context * ctx) { return llama_memory_seq_pos_max(memory(ctx), 0); }

// of the whole context, or of its sequence
inline bytes state_of(llama_context * ctx, bool sequence = false) {
    bytes res(sequence ? llama_state_seq_get_size(ctx, 0) : llama_state_get_size(ctx));
    CHECK(!res.empty());
    const size_t n = sequence ? llama_state_seq_get_data(ctx, res.data(), res.size(), 0) : llama_state_get_data(ctx, res.data(), res.size());
    CHECK(n == res.size());
    return res;
}

inline size_t restore(llama_context * ctx, const bytes & state, bool sequence = false) {
    return sequence ? llama_state_seq_set_data(ctx, state.data(), state.size(), 0) : llama_state_set_data(ctx, state.data(), state.size());
}

inline asymkv_stats stats_of(llama_context * ctx) {
    asymkv_stats stats = {};
    stats.size = sizeof(stats);
    CHECK(asymkv_get_stats(ctx, &stats) == ASYMKV_OK);
    return stats;
}

// one sentence, as people read it
inline bool is_sentence(const std::string & s) {
    return s.size() > 10 && s.size() < 500 && s.find('\n') == std::string::npos;
}

inline bool last_error_has(const char * words) {
    const std::string error = asymkv_last_error();
    return is_sentence(error) && error.find(words) != std::string::npos;
}

// all invariants hold, and every group counts every token
inline bool is_sound(llama_context * ctx) {
    if (asymkv_check(ctx) != ASYMKV_OK) {
        fprintf(stderr, "%s\n", asymkv_last_error());
        return false;
    }
    const asymkv_stats stats = stats_of(ctx);
    for (uint32_t layer = 0; layer < stats.n_layer; ++layer) {
        for (uint32_t group = 0; group < stats.n_group; ++group) {
            std::vector<asymkv_slot> slots(stats.n_slots);
            uint64_t n = 0;
            if (asymkv_slots(ctx, layer, group, slots.data(), stats.n_slots) != (int) stats.n_slots || asymkv_n_lost(ctx, layer, group, &n) != ASYMKV_OK) {
                return false;
            }
            for (const auto & slot : slots) {
                n += slot.cardinality;
            }
            if (n != stats.n_tokens) {
                return false;
            }
        }
    }
    return true;
}

} // namespace capi
