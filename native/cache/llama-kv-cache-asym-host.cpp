#include "llama-kv-cache-asym.h"

#include "llama-asymkv-rows.h"
#include "llama-context.h"
#include "llama-impl.h"
#include "llama-model.h"

#include "asymkv-compress.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <thread>

// the part of llama_kv_cache_asym that compresses on the host
//
// a group (a KV head, or a layer) is read, planned and merged by one thread, which keeps nothing but this group: the memory
// beside the cache does not grow with the model's layers and heads. rows that no merge touched are moved as bytes, so a
// quantized cache loses nothing by moving

namespace {

// what all threads together take: fewer of them work where a group is large, at least one
constexpr size_t MAX_WORKER_BYTES = 64u << 20;

// plans of one layer's groups must not be the same by chance of a shared seed
uint64_t mix_seed(uint64_t seed, uint64_t compression, uint64_t layer, uint64_t group) {
    return seed + 0x9E3779B97F4A7C15ull*(1 + compression + (layer << 20) + (group << 40));
}

} // namespace

struct llama_kv_cache_asym::host_layer {
    const asym_layer * layer   = nullptr;
    uint32_t           i_layer = 0;

    layer_bytes bytes;

    std::vector<group_table> * tables = nullptr; // of its groups, when they are done

    bool is_copy = false; // to be written back
};

// made once per compression and thread: taking this memory from the system for every group would cost more than planning
struct llama_kv_cache_asym::host_worker {
    group_arrays              arrays;
    asymkv::group_compression comp;
    std::vector<asymkv_slot>  kept;
    std::vector<uint8_t>      column;

    // one group after its compression
    std::vector<uint8_t> k; // [n_keep rows]
    std::vector<uint8_t> v; // [n_keep rows], or transposed: [channels][n_keep]
    group_table          table;

    // of all groups
    uint64_t n_merges     = 0;
    uint64_t n_evictions  = 0;
    uint64_t t_observe_us = 0;
    uint64_t t_plan_us    = 0;
    uint64_t t_merge_us   = 0;

    bool moved = false;
};

size_t llama_kv_cache_asym::host_worker_bytes(const asym_layer & layer, size_t n_slots, uint32_t n_keep) const {
    const size_t nh = layer.heads_per_group;
    const size_t nk = nh*layer.head_k;
    const size_t nv = nh*layer.head_v;
    const size_t nq = nh*ring_pos.size()*(layer.n_head/layer.n_head_kv);

    const size_t n_slot = (nk + nv)*sizeof(float) // keys and values
            + 3*nq*sizeof(float)                  // what every observed query sees of it (asymkv::observation)
            + nk*sizeof(float)                    // its Fisher information
            + 256;                                // tables, and the planner's candidates

    const size_t n_row = ggml_row_size(layers[layer.ikv].k->type, nk) + ggml_type_size(layers[layer.ikv].v->type)*nv;

    return n_slots*n_slot + n_keep*n_row;
}

void llama_kv_cache_asym::compress_host_group(const host_layer & work, uint32_t group, const std::vector<uint32_t> & cells, uint32_t n_keep, host_worker & worker) const {
    const auto & layer = *work.layer;
    const auto & bytes = work.bytes;

    const auto * k = layers[layer.ikv].k;
    const auto * v = layers[layer.ikv].v;

    const uint32_t nk = layer.heads_per_group*layer.head_k;
    const uint32_t nv = layer.heads_per_group*layer.head_v;

    const size_t k_row     = k->nb[1];
    const size_t v_row     = v_trans ? 0 : v->nb[1];
    const size_t v_size_el = ggml_type_size(v->type);
    const size_t k_size    = ggml_row_size(k->type, nk); // of one group
    const size_t v_size    = ggml_row_size(v->type, nv);

    auto & [arrays, comp, kept, column, k_new, v_new, table, n_merges, n_evictions, t_observe_us, t_plan_us, t_merge_us, moved_any] = worker;

    auto slots = slots_of(layer.tables[group], cells);

    // where they are planned and merged: no second copy
    arrays.keys  .swap(comp.state.keys);
    arrays.values.swap(comp.state.values);

    fill_group(layer, group, bytes, cells, slots, arrays);

    arrays.keys  .swap(comp.state.keys);
    arrays.values.swap(comp.state.values);

    asymkv_params params_group = params;
    params_group.room = get_size() - n_keep;
    params_group.seed = mix_seed(params.seed, counters.n_compressions, work.i_layer, group);

    asymkv::compress_group(params_group, arrays.group, n_keep, comp);

    n_merges     += comp.plan.n_merges;
    n_evictions  += comp.plan.n_evictions;
    moved_any     = moved_any || comp.moved;
    t_observe_us += comp.t_observe_us;
    t_plan_us    += comp.t_plan_us;

    const int64_t t_merge = ggml_time_us();

    auto & state = comp.state;

    // positions covered by each slot
    for (const auto & op : comp.plan.ops) {
        if (op.j != asymkv::NO_SLOT) {
            slots[op.i].first = std::min(slots[op.i].first, slots[op.j].first);
            slots[op.i].last  = std::max(slots[op.i].last,  slots[op.j].last);
        }
    }

    kept.resize(n_keep);
    k_new.resize((size_t) n_keep*k_size);
    v_new.resize((size_t) n_keep*v_size);

    const uint32_t n_block = k_hadamard();

    for (uint32_t s = 0; s < n_keep; ++s) {
        const uint32_t i = comp.plan.kept[s];

        kept[s] = { state.positions[i], slots[i].first, slots[i].last, state.cards[i], (float) state.scores[i] };

        const float * vi = state.values.data() + (size_t) i*nv;

        if (state.touched[i]) {
            float * ki = state.keys.data() + (size_t) i*nk;
            if (n_block) {
                asymkv::hadamard(ki, nk, n_block);
            }
            asymkv::rows_from_float(k->type, ki, k_new.data() + s*k_size, nk);
        } else {
            memcpy(k_new.data() + s*k_size, bytes.k_data + cells[i]*k_row + group*k_size, k_size);
        }

        if (!v_trans) {
            if (state.touched[i]) {
                asymkv::rows_from_float(v->type, vi, v_new.data() + s*v_size, nv);
            } else {
                memcpy(v_new.data() + s*v_size, bytes.v_data + cells[i]*v_row + group*v_size, v_size);
            }
        } else {
            column.resize(v_size);
            if (state.touched[i]) {
                asymkv::rows_from_float(v->type, vi, column.data(), nv);
            }
            for (uint32_t c = 0; c < nv; ++c) {
                const uint8_t * src = state.touched[i] ? column.data() + c*v_size_el :
                        bytes.v_data + (((size_t) group*nv + c)*get_size() + cells[i])*v_size_el;
                memcpy(v_new.data() + ((size_t) c*n_keep + s)*v_size_el, src, v_size_el);
            }
        }
    }

    table.pack(kept);
    table.n_lost = layer.tables[group].n_lost + comp.plan.n_lost;

    t_merge_us += ggml_time_us() - t_merge;
}

void llama_kv_cache_asym::store_host_group(const host_layer & work, uint32_t group, uint32_t n_keep, host_worker & worker) const {
    const auto & layer = *work.layer;

    const auto * k = layers[layer.ikv].k;
    const auto * v = layers[layer.ikv].v;

    const size_t k_size = worker.k.size()/n_keep;
    const size_t v_size = worker.v.size()/n_keep;

    for (uint32_t s = 0; s < n_keep; ++s) {
        memcpy(work.bytes.k_data + s*k->nb[1] + group*k_size, worker.k.data() + s*k_size, k_size);
        if (!v_trans) {
            memcpy(work.bytes.v_data + s*v->nb[1] + group*v_size, worker.v.data() + s*v_size, v_size);
        }
    }
    if (v_trans) {
        const size_t v_size_el = ggml_type_size(v->type);
        const size_t nv        = v_size/v_size_el;

        for (size_t c = 0; c < nv; ++c) {
            memcpy(work.bytes.v_data + (group*nv + c)*get_size()*v_size_el, worker.v.data() + c*n_keep*v_size_el, n_keep*v_size_el);
        }
    }
    std::swap((*work.tables)[group], worker.table);
}

void llama_kv_cache_asym::compress_on_host(llama_context * lctx, const std::vector<uint32_t> & cells, uint32_t n_keep, std::vector<std::vector<group_table>> & tables, bool & is_written) {
    const auto is_host = [&](uint32_t il) {
        const auto & l = layers[asym_layers[il].ikv];
        return ggml_backend_buffer_is_host(l.k->buffer) && ggml_backend_buffer_is_host(l.v->buffer);
    };

    std::vector<uint32_t> todo;

    size_t n_groups     = 0;
    size_t bytes_worker = 1;
    size_t bytes_copy   = 0;
    for (uint32_t il = 0; il < asym_layers.size(); ++il) {
        if (tables[il].empty()) {
            const auto & layer = asym_layers[il];

            todo.push_back(il);
            tables[il].resize(layer.tables.size());

            n_groups    += layer.tables.size();
            bytes_worker = std::max(bytes_worker, host_worker_bytes(layer, cells.size(), n_keep));
            if (!is_host(il)) {
                bytes_copy = std::max(bytes_copy, ggml_nbytes(layers[layer.ikv].k) + ggml_nbytes(layers[layer.ikv].v));
            }
        }
    }
    if (todo.empty()) {
        return;
    }

    const size_t n_wanted  = std::min(std::max<size_t>(1, lctx->n_threads_batch()), n_groups);
    const size_t n_allowed = bytes_copy < MAX_WORKER_BYTES ? (MAX_WORKER_BYTES - bytes_copy)/bytes_worker : 0;

    std::vector<host_worker> workers(std::max<size_t>(1, std::min(n_wanted, n_allowed)));

    std::atomic<bool> written { is_written };
    std::atomic<bool> failed  { false };
    std::string       error;
    std::mutex        mutex; // of error

    // layers that the host can see all at once, of others a copy of one at a time
    for (size_t first = 0, end; first < todo.size() && !failed; first = end) {
        end = first + 1;
        while (is_host(todo[first]) && end < todo.size() && is_host(todo[end])) {
            ++end;
        }

        std::vector<host_layer>                      work(end - first);
        std::vector<std::pair<host_layer *, uint32_t>> groups;
        for (size_t i = first; i < end; ++i) {
            auto & w = work[i - first];

            w.i_layer = todo[i];
            w.layer   = &asym_layers[w.i_layer];
            w.tables  = &tables[w.i_layer];
            w.is_copy = !is_host(w.i_layer);
            read_layer(*w.layer, w.bytes);

            for (uint32_t g = 0; g < w.tables->size(); ++g) {
                groups.push_back({ &w, g });
            }
        }

        std::atomic<size_t> next { 0 };

        const auto work_on_groups = [&](host_worker & worker) {
            for (size_t i = next++; i < groups.size() && !failed; i = next++) {
                const auto & [w, group] = groups[i];
                try {
                    compress_host_group(*w, group, cells, n_keep, worker);
                    if (!w->is_copy) {
                        written = true;
                    }
                    store_host_group(*w, group, n_keep, worker);
                } catch (const std::exception & err) {
                    failed = true;
                    std::lock_guard<std::mutex> lock(mutex);
                    error = err.what();
                }
            }
        };

        {
            std::vector<std::thread> threads;
            try {
                threads.reserve(workers.size());
                for (size_t t = 1; t < workers.size(); ++t) {
                    threads.emplace_back(work_on_groups, std::ref(workers[t]));
                }
            } catch (const std::exception &) {
                // fewer threads then
            }
            work_on_groups(workers[0]);
            for (auto & thread : threads) {
                thread.join();
            }
        }

        for (const auto & w : work) {
            if (w.is_copy && !failed) {
                auto * k = layers[w.layer->ikv].k;
                auto * v = layers[w.layer->ikv].v;

                written = true;
                ggml_backend_tensor_set(k, w.bytes.k_data, 0, n_keep*k->nb[1]);
                ggml_backend_tensor_set(v, w.bytes.v_data, 0, v_trans ? ggml_nbytes(v) : n_keep*v->nb[1]);
            }
        }
    }

    is_written = written;
    if (failed) {
        throw std::runtime_error(error);
    }
    for (const auto & worker : workers) {
        counters.n_merges     += worker.n_merges;
        counters.n_evictions  += worker.n_evictions;
        counters.t_observe_us += worker.t_observe_us;
        counters.t_plan_us    += worker.t_plan_us;
        counters.t_merge_us   += worker.t_merge_us;
        moved = moved || worker.moved;
    }
}
