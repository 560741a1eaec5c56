#include "llama-kv-cache-asym.h"

#include "llama-asymkv-threads.h"
#include "llama-asymkv-trial.h"
#include "llama-context.h"
#include "llama-impl.h"
#include "llama-model.h"

#include "asymkv-state.h"

#include "ggml-alloc.h"
#include "ggml-asymkv.h"
#include "ggml-asymkv-compress.h"
#include "ggml-backend.h"
#include "ggml-cpp.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

// the part of llama_kv_cache_asym that compresses where the cache is: a graph of OBSERVE, PLAN and MERGE for each layer, whose
// rows never leave the device. The steps of the plans come back, and give the tables
//
// ASYMKV_COMPRESS=host never does this; =device does it on the CPU, too, from the same kernels: to try them without a device

namespace {

// most that the ops leave while they run: as many groups at a time as fit
constexpr uint64_t MAX_TEMPORARIES = 64ull << 20;

// exp(slots/decay) would leave single precision
constexpr float MAX_FADING = 60.0f;

bool is_wish(const char * wish) {
    const char * value = std::getenv("ASYMKV_COMPRESS");

    return value && strcmp(value, wish) == 0;
}

// fibers take the place of a device's threads
bool is_cpu_asked() {
#if defined(_WIN32)
    return false;
#else
    return is_wish("device");
#endif
}

ggml_backend_dev_t device_of(const ggml_tensor * t) {
    ggml_backend_dev_t dev = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(t->buffer));

    // the CPU's own buffers name no device
    return dev || !ggml_backend_buffer_is_host(t->buffer) ? dev : ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
}

ggml_backend_t backend_of(ggml_backend_sched_t sched, ggml_backend_dev_t dev) {
    for (int i = 0; dev && i < ggml_backend_sched_get_n_backends(sched); ++i) {
        ggml_backend_t backend = ggml_backend_sched_get_backend(sched, i);
        if (ggml_backend_get_device(backend) == dev) {
            return backend;
        }
    }
    return nullptr;
}

bool is_cpu(ggml_backend_dev_t dev) { return ggml_backend_dev_type(dev) == GGML_BACKEND_DEVICE_TYPE_CPU; }

} // namespace

// the graph of one layer, and what comes of it
struct llama_kv_cache_asym::device_layer {
    ggml_backend_t   backend = nullptr;
    ggml_context_ptr ctx;
    ggml_cgraph    * graph = nullptr;

    ggml_tensor * q_rows = nullptr;
    ggml_tensor * cells  = nullptr;
    ggml_tensor * slots  = nullptr;
    ggml_tensor * freqs  = nullptr;
    ggml_tensor * sinks  = nullptr;

    uint32_t n_chunk = 0; // groups at a time
    std::vector<ggml_tensor *>                plans;
    std::vector<ggml_asymkv_compress_scalars> scalars; // custom ops point here

    std::vector<std::vector<asymkv_slot>> known;  // slots of each group: before, and when it was run, after
    std::vector<group_table> tables;             // which are not packed yet
    uint64_t n_merges    = 0;
    uint64_t n_evictions = 0;
};

bool llama_kv_cache_asym::has_device_plan(const std::vector<uint32_t> & cells) const {
    if (is_wish("host") || (params.decay > 0.0f && cells.size()/params.decay > MAX_FADING)) {
        return false;
    }
    if (params.score == ASYMKV_SCORE_RANDOM || params.score == ASYMKV_SCORE_KEYDIFF) {
        return false;
    }
    if (std::all_of(ring_pos.begin(), ring_pos.end(), [](llama_pos pos) { return pos < 0; })) {
        return false; // nothing was observed
    }
    // rows only move towards the front
    if (!std::is_sorted(cells.begin(), cells.end())) {
        return false;
    }
    return true;
}

ggml_backend_t llama_kv_cache_asym::device_backend(llama_context * lctx, const asym_layer & layer) const {
    ggml_backend_dev_t dev = device_of(layers[layer.ikv].k);
    if (!dev || (is_cpu(dev) && !is_cpu_asked())) {
        return nullptr;
    }
    const char * native = std::getenv("ASYMKV_NATIVE_OPS");
    if (!is_cpu(dev) && ((native && strcmp(native, "0") == 0) || !(ggml_asymkv_dev_ops(dev) & GGML_ASYMKV_OPS_COMPRESS))) {
        return nullptr;
    }
    return backend_of(lctx->get_sched(), dev);
}

void llama_kv_cache_asym::set_device_inputs(const asym_layer & layer, const std::vector<uint32_t> & cells, uint32_t n_keep, const device_layer & work) const {
    const size_t n = cells.size();

    asymkv_params params_group = params;
    params_group.room = get_size() - n_keep;

    const auto [n_sinks, n_recent] = exact_ends(cells);

    std::vector<float> slots(AKV_SLOT_FIELDS*n*layer.tables.size());
    for (size_t g = 0; g < layer.tables.size(); ++g) {
        float * fields = slots.data() + AKV_SLOT_FIELDS*n*g;

        const auto & known = work.known[g];
        const double last  = known.back().position;
        for (size_t i = 0; i < n; ++i) {
            const asymkv_slot & slot = known[i];
            const double whole = std::floor(slot.position);
            const double past  = (double) params.accumulate*slot.score;

            fields[i]       = (float) whole;
            fields[i + n]   = (float) (slot.position - whole);
            fields[i + 2*n] = (float) slot.cardinality;
            fields[i + 3*n] = (float) past;
            fields[i + 4*n] = i < n_sinks || i + n_recent >= n ? AKV_PROTECTED : is_expired(slot) ? AKV_EXPIRED : AKV_FREE;
            fields[i + 5*n] = (float) (params.history*past/asymkv::compressions_of(params_group, last - slot.position));
        }
    }

    std::vector<int32_t> q_rows;
    for (uint32_t r = 0; r < ring_pos.size(); ++r) {
        if (ring_pos[r] >= 0) {
            q_rows.push_back(r);
        }
    }
    const size_t n_observed = q_rows.size();
    for (size_t t = 0; t < n_observed; ++t) {
        q_rows.push_back(ring_pos[q_rows[t]]);
    }

    const std::vector<int32_t> rows(cells.begin(), cells.end());

    ggml_backend_tensor_set(work.q_rows, q_rows.data(), 0, ggml_nbytes(work.q_rows));
    ggml_backend_tensor_set(work.cells,  rows  .data(), 0, ggml_nbytes(work.cells));
    ggml_backend_tensor_set(work.slots,  slots .data(), 0, ggml_nbytes(work.slots));
    if (work.freqs) {
        ggml_backend_tensor_set(work.freqs, layer.rope.freqs.data(), 0, ggml_nbytes(work.freqs));
    }
    if (work.sinks) {
        ggml_backend_tensor_set(work.sinks, read_sinks(layer).data(), 0, ggml_nbytes(work.sinks));
    }
}

// what the host's planner says of its own plan, read from the steps of the device's: i, j, and the mass afterwards
void llama_kv_cache_asym::read_device_plan(
        const asym_layer & layer, uint32_t group, const std::vector<uint32_t> & cells, uint32_t n_keep,
        const float * steps_i, const float * steps_j, const float * kept, const float * mass, device_layer & work) const {
    const uint32_t n_steps = cells.size() - n_keep;

    auto & table = work.tables[group];

    auto & slots = work.known[group];

    table.n_lost = layer.tables[group].n_lost;
    for (uint32_t s = 0; s < n_steps; ++s) {
        auto & a = slots[(uint32_t) steps_i[s]];
        if (steps_j[s] < 0.0f) {
            table.n_lost += a.cardinality;
            work.n_evictions++;
            continue;
        }
        const auto & b = slots[(uint32_t) steps_j[s]];

        const uint64_t sum = (uint64_t) a.cardinality + b.cardinality;
        const uint64_t max = params.max_cardinality > 0 ? params.max_cardinality : UINT32_MAX;

        a.position   += (1.0 - (double) a.cardinality/sum)*(b.position - a.position);
        a.first       = std::min(a.first, b.first);
        a.last        = std::max(a.last,  b.last);
        a.cardinality = (uint32_t) std::min(sum, max);
        table.n_lost += sum - a.cardinality;
        work.n_merges++;
    }

    std::vector<asymkv_slot> after(n_keep);
    for (uint32_t s = 0; s < n_keep; ++s) {
        const uint32_t i = (uint32_t) kept[s];
        after[s] = slots[i];
        after[s].score = mass[i];
    }
    slots.swap(after);
}

bool llama_kv_cache_asym::build_device_layer(const asym_layer & layer, const std::vector<uint32_t> & cells, uint32_t n_keep, device_layer & work) const {
    ggml_backend_dev_t dev = ggml_backend_get_device(work.backend);

    const uint32_t n_group = layer.tables.size();
    const bool     custom  = !(ggml_asymkv_dev_ops(dev) & GGML_ASYMKV_OPS_COMPRESS);

    ggml_init_params ctx_params = {
        /*.mem_size   =*/ (9 + 4*(size_t) n_group)*ggml_tensor_overhead() + ggml_graph_overhead(),
        /*.mem_buffer =*/ nullptr,
        /*.no_alloc   =*/ true,
    };
    work.ctx.reset(ggml_init(ctx_params));
    ggml_context * ctx = work.ctx.get();

    const int64_t n_observed = std::count_if(ring_pos.begin(), ring_pos.end(), [](llama_pos pos) { return pos >= 0; });

    work.q_rows = ggml_new_tensor_2d(ctx, GGML_TYPE_I32, n_observed, 2);
    work.cells  = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, cells.size());
    work.slots  = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, cells.size(), AKV_SLOT_FIELDS, n_group);
    work.freqs  = layer.rope.n_rot > 0 ? ggml_new_tensor_1d(ctx, GGML_TYPE_F32, layer.rope.n_rot/2) : nullptr;
    work.sinks  = layer.sinks ? ggml_new_tensor_1d(ctx, GGML_TYPE_F32, layer.n_head) : nullptr;
    for (ggml_tensor * t : { work.q_rows, work.cells, work.slots, work.freqs, work.sinks }) {
        if (t) {
            ggml_set_input(t);
        }
    }

    const bool only_evicts = params.score >= ASYMKV_SCORE_H2O;

    ggml_asymkv_compress_scalars scalars = {};
    scalars.n_keep          = n_keep;
    scalars.n_heads         = layer.heads_per_group;
    scalars.n_gqa           = layer.n_head/layer.n_head_kv;
    scalars.head_k          = layer.head_k;
    scalars.head_v          = layer.head_v;
    scalars.hadamard        = k_hadamard();
    scalars.scale           = layer.kq_scale;
    scalars.softcap         = hparams.attn_soft_cap ? hparams.f_attn_logit_softcapping : 0.0f;
    scalars.max_cardinality = params.max_cardinality;
    scalars.decay           = params.decay;
    scalars.first_index     = params.sinks;
    scalars.score           = (uint8_t) params.score;
    scalars.key_weights     = (uint8_t) params.key_weights;
    scalars.merges          = !only_evicts && params.evict != ASYMKV_EVICT_ONLY;
    scalars.evicts          =  only_evicts || (params.score == ASYMKV_SCORE_EXACT && params.evict != ASYMKV_EVICT_NEVER);
    scalars.rope_neox       = layer.rope.neox;
    scalars.v_trans         = v_trans;

    ggml_asymkv_compress_sources src = {
        layers[layer.ikv].k, layers[layer.ikv].v, layer.q_ring, work.q_rows, work.cells, work.slots, work.freqs, nullptr, nullptr, work.sinks,
    };

    ggml_tensor probe = {};
    memcpy(probe.src,       &src,     sizeof(src));
    memcpy(probe.op_params, &scalars, sizeof(scalars));
    if (!ggml_asymkv_compress_supported(&probe)) {
        return false;
    }
    const uint64_t n_fit   = std::max<uint64_t>(1, MAX_TEMPORARIES/ggml_asymkv_compress_bytes(ggml_asymkv_compress_params(&probe)));
    const uint32_t n_times = (uint32_t) ((n_group + n_fit - 1)/n_fit);

    work.n_chunk = (n_group + n_times - 1)/n_times;
    work.scalars.assign(n_times, scalars);
    work.graph   = ggml_new_graph(ctx);

    for (uint32_t g = 0; g < n_group; g += work.n_chunk) {
        auto & chunk = work.scalars[g/work.n_chunk];
        chunk.first_group = g;

        src.slots = ggml_view_3d(ctx, work.slots, work.slots->ne[0], work.slots->ne[1], std::min(work.n_chunk, n_group - g),
                work.slots->nb[1], work.slots->nb[2], g*work.slots->nb[2]);
        src.seen  = nullptr;
        src.plan  = nullptr;
        src.seen  = ggml_asymkv_compress(ctx, src, chunk);
        src.plan  = ggml_asymkv_compress(ctx, src, chunk);
        ggml_tensor * merge = ggml_asymkv_compress(ctx, src, chunk);

        for (ggml_tensor * op : { src.seen, src.plan, merge }) {
            if (custom) {
                llama_asymkv_as_custom(op, &chunk);
            } else if (!ggml_backend_supports_op(work.backend, op)) {
                return false;
            }
        }
        ggml_set_output(src.plan);
        work.plans.push_back(src.plan);
        ggml_build_forward_expand(work.graph, merge);
    }
    return llama_asymkv_try_compress({ work.backend, custom, scalars, probe.src[0]->type, probe.src[1]->type, probe.src[2]->type, layer.rope.n_rot, work.sinks != nullptr });
}

void llama_kv_cache_asym::run_device_layer(const asym_layer & layer, const std::vector<uint32_t> & cells, uint32_t n_keep, device_layer & work) const {
    set_device_inputs(layer, cells, n_keep, work);

    if (ggml_backend_graph_compute(work.backend, work.graph) != GGML_STATUS_SUCCESS) {
        throw std::runtime_error(std::string(ggml_backend_name(work.backend)) + " failed to compress");
    }

    // what is read stands before everything that depends on more
    akv_params p = {};
    p.n_slots = cells.size();
    p.n_keep  = n_keep;
    const akv_plan_layout l = akv_plan(p);

    work.tables.resize(layer.tables.size());

    std::vector<float> plan(l.kept + n_keep);
    std::vector<float> mass(cells.size());

    for (uint32_t g = 0; g < layer.tables.size(); ++g) {
        const ggml_tensor * t = work.plans[g/work.n_chunk];
        const size_t first = (g % work.n_chunk)*t->nb[1];

        ggml_backend_tensor_get(t, plan.data(), first,                           plan.size()*sizeof(float));
        ggml_backend_tensor_get(t, mass.data(), first + l.score*sizeof(float), mass.size()*sizeof(float));

        if (plan[l.header] != (float) (cells.size() - n_keep)) {
            throw std::runtime_error("a plan on " + std::string(ggml_backend_name(work.backend)) + " is not complete");
        }
        read_device_plan(layer, g, cells, n_keep, &plan[l.op_i], &plan[l.op_j], &plan[l.kept], mass.data(), work);
    }
}

void llama_kv_cache_asym::compress_on_device(llama_context * lctx, const std::vector<uint32_t> & cells, uint32_t n_keep, std::vector<std::vector<group_table>> & tables, bool & is_written) {
    if (!has_device_plan(cells)) {
        return;
    }

    std::vector<device_layer>                  all(asym_layers.size());
    std::vector<std::pair<uint32_t, uint32_t>> groups; // of these layers
    for (uint32_t il = 0; il < asym_layers.size(); ++il) {
        all[il].backend = device_backend(lctx, asym_layers[il]);
        all[il].known.resize(asym_layers[il].tables.size());
        for (uint32_t g = 0; g < all[il].known.size() && all[il].backend; ++g) {
            groups.push_back({ il, g });
        }
    }
    const size_t n_threads = std::max<int32_t>(1, lctx->n_threads_batch());

    llama_asymkv_run(n_threads, groups.size(), [&](size_t i) {
        const auto [il, g] = groups[i];
        all[il].known[g] = slots_of(asym_layers[il].tables[g], cells);
    });

    // whether positions will move is known when the plan is
    for (const auto & [il, g] : groups) {
        const auto & slots = all[il].known[g];
        if (params.span > 0 && slots.back().position - slots.front().position + (get_size() - n_keep) >= params.span) {
            return;
        }
    }

    ggml_backend_t   backend = nullptr;
    ggml_gallocr_ptr allocator;

    for (uint32_t il = 0; il < asym_layers.size(); ++il) {
        const int64_t t_start = ggml_time_us();

        auto & work = all[il];
        if (!work.backend || !build_device_layer(asym_layers[il], cells, n_keep, work)) {
            continue;
        }
        if (work.backend != backend) {
            backend = work.backend;
            allocator.reset(ggml_gallocr_new(ggml_backend_get_default_buffer_type(backend)));
        }
        if (!ggml_gallocr_alloc_graph(allocator.get(), work.graph)) {
            LLAMA_LOG_WARN("%s: no memory on %s for the temporaries of a compression: the host compresses layer %u\n", __func__,
                    ggml_backend_name(backend), asym_layers[il].il);
            allocator.reset();
            backend = nullptr;
            continue;
        }
        is_written = true;
        run_device_layer(asym_layers[il], cells, n_keep, work);

        tables[il] = std::move(work.tables);
        counters.n_merges     += work.n_merges;
        counters.n_evictions  += work.n_evictions;
        counters.t_observe_us += ggml_time_us() - t_start;
    }
    counters.n_device_compressions += is_written;

    llama_asymkv_run(n_threads, groups.size(), [&](size_t i) {
        const auto [il, g] = groups[i];
        if (!tables[il].empty()) {
            tables[il][g].pack(all[il].known[g]);
        }
    });
}
