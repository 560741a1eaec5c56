#include "asymkv.h"

#include "llama-arch.h"
#include "llama-asymkv-model.h"
#include "llama-asymkv-native.h"
#include "llama-asymkv-next.h"
#include "llama-context.h"
#include "llama-impl.h"
#include "llama-kv-cache-asym.h"
#include "llama-kv-cache-iswa.h"
#include "llama-memory-hybrid.h"
#include "llama-memory-hybrid-iswa.h"

#include "asymkv-compress.h"
#include "asymkv-params.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <stdexcept>

// the C API: checks what comes in, turns exceptions into codes, and finds the merged cache of a context

static thread_local std::string   last_error;
static thread_local asymkv_params next_params;
static thread_local bool          has_next = false;

const asymkv_params * llama_asymkv_next() {
    return has_next ? &next_params : nullptr;
}

void llama_asymkv_next_clear() {
    has_next = false;
}

int llama_asymkv_fail(int status, const std::string & sentence) {
    last_error = sentence;
    return status;
}

static llama_kv_cache_asym * find_cache(llama_memory_i * memory) {
    if (auto * hybrid = dynamic_cast<llama_memory_hybrid *>(memory)) {
        memory = hybrid->get_mem_attn();
    } else if (auto * hybrid_iswa = dynamic_cast<llama_memory_hybrid_iswa *>(memory)) {
        memory = hybrid_iswa->get_mem_attn();
    }
    if (auto * iswa = dynamic_cast<llama_kv_cache_iswa *>(memory)) {
        memory = iswa->get_base();
    }
    return dynamic_cast<llama_kv_cache_asym *>(memory);
}

uint32_t llama_asymkv_n_nodes(llama_memory_i * memory) {
    const auto * cache = find_cache(memory);

    return cache ? cache->n_nodes() : 0;
}

bool llama_asymkv_refuses(llama_memory_i * memory, const char * what) {
    if (!find_cache(memory)) {
        return false;
    }
    const std::string sentence = std::string("a merged cache holds one sequence, number 0, and cannot ") + what;

    llama_asymkv_fail(ASYMKV_ERR_UNSUPPORTED, sentence);
    LLAMA_LOG_WARN("asymkv: %s\n", sentence.c_str());
    return true;
}

void llama_asymkv_check_restored(llama_memory_i * memory) {
    const auto * cache = find_cache(memory);
    if (!cache) {
        return;
    }
    const llama_pos pos = cache->seq_pos_max(0);

    bool is_one = true;
    if (auto * hybrid = dynamic_cast<llama_memory_hybrid *>(memory)) {
        is_one = hybrid->get_mem_recr()->seq_pos_max(0) == pos;
    } else if (auto * hybrid_iswa = dynamic_cast<llama_memory_hybrid_iswa *>(memory)) {
        is_one = hybrid_iswa->get_mem_recr()->seq_pos_max(0) == pos;
        memory = hybrid_iswa->get_mem_attn();
    }
    if (auto * iswa = dynamic_cast<llama_kv_cache_iswa *>(memory)) {
        is_one = is_one && iswa->get_swa()->seq_pos_max(0) == pos;
    }
    if (!is_one) {
        throw std::runtime_error("the state contradicts itself: its parts end at different positions");
    }
}

// even the sentence about memory that ran out needs some
static int fail_what(int status, const std::exception & err) noexcept {
    try {
        last_error = err.what();
    } catch (const std::exception &) {
        last_error.clear();
    }
    return status;
}

// runs f() and returns its status: no exception leaves the C API
template <typename F>
static int guarded(F f) {
    try {
        return f();
    } catch (const std::invalid_argument & err) {
        return fail_what(ASYMKV_ERR_PARAMS, err);
    } catch (const std::exception & err) {
        return fail_what(ASYMKV_ERR_FAILED, err);
    }
}

// the same of f(cache)
template <typename F>
static int with_cache(llama_context * ctx, F f) {
    return guarded([&]() -> int {
        auto * cache = ctx ? find_cache(llama_get_memory(ctx)) : nullptr;
        if (!cache) {
            return llama_asymkv_fail(ASYMKV_ERR_NO_CACHE, "this context has no merged cache: ask for it when making the context (asymkv=True in Python, asymkv_set_next() in C)");
        }
        return f(*cache);
    });
}

static int check_group_index(const llama_kv_cache_asym & cache, uint32_t layer, uint32_t group) {
    if (layer >= cache.n_layer()) {
        return llama_asymkv_fail(ASYMKV_ERR_PARAMS, "layer " + std::to_string(layer) + " is out of range: the cache has " + std::to_string(cache.n_layer()) + " merged layers");
    }
    if (group >= cache.n_group(layer)) {
        return llama_asymkv_fail(ASYMKV_ERR_PARAMS, "group " + std::to_string(group) + " is out of range: layer " + std::to_string(layer) + " has " + std::to_string(cache.n_group(layer)));
    }
    return ASYMKV_OK;
}

template <typename T>
static bool has_size(const T * value) {
    return value && value->size == sizeof(T);
}

static int fail_size(const char * name) {
    return guarded([&] {
        return llama_asymkv_fail(ASYMKV_ERR_PARAMS, std::string(name) + " is null or has another size than this library's: header and library are of different versions");
    });
}

const char * asymkv_last_error(void) {
    return last_error.c_str();
}

void asymkv_struct_sizes(size_t * params, size_t * stats, size_t * slot, size_t * group, size_t * op, size_t * result) {
    const auto put = [](size_t * out, size_t size) {
        if (out) {
            *out = size;
        }
    };
    put(params, sizeof(asymkv_params));
    put(stats,  sizeof(asymkv_stats));
    put(slot,   sizeof(asymkv_slot));
    put(group,  sizeof(asymkv_group));
    put(op,     sizeof(asymkv_op));
    put(result, sizeof(asymkv_result));
}

void asymkv_params_init(struct asymkv_params * params) {
    if (params) {
        *params = asymkv::params_default();
    }
}

int asymkv_params_check(const struct asymkv_params * params) {
    return guarded([&]() -> int {
        if (!params) {
            return fail_size("asymkv_params");
        }
        const std::string problem = asymkv::params_problem(*params);

        return problem.empty() ? ASYMKV_OK : llama_asymkv_fail(ASYMKV_ERR_PARAMS, problem);
    });
}

int asymkv_model_check(const struct llama_model * model, const struct asymkv_params * params) {
    return guarded([&]() -> int {
        if (!model) {
            return llama_asymkv_fail(ASYMKV_ERR_PARAMS, "there is no model to check");
        }
        if (const int status = asymkv_params_check(params)) {
            return status;
        }
        const std::string problem = llama_asymkv_model_problem(*model);

        return problem.empty() ? ASYMKV_OK : llama_asymkv_fail(ASYMKV_ERR_UNSUPPORTED, problem);
    });
}

const char * asymkv_architecture(uint32_t i) {
    return i < (uint32_t) LLM_ARCH_UNKNOWN ? llm_arch_name((llm_arch) i) : nullptr;
}

int asymkv_set_next(const struct asymkv_params * params) {
    has_next = false;
    if (!params) {
        return ASYMKV_OK;
    }
    if (const int status = asymkv_params_check(params)) {
        return status;
    }
    next_params = *params;
    has_next    = true;

    return ASYMKV_OK;
}

int asymkv_get_params(struct llama_context * ctx, struct asymkv_params * params) {
    if (!has_size(params)) {
        return fail_size("asymkv_params");
    }
    return with_cache(ctx, [&](llama_kv_cache_asym & cache) {
        *params = cache.get_params();
        return ASYMKV_OK;
    });
}

int asymkv_get_stats(struct llama_context * ctx, struct asymkv_stats * stats) {
    if (!has_size(stats)) {
        return fail_size("asymkv_stats");
    }
    return with_cache(ctx, [&](llama_kv_cache_asym & cache) {
        cache.get_stats(*stats);
        return ASYMKV_OK;
    });
}

int asymkv_compress(struct llama_context * ctx, uint32_t n_keep) {
    return with_cache(ctx, [&](llama_kv_cache_asym & cache) {
        return (asymkv_status) cache.compress(ctx, n_keep > 0 ? n_keep : cache.get_params().budget);
    });
}

int asymkv_slots(struct llama_context * ctx, uint32_t layer, uint32_t group, struct asymkv_slot * slots, uint32_t n_max) {
    return with_cache(ctx, [&](llama_kv_cache_asym & cache) -> int {
        if (const int status = check_group_index(cache, layer, group)) {
            return status;
        }
        const auto all = cache.get_slots(layer, group);
        if (slots) {
            std::copy(all.begin(), all.begin() + std::min<size_t>(all.size(), n_max), slots);
        }
        return (int) all.size();
    });
}

int asymkv_n_lost(struct llama_context * ctx, uint32_t layer, uint32_t group, uint64_t * n_lost) {
    return with_cache(ctx, [&](llama_kv_cache_asym & cache) -> int {
        if (const int status = check_group_index(cache, layer, group)) {
            return status;
        }
        if (n_lost) {
            *n_lost = cache.get_n_lost(layer, group);
        }
        return ASYMKV_OK;
    });
}

int asymkv_read_group(struct llama_context * ctx, uint32_t layer, uint32_t group, struct asymkv_group * out) {
    if (!has_size(out)) {
        return fail_size("asymkv_group");
    }
    return with_cache(ctx, [&](llama_kv_cache_asym & cache) -> int {
        if (const int status = check_group_index(cache, layer, group)) {
            return status;
        }
        llama_kv_cache_asym::group_arrays arrays;
        cache.read_group(ctx, layer, group, arrays);

        const asymkv_group buffers = *out;
        *out = arrays.group;

        // the caller's buffers instead of ours, filled where there is one
        const auto fill = [](auto & field, const auto & buffer, const auto & values) {
            using T = typename std::decay_t<decltype(values)>::value_type;
            field = buffer;
            if (buffer) {
                std::copy(values.begin(), values.end(), const_cast<T *>(buffer));
            }
        };
        const std::vector<float> freqs(arrays.group.rope_freqs, arrays.group.rope_freqs + arrays.group.n_rot/2);
        if (arrays.sink_logits.empty()) { // e^-infinity adds nothing
            arrays.sink_logits.assign((size_t) arrays.group.n_heads*arrays.group.n_queries, -INFINITY);
        }

        fill(out->keys,            buffers.keys,            arrays.keys);
        fill(out->values,          buffers.values,          arrays.values);
        fill(out->queries,         buffers.queries,         arrays.queries);
        fill(out->query_positions, buffers.query_positions, arrays.query_positions);
        fill(out->positions,       buffers.positions,       arrays.positions);
        fill(out->cardinalities,   buffers.cardinalities,   arrays.cardinalities);
        fill(out->scores,          buffers.scores,          arrays.scores);
        fill(out->is_protected,    buffers.is_protected,    arrays.is_protected);
        fill(out->is_expired,      buffers.is_expired,      arrays.is_expired);
        fill(out->rope_freqs,      buffers.rope_freqs,      freqs);
        fill(out->sink_logits,     buffers.sink_logits,     arrays.sink_logits);

        return ASYMKV_OK;
    });
}

uint32_t asymkv_native_ops(void) {
    std::vector<ggml_backend_dev_t> devs;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        devs.push_back(ggml_backend_dev_get(i));
    }
    return llama_asymkv_dev_ops(devs);
}

int asymkv_check(struct llama_context * ctx) {
    return with_cache(ctx, [&](llama_kv_cache_asym & cache) -> int {
        ctx->synchronize();
        const std::string problem = cache.problem(true);
        return problem.empty() ? ASYMKV_OK : llama_asymkv_fail(ASYMKV_ERR_FAILED, "an invariant of the merged cache does not hold: " + problem);
    });
}

int asymkv_compress_group(const struct asymkv_params * params, const struct asymkv_group * group, uint32_t n_keep, struct asymkv_result * result) {
    return guarded([&]() -> int {
        if (const int status = asymkv_params_check(params)) {
            return status;
        }
        if (!has_size(group)) {
            return fail_size("asymkv_group");
        }
        if (!has_size(result)) {
            return fail_size("asymkv_result");
        }
        const std::string problem = asymkv::group_problem(*group);
        if (!problem.empty()) {
            return llama_asymkv_fail(ASYMKV_ERR_PARAMS, problem);
        }

        asymkv::group_compression comp;
        asymkv::compress_group(*params, *group, n_keep, comp);

        const auto & plan  = comp.plan;
        const auto & state = comp.state;

        result->n_ops       = (uint32_t) plan.ops.size();
        result->n_merges    = plan.n_merges;
        result->n_evictions = plan.n_evictions;

        if (result->mass) {
            std::copy(state.seen.mass.begin(), state.seen.mass.end(), result->mass);
        }
        if (result->cost_merge) {
            std::copy(plan.first.merge.begin(), plan.first.merge.end(), result->cost_merge);
        }
        if (result->cost_evict) {
            std::copy(plan.first.evict.begin(), plan.first.evict.end(), result->cost_evict);
        }
        if (result->ops) {
            std::copy(plan.ops.begin(), plan.ops.end(), result->ops);
        }

        const size_t n_key   = (size_t) group->n_heads*group->head_k;
        const size_t n_value = (size_t) group->n_heads*group->head_v;

        for (size_t s = 0; s < plan.kept.size(); ++s) {
            const uint32_t i = plan.kept[s];
            if (result->kept)          { result->kept[s] = i; }
            if (result->keys)          { std::copy_n(state.keys  .begin() + i*n_key,   n_key,   result->keys   + s*n_key); }
            if (result->values)        { std::copy_n(state.values.begin() + i*n_value, n_value, result->values + s*n_value); }
            if (result->positions)     { result->positions[s]     = state.positions[i]; }
            if (result->cardinalities) { result->cardinalities[s] = state.cards[i]; }
            if (result->scores)        { result->scores[s]        = (float) state.scores[i]; }
        }
        return ASYMKV_OK;
    });
}
