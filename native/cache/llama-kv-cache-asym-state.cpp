#include "llama-kv-cache-asym.h"

#include "llama-impl.h"
#include "llama-io.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

// saving and restoring: a header of our own, the stock cache's cells and rows, then what the slots stand for.
//
// the header stands where a stock cache writes its number of streams, so that a stock build refuses the state by name
// instead of misreading it

namespace {

constexpr uint32_t STATE_MAGIC   = 0x4B4D5341; // "ASMK"
constexpr uint32_t STATE_VERSION = 3;

struct state_header {
    uint32_t magic;
    uint32_t version;
    uint32_t n_layer;
    uint32_t per_head;
    uint32_t observe;
    uint32_t reserved; // 0; versions before 3 have a size here
};

struct state_text {
    uint32_t n_cells;
    uint32_t n_packed;
    uint32_t n_middle;
    int32_t  middle_pos0;
    int32_t  middle_pos1;
    uint32_t moved;
    uint64_t n_middle_tokens;
    uint64_t n_ring;
    uint64_t n_compressions;
    uint64_t n_merges;
    uint64_t n_evictions;
};

} // namespace

void llama_kv_cache_asym::state_write(llama_io_write_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) const {
    const state_header header = {
        STATE_MAGIC, STATE_VERSION, (uint32_t) asym_layers.size(), (uint32_t) params.per_head, params.observe, 0,
    };
    io.write(&header, sizeof(header));

    // cells and rows, in the order of the slots
    llama_kv_cache::state_write(io, seq_id, flags);

    const auto & cells = v_cells[0];

    const bool is_empty = seq_id > 0; // there is only sequence 0

    state_text text = {};
    text.n_cells         = is_empty ? 0 : cells.get_used();
    text.n_middle        = is_empty ? 0 : n_middle;
    text.middle_pos0     = middle_pos0;
    text.middle_pos1     = middle_pos1;
    text.n_middle_tokens = n_middle_tokens;
    text.moved           = moved;
    text.n_ring          = n_ring;
    text.n_compressions  = counters.n_compressions;
    text.n_merges        = counters.n_merges;
    text.n_evictions     = counters.n_evictions;

    text.n_packed        = is_empty ? 0 : n_packed;
    io.write(&text, sizeof(text));

    for (const auto & layer : asym_layers) {
        for (const auto & table : layer.tables) {
            asymkv::slot_table packed;
            if (text.n_packed > 0) {
                const auto slots = table.packed.unpack(text.n_packed); // without those that were taken back
                packed.pack(slots.data(), text.n_packed);
            }
            const uint64_t n_bytes = packed.bytes().size();
            io.write(&table.n_lost, sizeof(table.n_lost));
            io.write(&n_bytes, sizeof(n_bytes));
            if (n_bytes > 0) {
                io.write(packed.bytes().data(), n_bytes);
            }
        }
    }

    if (params.observe > 0) {
        io.write(ring_pos.data(), ring_pos.size()*sizeof(ring_pos[0]));
        for (const auto & layer : asym_layers) {
            io.write_tensor(layer.q_ring, 0, ggml_nbytes(layer.q_ring));
        }
    }
}

void llama_kv_cache_asym::state_read(llama_io_read_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) {
    state_header header;
    io.read(&header, sizeof(header));

    if (header.magic != STATE_MAGIC) {
        throw std::runtime_error("the state is not one of a merged cache");
    }
    if (header.version != STATE_VERSION) {
        throw std::runtime_error("the state has version " + std::to_string(header.version) + " of the merged cache's format, and this library reads " +
                std::to_string(STATE_VERSION) + ": read the text again, or load the state with the library that saved it");
    }
    if (header.n_layer != asym_layers.size() || header.per_head != (uint32_t) params.per_head || header.observe != params.observe) {
        throw std::runtime_error("the state was saved with other settings (layers, per_head or observe)");
    }
    if (seq_id != -1 && seq_id != 0) {
        throw std::runtime_error("a merged cache holds one sequence, number 0");
    }

    clear(false);

    try {
        slot_info_vec_t sinfos;
        state_read_sinfo(io, seq_id, flags, &sinfos, nullptr);

        state_text text;
        io.read(&text, sizeof(text));

        const auto & cells = v_cells[0];

        bool is_consistent =
            text.n_cells == cells.get_used() && text.n_cells == cells.used_max_p1() &&
            text.n_packed <= text.n_cells && text.n_middle <= text.n_packed && text.n_middle_tokens < (uint64_t) std::numeric_limits<llama_pos>::max();
        if (text.n_middle == 0) {
            is_consistent = is_consistent && text.middle_pos0 == -1 && text.middle_pos1 == -1 && text.n_middle_tokens == 0;
        } else {
            is_consistent = is_consistent && text.middle_pos0 >= 0 && text.middle_pos0 <= text.middle_pos1 && llama_state_pos_valid(text.middle_pos1);
        }
        for (uint32_t i = 0; i < text.n_cells && is_consistent; ++i) {
            is_consistent = !cells.is_empty(i) && cells.seq_has(i, 0) && llama_state_pos_valid(cells.pos_get(i));
        }
        if (!is_consistent) {
            throw std::runtime_error("the state contradicts itself");
        }

        n_packed = text.n_packed;
        for (auto & layer : asym_layers) {
            for (auto & table : layer.tables) {
                uint64_t n_bytes;
                io.read(&table.n_lost, sizeof(table.n_lost));
                io.read(&n_bytes, sizeof(n_bytes));
                if (n_bytes > asymkv::slot_table::max_bytes(n_packed)) {
                    throw std::runtime_error("the state has more bytes in a table than its slots can take");
                }
                std::vector<uint8_t> bytes(n_bytes);
                if (n_bytes > 0) {
                    io.read(bytes.data(), n_bytes);
                }

                asymkv::slot_table packed;
                packed.set_bytes(std::move(bytes), n_packed);
                const auto slots = packed.unpack();
                const bool are_right = std::all_of(slots.begin(), slots.end(), [&](const asymkv_slot & slot) {
                    return slot.position >= 0.0 && slot.position < (double) std::numeric_limits<llama_pos>::max() &&
                        slot.score >= 0.0f && std::isfinite(slot.score) && (text.n_middle > 0 || slot.first == slot.last);
                });
                if (!are_right) {
                    throw std::runtime_error("the state has a slot that cannot be right");
                }
                table.pack(slots); // whatever the bytes were, these are as we write them
            }
        }

        n_middle        = text.n_middle;
        n_middle_tokens = text.n_middle_tokens;
        middle_pos0     = text.middle_pos0;
        middle_pos1     = text.middle_pos1;
        n_ring          = text.n_ring;
        moved           = text.moved != 0;

        counters.n_compressions = text.n_compressions;
        counters.n_merges       = text.n_merges;
        counters.n_evictions    = text.n_evictions;

        if (params.observe > 0) {
            io.read(ring_pos.data(), ring_pos.size()*sizeof(ring_pos[0]));
            for (const auto & layer : asym_layers) {
                io.read_tensor(layer.q_ring, 0, ggml_nbytes(layer.q_ring));
            }
        }

        const std::string contradiction = problem(false);
        if (!contradiction.empty()) {
            throw std::runtime_error("the state contradicts itself: " + contradiction);
        }

        for (auto & layer : asym_layers) {
            upload_log_card(layer);
        }
    } catch (...) {
        clear(true);
        throw;
    }
}
