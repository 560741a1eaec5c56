#include "llama-asymkv-native.h"

#include "llama-impl.h"

#include "ggml-cpp.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>

bool llama_asymkv_attn_kind::operator==(const llama_asymkv_attn_kind & other) const {
    return dev == other.dev && type_k == other.type_k && type_v == other.type_v && head_k == other.head_k && head_v == other.head_v &&
        n_gqa == other.n_gqa && per_head == other.per_head && flash == other.flash && softcap == other.softcap && sinks == other.sinks;
}

uint32_t llama_asymkv_dev_ops(const std::vector<ggml_backend_dev_t> & devs) {
    const char * wish = std::getenv("ASYMKV_NATIVE_OPS");
    if (wish && strcmp(wish, "0") == 0) {
        return 0;
    }

    // whatever a device does not take runs on the CPU
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);

    uint32_t ops = cpu ? ggml_asymkv_dev_ops(cpu) & GGML_ASYMKV_OPS_ATTN : 0;
    uint32_t compress = 0;
    for (ggml_backend_dev_t dev : devs) {
        ops &= ggml_asymkv_dev_ops(dev);

        // but the cache of a layer on a device is compressed by that device alone
        const auto type = ggml_backend_dev_type(dev);
        if (type != GGML_BACKEND_DEVICE_TYPE_CPU && type != GGML_BACKEND_DEVICE_TYPE_ACCEL) {
            compress |= ggml_asymkv_dev_ops(dev) & GGML_ASYMKV_OPS_COMPRESS;
        }
    }
    return ops | compress;
}

//
// the trial: small shapes, on the device and on the CPU
//

// the attention of one kind on random data, with cardinalities that move most of the weight
struct attn_trial {
    const llama_asymkv_attn_kind & kind;
    const int64_t n_tokens;

    static constexpr int64_t n_kv      = 512;
    static constexpr int64_t n_head_kv = 2;
    static constexpr int64_t n_size    = n_kv + 256; // rows of cardinalities belong to a longer tensor

    ggml_context_ptr ctx;

    ggml_tensor * q    = nullptr;
    ggml_tensor * k    = nullptr;
    ggml_tensor * v    = nullptr;
    ggml_tensor * mask = nullptr;
    ggml_tensor * card = nullptr;
    ggml_tensor * sink = nullptr;
    ggml_tensor * out  = nullptr;

    attn_trial(const llama_asymkv_attn_kind & kind, int64_t n_tokens, bool with_card = true) : kind(kind), n_tokens(n_tokens) {
        ggml_init_params params = {
            /*.mem_size   =*/ 16*ggml_tensor_overhead() + ggml_graph_overhead(),
            /*.mem_buffer =*/ nullptr,
            /*.no_alloc   =*/ true,
        };
        ctx.reset(ggml_init(params));

        const int64_t n_head  = n_head_kv*kind.n_gqa;
        const int64_t n_group = kind.per_head ? n_head_kv : 1;

        mask = ggml_new_tensor_2d(ctx.get(), kind.flash ? GGML_TYPE_F16 : GGML_TYPE_F32, n_kv, n_tokens);
        card = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F16, n_size, n_group);
        sink = kind.sinks ? ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, n_head) : nullptr;

        if (kind.flash) {
            q = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, kind.head_k, n_tokens,  n_head);
            k = ggml_new_tensor_3d(ctx.get(), kind.type_k,   kind.head_k, n_head_kv, n_kv);
            v = ggml_new_tensor_3d(ctx.get(), kind.type_v,   kind.head_v, n_head_kv, n_kv);
            out = ggml_flash_attn_ext(ctx.get(), q, ggml_permute(ctx.get(), k, 0, 2, 1, 3), ggml_permute(ctx.get(), v, 0, 2, 1, 3),
                    mask, 1.0f/std::sqrt((float) kind.head_k), 0.0f, kind.softcap);
            ggml_prec_set_acc(out, GGML_PREC_F32);
            ggml_flash_attn_ext_add_sinks(out, sink);
        } else {
            q = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, n_kv, n_tokens, n_head); // the scores themselves
            out = ggml_soft_max_ext(ctx.get(), q, mask, 1.0f, 0.0f);
            ggml_soft_max_add_sinks(out, sink);
        }
        if (with_card) {
            ggml_asymkv_set_log_card(out, ggml_view_3d(ctx.get(), card, n_kv, 1, n_group, card->nb[1], card->nb[1], 0));
        }
    }

    bool is_supported() const { return ggml_backend_dev_supports_op(kind.dev, out); }

    // empty: the device failed
    std::vector<float> compute(ggml_backend_dev_t dev) {
        ggml_backend_ptr backend(ggml_backend_dev_init(dev, nullptr));
        if (!backend) {
            return {};
        }
        ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors(ctx.get(), backend.get()));
        if (!buffer) {
            return {};
        }
        uint32_t seed = 1;
        const auto random = [&]() { // in [-1, 1)
            seed = seed*1664525u + 1013904223u;
            return (float) (seed >> 8)/(1 << 23) - 1.0f;
        };
        const auto fill = [&](ggml_tensor * t, auto && value) {
            if (!t) {
                return;
            }
            std::vector<float> values(ggml_nelements(t));
            for (size_t i = 0; i < values.size(); ++i) {
                values[i] = value(i);
            }
            std::vector<uint8_t> bytes(ggml_nbytes(t));
            ggml_quantize_chunk(t->type, values.data(), bytes.data(), 0, ggml_nrows(t), t->ne[0], nullptr);
            ggml_backend_tensor_set(t, bytes.data(), 0, bytes.size());
        };
        fill(q, [&](size_t) { return 2.0f*random(); });
        fill(k, [&](size_t) { return random(); });
        fill(v, [&](size_t) { return random(); });
        fill(sink, [&](size_t) { return 4.0f + 2.0f*random(); });
        fill(mask, [&](size_t i) { return (int64_t) i % n_kv > n_kv - n_tokens + (int64_t) i/n_kv ? -INFINITY : 0.0f; });
        fill(card, [&](size_t) { return random() < 0.75f ? 0.0f : std::log(std::floor(2.0f + 200.0f*std::fabs(random()))); });

        ggml_cgraph * graph = ggml_new_graph(ctx.get());
        ggml_build_forward_expand(graph, out);
        if (ggml_backend_graph_compute(backend.get(), graph) != GGML_STATUS_SUCCESS) {
            return {};
        }
        std::vector<float> res(ggml_nelements(out));
        ggml_backend_tensor_get(out, res.data(), 0, res.size()*sizeof(float));
        return res;
    }
};

// mean squared error over mean square
static double relative_error(const std::vector<float> & got, const std::vector<float> & expected) {
    double error = 0.0, square = 0.0;
    for (size_t i = 0; i < expected.size(); ++i) {
        error  += ((double) got[i] - expected[i])*((double) got[i] - expected[i]);
        square += (double) expected[i]*expected[i];
    }
    return error/square;
}

static bool try_attn(const llama_asymkv_attn_kind & kind) {
    const char * name = ggml_backend_dev_name(kind.dev);

    for (int64_t n_tokens : { 1, 40 }) {
        const bool is_supported = attn_trial(kind, n_tokens).is_supported();

        if (!is_supported && attn_trial(kind, n_tokens, false).is_supported()) {
            LLAMA_LOG_INFO("%s: %s has no attention with cardinalities for %s/%s heads of %d/%d channels: composing it\n", __func__,
                    name, ggml_type_name(kind.type_k), ggml_type_name(kind.type_v), (int) kind.head_k, (int) kind.head_v);
            return false;
        }
        if (!is_supported) {
            continue; // nor would the stock op run there
        }
        const auto got      = attn_trial(kind, n_tokens).compute(kind.dev);
        const auto expected = attn_trial(kind, n_tokens).compute(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU));

        // NaN is no small error
        if (got.empty() || expected.empty() || !(relative_error(got, expected) < 5e-4)) {
            LLAMA_LOG_WARN("%s: attention with cardinalities on %s does not give what the CPU gives, so it is composed of stock ops: "
                    "please report this with the name of the device\n", __func__, name);
            return false;
        }
    }
    return true;
}

bool llama_asymkv_try_attn(const llama_asymkv_attn_kind & kind) {
    if (ggml_backend_dev_type(kind.dev) == GGML_BACKEND_DEVICE_TYPE_CPU) {
        return true;
    }

    static std::mutex mutex;
    static std::vector<std::pair<llama_asymkv_attn_kind, bool>> tried;

    std::lock_guard<std::mutex> lock(mutex);

    const auto it = std::find_if(tried.begin(), tried.end(), [&](const auto & other) { return other.first == kind; });
    if (it != tried.end()) {
        return it->second;
    }
    tried.emplace_back(kind, try_attn(kind));
    return tried.back().second;
}
