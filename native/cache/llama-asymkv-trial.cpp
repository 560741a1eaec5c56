#include "llama-asymkv-trial.h"

#include "llama-impl.h"

#include "asymkv-compress.h"

#include "ggml-cpp.h"

#if !defined(_WIN32)
#    include "common/asymkv-dev-cpu.h"
#endif

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#if defined(_WIN32)
void llama_asymkv_as_custom(ggml_tensor * /*op*/, ggml_asymkv_compress_scalars * /*scalars*/) {}
#else
static void compute_custom(ggml_tensor * dst, int ith, int nth, void * scalars) {
    ggml_tensor op = *dst;
    memcpy(op.op_params, scalars, sizeof(ggml_asymkv_compress_scalars));

    const std::string problem = akv_compute(&op, ith, nth);
    if (!problem.empty()) {
        GGML_ABORT("%s", problem.c_str());
    }
}

void llama_asymkv_as_custom(ggml_tensor * op, ggml_asymkv_compress_scalars * scalars) {
    const struct {
        ggml_custom_op_t fun;
        int              n_tasks;
        void           * userdata;
    } params = { compute_custom, GGML_N_TASKS_MAX, scalars };

    op->op = GGML_OP_CUSTOM;
    memcpy(op->op_params, &params, sizeof(params));
}
#endif

namespace {

constexpr uint32_t N_SLOTS    = 90;
constexpr uint32_t N_KEEP     = 60;
constexpr uint32_t N_CELLS    = 100;
constexpr uint32_t N_OBSERVED = 6;
constexpr uint32_t N_SINKS    = 4;
constexpr uint32_t N_RECENT   = 12;
constexpr uint32_t N_GROUP    = 2;
constexpr uint32_t ROOM       = 40;

// a small layer with random rows
struct compress_trial {
    const llama_asymkv_compress_kind & kind;
    ggml_asymkv_compress_scalars       scalars;

    const uint32_t n_head_kv;
    const uint32_t n_queries;

    ggml_context_ptr        ctx;
    ggml_backend_buffer_ptr buffer;

    ggml_asymkv_compress_sources src = {};
    ggml_tensor * merge = nullptr;

    std::vector<float>   freqs;
    std::vector<float>   sinks;
    std::vector<int32_t> q_rows;
    std::vector<int32_t> cells;
    std::vector<float>   slots;

    explicit compress_trial(const llama_asymkv_compress_kind & kind) : kind(kind), scalars(kind.scalars),
            n_head_kv(N_GROUP*kind.scalars.n_heads), n_queries(N_OBSERVED*kind.scalars.n_gqa) {
        scalars.n_keep      = N_KEEP;
        scalars.first_group = 0;
        scalars.first_index = N_SINKS;

        ggml_init_params params = {
            /*.mem_size   =*/ 16*ggml_tensor_overhead() + ggml_graph_overhead(),
            /*.mem_buffer =*/ nullptr,
            /*.no_alloc   =*/ true,
        };
        ctx.reset(ggml_init(params));

        src.k      = ggml_new_tensor_2d(ctx.get(), kind.type_k, scalars.head_k*n_head_kv, N_CELLS);
        src.v      = ggml_new_tensor_2d(ctx.get(), kind.type_v, scalars.head_v*n_head_kv, N_CELLS);
        src.q      = ggml_new_tensor_2d(ctx.get(), kind.type_q, scalars.head_k*n_head_kv*scalars.n_gqa, N_OBSERVED + 1);
        src.q_rows = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, N_OBSERVED, 2);
        src.cells  = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, N_SLOTS);
        src.slots  = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, N_SLOTS, AKV_SLOT_FIELDS, N_GROUP);
        src.freqs  = kind.n_rot > 0 ? ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, kind.n_rot/2) : nullptr;
        src.sinks  = kind.sinks ? ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, n_head_kv*scalars.n_gqa) : nullptr;
        src.seen   = ggml_asymkv_compress(ctx.get(), src, scalars);
        src.plan   = ggml_asymkv_compress(ctx.get(), src, scalars);
        merge      = ggml_asymkv_compress(ctx.get(), src, scalars);
        for (ggml_tensor * op : { src.seen, src.plan, merge }) {
            if (kind.custom) {
                llama_asymkv_as_custom(op, &scalars);
            }
        }

        for (uint32_t t = 0; t < kind.n_rot/2; ++t) {
            freqs.push_back(std::pow(10000.0f, -2.0f*t/kind.n_rot));
        }
        for (uint32_t h = 0; h < n_head_kv*scalars.n_gqa && kind.sinks; ++h) {
            sinks.push_back(1.5f*(h % 4));
        }
        for (uint32_t t = 0; t < N_OBSERVED; ++t) {
            q_rows.push_back((t + 3) % (N_OBSERVED + 1));
        }
        for (uint32_t t = 0; t < N_OBSERVED; ++t) {
            q_rows.push_back(2*N_SLOTS - N_OBSERVED + t);
        }
        for (uint32_t i = 0; i < N_SLOTS; ++i) {
            cells.push_back(i + i/10);
        }
        slots.resize((size_t) N_GROUP*AKV_SLOT_FIELDS*N_SLOTS);
        for (uint32_t g = 0; g < N_GROUP; ++g) {
            for (uint32_t i = 0; i < N_SLOTS; ++i) {
                const bool is_protected = i < N_SINKS || i + N_RECENT >= N_SLOTS;
                const float score = 0.01f*((7*i + g) % 5);
                field(g, 0, i) = 2.0f*i;
                field(g, 1, i) = is_protected ? 0.0f : 0.25f;
                field(g, 2, i) = is_protected ? 1.0f : 1.0f + (i + g) % 3;
                field(g, 3, i) = score;
                field(g, 4, i) = is_protected ? AKV_PROTECTED : i == N_SINKS + g ? AKV_EXPIRED : AKV_FREE;
            }
        }
    }

    float & field(uint32_t g, uint32_t f, uint32_t i) { return slots[(g*AKV_SLOT_FIELDS + f)*N_SLOTS + i]; }

    // neighbours are alike, as keys are
    static void fill(ggml_tensor * t, uint32_t seed) {
        std::vector<float> values(ggml_nelements(t));
        for (size_t x = 0; x < values.size(); ++x) {
            seed = seed*1664525u + 1013904223u;
            const float random = (float) (seed >> 8)/(1 << 22) - 2.0f;
            values[x] = x < (size_t) t->ne[0] ? random : 0.5f*values[x - t->ne[0]] + 0.8f*random;
        }
        std::vector<uint8_t> bytes(ggml_nbytes(t));
        ggml_quantize_chunk(t->type, values.data(), bytes.data(), 0, ggml_nrows(t), t->ne[0], nullptr);
        ggml_backend_tensor_set(t, bytes.data(), 0, bytes.size());
    }

    static std::vector<float> read(const ggml_tensor * t) {
        std::vector<uint8_t> bytes(ggml_nbytes(t));
        ggml_backend_tensor_get(t, bytes.data(), 0, bytes.size());
        std::vector<float> values(ggml_nelements(t));
        if (t->type == GGML_TYPE_F32) {
            memcpy(values.data(), bytes.data(), bytes.size());
        } else {
            ggml_get_type_traits(t->type)->to_float(bytes.data(), values.data(), values.size());
        }
        return values;
    }

    // the rows of values, also where they are transposed
    std::vector<float> read_values() const {
        std::vector<float> values = read(src.v);
        if (scalars.v_trans) {
            const std::vector<float> columns = values;
            const size_t n = scalars.head_v*n_head_kv;
            for (size_t x = 0; x < values.size(); ++x) {
                values[x] = columns[x % n*N_CELLS + x/n];
            }
        }
        return values;
    }

    // keys without the cache's transform
    void transform(std::vector<float> & x) const {
        for (size_t b = 0; scalars.hadamard > 0 && b < x.size(); b += scalars.hadamard) {
            for (uint32_t len = 1; len < scalars.hadamard; len *= 2) {
                for (uint32_t t = 0; t < scalars.hadamard/2; ++t) {
                    float & u = x[b + t/len*2*len + t % len];
                    float & v = *(&u + len);
                    const float sum = u + v, difference = u - v;
                    u = sum;
                    v = difference;
                }
            }
            for (uint32_t t = 0; t < scalars.hadamard; ++t) {
                x[b + t] /= std::sqrt((float) scalars.hadamard);
            }
        }
    }

    // what the host makes of group g; rows in K and V afterwards
    void on_host(uint32_t g, const std::vector<float> & k, const std::vector<float> & v, const std::vector<float> & q, std::vector<float> & k_out, std::vector<float> & v_out) {
        const uint32_t nh = scalars.n_heads, dk = scalars.head_k, dv = scalars.head_v;

        std::vector<float>    keys, values, queries, scores, logits;
        std::vector<double>   positions;
        std::vector<uint32_t> cards;
        std::vector<uint8_t>  is_protected;
        std::vector<uint8_t>  is_expired;
        std::vector<int32_t>  query_positions;

        for (uint32_t i = 0; i < N_SLOTS; ++i) {
            const float * ki = k.data() + ((size_t) cells[i]*n_head_kv + g*nh)*dk;
            const float * vi = v.data() + ((size_t) cells[i]*n_head_kv + g*nh)*dv;
            keys  .insert(keys  .end(), ki, ki + nh*dk);
            values.insert(values.end(), vi, vi + nh*dv);
            positions   .push_back((double) field(g, 0, i) + field(g, 1, i));
            cards       .push_back((uint32_t) field(g, 2, i));
            scores      .push_back(field(g, 3, i));
            is_protected.push_back(field(g, 4, i) == AKV_PROTECTED);
            is_expired  .push_back(field(g, 4, i) == AKV_EXPIRED);
        }
        for (uint32_t h = 0; h < nh; ++h) {
            for (uint32_t r = 0; r < n_queries; ++r) {
                const float * x = q.data() + (((size_t) q_rows[r/scalars.n_gqa]*n_head_kv + g*nh + h)*scalars.n_gqa + r % scalars.n_gqa)*dk;
                queries.insert(queries.end(), x, x + dk);
                if (kind.sinks) {
                    logits.push_back(sinks[(g*nh + h)*scalars.n_gqa + r % scalars.n_gqa]);
                }
            }
        }
        for (uint32_t r = 0; r < n_queries; ++r) {
            query_positions.push_back(q_rows[N_OBSERVED + r/scalars.n_gqa]);
        }

        asymkv_group group = {};
        group.size      = sizeof(group);
        group.n_slots   = N_SLOTS;
        group.n_heads   = nh;
        group.n_queries = n_queries;
        group.head_k    = dk;
        group.head_v    = dv;
        group.n_rot     = kind.n_rot;
        group.rope_neox = scalars.rope_neox;
        group.scale     = scalars.scale;
        group.softcap   = scalars.softcap;
        group.keys            = keys.data();
        group.values          = values.data();
        group.queries         = queries.data();
        group.query_positions = query_positions.data();
        group.positions       = positions.data();
        group.cardinalities   = cards.data();
        group.scores          = scores.data();
        group.is_protected    = is_protected.data();
        group.rope_freqs      = freqs.data();
        group.is_expired      = is_expired.data();
        group.sink_logits     = kind.sinks ? logits.data() : nullptr;

        asymkv_params params = {};
        asymkv_params_init(&params);
        params.score           = scalars.score;
        params.key_weights     = scalars.key_weights;
        params.evict           = scalars.merges ? (scalars.evicts ? ASYMKV_EVICT_TOO : ASYMKV_EVICT_NEVER) : ASYMKV_EVICT_ONLY;
        params.max_cardinality = scalars.max_cardinality;
        params.decay           = scalars.decay;
        params.room            = ROOM;
        params.accumulate      = 1.0f; // as the slots say
        params.history         = 0.0f; // "

        asymkv::group_compression comp;
        asymkv::compress_group(params, group, N_KEEP, comp);

        for (uint32_t s = 0; s < N_KEEP; ++s) {
            const uint32_t i = comp.plan.kept[s];
            std::copy_n(comp.state.keys  .begin() + (size_t) i*nh*dk, nh*dk, k_out.begin() + ((size_t) s*n_head_kv + g*nh)*dk);
            std::copy_n(comp.state.values.begin() + (size_t) i*nh*dv, nh*dv, v_out.begin() + ((size_t) s*n_head_kv + g*nh)*dv);
        }
    }

    // mean squared error of K and V afterwards over the mean square; negative: the device failed
    double error() {
        buffer.reset(ggml_backend_alloc_ctx_tensors(ctx.get(), kind.backend));
        if (!buffer) {
            return -1.0;
        }
        fill(src.k, 1);
        fill(src.v, 2);
        fill(src.q, 3);
        ggml_backend_tensor_set(src.q_rows, q_rows.data(), 0, ggml_nbytes(src.q_rows));
        ggml_backend_tensor_set(src.cells,  cells .data(), 0, ggml_nbytes(src.cells));
        ggml_backend_tensor_set(src.slots,  slots .data(), 0, ggml_nbytes(src.slots));
        if (src.freqs) {
            ggml_backend_tensor_set(src.freqs, freqs.data(), 0, ggml_nbytes(src.freqs));
        }
        if (src.sinks) {
            ggml_backend_tensor_set(src.sinks, sinks.data(), 0, ggml_nbytes(src.sinks));
        }

        std::vector<float> k = read(src.k), v = read_values(), q = read(src.q);
        transform(k);
        transform(q);

        std::vector<float> k_host = k, v_host = v;
        for (uint32_t g = 0; g < N_GROUP; ++g) {
            on_host(g, k, v, q, k_host, v_host);
        }

        ggml_cgraph * graph = ggml_new_graph(ctx.get());
        ggml_build_forward_expand(graph, merge);
        if (ggml_backend_graph_compute(kind.backend, graph) != GGML_STATUS_SUCCESS) {
            return -1.0;
        }
        std::vector<float> k_dev = read(src.k), v_dev = read_values();
        transform(k_dev);

        return std::max(relative(k_dev, k_host), relative(v_dev, v_host));
    }

    static double relative(const std::vector<float> & got, const std::vector<float> & expected) {
        double error = 0.0, square = 0.0;
        for (size_t i = 0; i < expected.size(); ++i) {
            error  += ((double) got[i] - expected[i])*((double) got[i] - expected[i]);
            square += (double) expected[i]*expected[i];
        }
        return error/square;
    }
};

// of merged rows, which are rounded once more
double tolerance(ggml_type type) {
    return type == GGML_TYPE_Q4_0 ? 2e-2 : type == GGML_TYPE_Q8_0 ? 1e-3 : 1e-4;
}

bool is_same(const llama_asymkv_compress_kind & a, const llama_asymkv_compress_kind & b) {
    ggml_asymkv_compress_scalars x = a.scalars, y = b.scalars;
    x.n_keep = y.n_keep = x.first_group = y.first_group = 0;

    return ggml_backend_get_device(a.backend) == ggml_backend_get_device(b.backend) && a.custom == b.custom && memcmp(&x, &y, sizeof(x)) == 0 &&
        a.type_k == b.type_k && a.type_v == b.type_v && a.type_q == b.type_q && a.n_rot == b.n_rot && a.sinks == b.sinks;
}

} // namespace

bool llama_asymkv_try_compress(const llama_asymkv_compress_kind & kind) {
    static std::mutex mutex;
    static std::vector<std::pair<llama_asymkv_compress_kind, bool>> tried;

    std::lock_guard<std::mutex> lock(mutex);

    for (const auto & [other, result] : tried) {
        if (is_same(kind, other)) {
            return result;
        }
    }
    const double error = compress_trial(kind).error();

    // NaN is no small error
    const bool is_right = error >= 0.0 && error < std::max(tolerance(kind.type_k), tolerance(kind.type_v));
    if (!is_right) {
        LLAMA_LOG_WARN("%s: compression on %s does not give what the host gives (error %g), so the host compresses: "
                "please report this with the name of the device\n", __func__, ggml_backend_dev_name(ggml_backend_get_device(kind.backend)), error);
    }
    LLAMA_LOG_DEBUG("%s: compression on %s: error %g\n", __func__, ggml_backend_dev_name(ggml_backend_get_device(kind.backend)), error);
    tried.emplace_back(kind, is_right);

    return is_right;
}
