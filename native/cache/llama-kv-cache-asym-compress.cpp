#include "llama-kv-cache-asym.h"

#include "llama-asymkv-next.h"
#include "llama-asymkv-rows.h"
#include "llama-context.h"
#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <stdexcept>

// the part of llama_kv_cache_asym that compresses: cache -> statistics -> plan -> merged rows -> cache, on the device of the
// cache (llama-kv-cache-asym-device.cpp) or on the host (llama-kv-cache-asym-host.cpp)

uint32_t llama_kv_cache_asym::k_hadamard() const {
    if (!attn_rot_k) {
        return 0;
    }
    uint32_t n = 64;
    do {
        n *= 2;
    } while (n_embd_head_k_all % n == 0);
    return n/2;
}

void llama_kv_cache_asym::read_layer(const asym_layer & layer, layer_bytes & bytes) const {
    const auto read = [](const ggml_tensor * t, size_t size, std::vector<uint8_t> & copy) -> uint8_t * {
        if (ggml_backend_buffer_is_host(t->buffer)) {
            return (uint8_t *) t->data;
        }
        copy.resize(size);
        ggml_backend_tensor_get(t, copy.data(), 0, size);
        return copy.data();
    };

    const auto * k = layers[layer.ikv].k;
    const auto * v = layers[layer.ikv].v;

    const uint32_t n_rows = v_cells[0].used_max_p1();

    bytes.k_data = read(k, (size_t) n_rows*k->nb[1], bytes.k);
    bytes.v_data = read(v, v_trans ? ggml_nbytes(v) : (size_t) n_rows*v->nb[1], bytes.v);
    bytes.q_data = layer.q_ring ? read(layer.q_ring, ggml_nbytes(layer.q_ring), bytes.q) : nullptr;
    bytes.sinks  = read_sinks(layer);
}

std::vector<float> llama_kv_cache_asym::read_sinks(const asym_layer & layer) const {
    std::vector<float> sinks(layer.sinks ? layer.n_head : 0);
    if (layer.sinks) {
        ggml_backend_tensor_get(layer.sinks, sinks.data(), 0, sinks.size()*sizeof(float));
    }
    return sinks;
}

void llama_kv_cache_asym::fill_group(const asym_layer & layer, uint32_t group, const layer_bytes & bytes, const std::vector<uint32_t> & cells,
        const std::vector<asymkv_slot> & slots, group_arrays & out) const {
    const auto * k = layers[layer.ikv].k;
    const auto * v = layers[layer.ikv].v;

    const uint32_t n  = cells.size();
    const uint32_t nh = layer.heads_per_group;
    const uint32_t h0 = group*nh;
    const uint32_t dk = layer.head_k;
    const uint32_t dv = layer.head_v;

    const uint32_t n_gqa   = layer.n_head/layer.n_head_kv;
    const uint32_t n_block = k_hadamard();

    out.keys         .resize((size_t) n*nh*dk);
    out.values       .resize((size_t) n*nh*dv);
    out.positions    .resize(n);
    out.cardinalities.resize(n);
    out.scores       .resize(n);
    out.is_protected .assign(n, 0);
    out.is_expired   .resize(n);

    const size_t v_size_el = ggml_type_size(v->type); // of a transposed cache, which is never quantized
    std::vector<uint8_t> column;

    for (uint32_t i = 0; i < n; ++i) {
        const asymkv_slot & slot = slots[i];

        out.positions    [i] = slot.position;
        out.cardinalities[i] = slot.cardinality;
        out.scores       [i] = slot.score;
        out.is_expired   [i] = is_expired(slot);

        float * ki = out.keys  .data() + (size_t) i*nh*dk;
        float * vi = out.values.data() + (size_t) i*nh*dv;

        asymkv::rows_to_float(k->type, bytes.k_data + cells[i]*k->nb[1] + ggml_row_size(k->type, (int64_t) h0*dk), ki, (int64_t) nh*dk);
        if (n_block) {
            asymkv::hadamard(ki, nh*dk, n_block);
        }

        if (!v_trans) {
            asymkv::rows_to_float(v->type, bytes.v_data + cells[i]*v->nb[1] + ggml_row_size(v->type, (int64_t) h0*dv), vi, (int64_t) nh*dv);
        } else {
            column.resize((size_t) nh*dv*v_size_el);
            for (uint32_t c = 0; c < nh*dv; ++c) {
                memcpy(column.data() + c*v_size_el, bytes.v_data + ((size_t) (h0*dv + c)*get_size() + cells[i])*v_size_el, v_size_el);
            }
            asymkv::rows_to_float(v->type, column.data(), vi, (int64_t) nh*dv);
        }
    }

    const auto [n_sinks, n_recent] = exact_ends(cells);

    std::fill_n(out.is_protected.begin(),  n_sinks,  1);
    std::fill_n(out.is_protected.rbegin(), n_recent, 1);

    // observed queries, oldest first
    std::vector<uint32_t> rows;
    for (uint32_t r = 0; r < ring_pos.size(); ++r) {
        if (ring_pos[r] >= 0) {
            rows.push_back(r);
        }
    }
    std::sort(rows.begin(), rows.end(), [&](uint32_t a, uint32_t b) { return ring_pos[a] < ring_pos[b]; });

    const uint32_t nq = rows.size()*n_gqa;

    out.queries.resize((size_t) nh*nq*dk);
    out.query_positions.resize(nq);
    out.sink_logits.resize(bytes.sinks.empty() ? 0 : (size_t) nh*nq);

    for (uint32_t h = 0; h < nh; ++h) {
        for (uint32_t t = 0; t < rows.size(); ++t) {
            for (uint32_t g = 0; g < n_gqa; ++g) {
                const uint32_t r = t*n_gqa + g;

                const size_t head = (size_t) rows[t]*layer.n_head + (h0 + h)*n_gqa + g;
                float      * dst  = out.queries.data() + ((size_t) h*nq + r)*dk;

                asymkv::rows_to_float(layer.q_ring->type, bytes.q_data + ggml_row_size(layer.q_ring->type, head*dk), dst, dk);
                if (n_block) {
                    asymkv::hadamard(dst, dk, n_block);
                }
                out.query_positions[r] = ring_pos[rows[t]];
                if (!bytes.sinks.empty()) {
                    out.sink_logits[(size_t) h*nq + r] = bytes.sinks[(h0 + h)*n_gqa + g];
                }
            }
        }
    }

    auto & g = out.group;
    g.size            = sizeof(g);
    g.n_slots         = n;
    g.n_heads         = nh;
    g.n_queries       = nq;
    g.head_k          = dk;
    g.head_v          = dv;
    g.n_rot           = layer.rope.n_rot;
    g.rope_neox       = layer.rope.neox;
    g.scale           = layer.kq_scale;
    g.softcap         = hparams.attn_soft_cap ? hparams.f_attn_logit_softcapping : 0.0f;
    g.keys            = out.keys.data();
    g.values          = out.values.data();
    g.queries         = out.queries.data();
    g.query_positions = out.query_positions.data();
    g.positions       = out.positions.data();
    g.cardinalities   = out.cardinalities.data();
    g.scores          = out.scores.data();
    g.is_protected    = out.is_protected.data();
    g.rope_freqs      = layer.rope.freqs.data();
    g.is_expired      = out.is_expired.data();
    g.sink_logits     = out.sink_logits.empty() ? nullptr : out.sink_logits.data();
}

void llama_kv_cache_asym::read_group(llama_context * lctx, uint32_t layer, uint32_t group, group_arrays & out) const {
    lctx->synchronize();

    layer_bytes bytes;
    read_layer(asym_layers[layer], bytes);

    const auto cells = sorted_cells();
    fill_group(asym_layers[layer], group, bytes, cells, slots_of(asym_layers[layer].tables[group], cells), out);
}

bool llama_kv_cache_asym::is_expired(const asymkv_slot & slot) const {
    return params.horizon > 0 && v_cells[0].seq_pos_max(0) - slot.last > (int64_t) params.horizon;
}

// a cut may have left fewer recent tokens than are protected, and a restored state may have had fewer sinks: what was merged
// stays in the middle
std::pair<uint32_t, uint32_t> llama_kv_cache_asym::exact_ends(const std::vector<uint32_t> & order) const {
    const auto & cells = v_cells[0];

    const uint32_t n = order.size();

    uint32_t n_sinks  = std::min(n, params.sinks);
    uint32_t n_recent = std::min(n - n_sinks, params.recent);

    if (is_merged()) {
        while (n_sinks > 0 && cells.pos_get(order[n_sinks - 1]) >= middle_pos0) {
            n_sinks--;
        }
        while (n_recent > 0 && cells.pos_get(order[n - n_recent]) <= middle_pos1) {
            n_recent--;
        }
    }
    return { n_sinks, n_recent };
}

// the shared view of the slots: sinks and recent window as they are, merged slots under ascending labels that no later
// query can be masked from
void llama_kv_cache_asym::relabel_cells(const std::vector<uint32_t> & order, uint32_t n_keep) {
    auto & cells = v_cells[0];

    const auto [n_sinks, n_recent] = exact_ends(order);

    const uint32_t n_middle_new = n_keep - n_sinks - n_recent;

    struct label {
        llama_pos         pos;
        llama_kv_cell_ext ext;
    };
    std::vector<label> labels;
    labels.reserve(n_keep);

    llama_pos pos0 = cells.pos_get(order[n_sinks]);
    llama_pos pos1 = cells.pos_get(order[order.size() - n_recent - 1]);

    if (is_merged()) {
        pos0 = std::min(pos0, middle_pos0);
        pos1 = std::max(pos1, middle_pos1);
    }

    for (uint32_t s = 0; s < n_keep; ++s) {
        if (s < n_sinks) {
            labels.push_back({ cells.pos_get(order[s]), cells.ext_get(order[s]) });
        } else if (s < n_sinks + n_middle_new) {
            // the last one tells where the text goes on when all of the recent window is taken back
            const bool is_last = s + 1 == n_sinks + n_middle_new;
            labels.push_back({ is_last ? pos1 : std::min(pos1, pos0 + (llama_pos) (s - n_sinks)), {} });
        } else {
            const uint32_t i = order[order.size() - (n_keep - s)];
            labels.push_back({ cells.pos_get(i), cells.ext_get(i) });
        }
    }

    // tokens that the middle stands for: what it stood for before, and what has left the recent window since
    const uint64_t n_tokens_all = n_tokens();

    cells.reset();
    for (uint32_t s = 0; s < n_keep; ++s) {
        cells.pos_set(s, labels[s].pos);
        cells.ext_set(s, labels[s].ext);
        cells.seq_add(s, 0);
    }
    v_heads[0] = n_keep;

    n_packed        = n_keep;
    n_middle        = n_middle_new;
    n_middle_tokens = n_tokens_all - n_sinks - n_recent;
    middle_pos0     = pos0;
    middle_pos1     = pos1;
}

int llama_kv_cache_asym::compress(llama_context * lctx, uint32_t n_keep) {
    const int64_t t_start = ggml_time_us();

    if (n_keep < params.sinks + params.recent + 1) {
        return llama_asymkv_fail(ASYMKV_ERR_PARAMS, "cannot keep only " + std::to_string(n_keep) + " slots: " + std::to_string(params.sinks) +
                " sinks and " + std::to_string(params.recent) + " recent tokens are protected; keep at least " + std::to_string(params.sinks + params.recent + 1));
    }

    lctx->synchronize();

    const std::vector<uint32_t> cells = sorted_cells();

    if (cells.size() <= n_keep) {
        return ASYMKV_OK;
    }

    for (const auto & layer : asym_layers) {
        if (!layer.captured) {
            return llama_asymkv_fail(ASYMKV_ERR_FAILED, "layer " + std::to_string(layer.il) + " has not been run yet");
        }
    }

    std::vector<std::vector<group_table>> tables(asym_layers.size());

    bool is_written = false;
    try {
        compress_on_device(lctx, cells, n_keep, tables, is_written);
        compress_on_host  (lctx, cells, n_keep, tables, is_written);
    } catch (const std::exception & err) {
        const std::string error = err.what();
        if (is_written) {
            clear(true);
            return llama_asymkv_fail(ASYMKV_ERR_FAILED, "the compression failed half-way (" + error + "), and the cache was cleared");
        }
        return llama_asymkv_fail(ASYMKV_ERR_FAILED, "the compression failed (" + error + "), and the cache is unchanged");
    }

    relabel_cells(cells, n_keep);

    for (uint32_t il = 0; il < asym_layers.size(); ++il) {
        asym_layers[il].tables = std::move(tables[il]);
        upload_log_card(asym_layers[il]);
    }

    counters.n_compressions++;
    counters.t_compress_us += ggml_time_us() - t_start;

    LLAMA_LOG_DEBUG("%s: %zu slots -> %u, %.1f ms\n", __func__, cells.size(), n_keep, (ggml_time_us() - t_start)/1000.0);

    return ASYMKV_OK;
}
