#include "llama-kv-cache-asym.h"

#include "llama-io.h"

#include <stdexcept>

// the cache of the layers with a sliding window, beside a merged one: stock, but for its states, which remember where each cell
// stood. A stock cache restores cells from the front, whence sums in another order, and other places for what comes next:
// a text that was restored would not go on as the one that was saved

namespace {

class llama_kv_cache_window : public llama_kv_cache {
public:
    using llama_kv_cache::llama_kv_cache;

    void state_write(llama_io_write_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) const override {
        const auto & cells = v_cells[0];

        std::vector<uint32_t> places;
        for (uint32_t i = 0; i < cells.size() && seq_id <= 0; ++i) {
            if (!cells.is_empty(i)) {
                places.push_back(i);
            }
        }
        const uint32_t numbers[] = { v_heads[0], (uint32_t) places.size() };
        io.write(numbers, sizeof(numbers));
        if (!places.empty()) {
            io.write(places.data(), places.size()*sizeof(places[0]));
        }
        // of the only sequence all cells, as of the whole context: a cut may go back to those that the window has left
        llama_kv_cache::state_write(io, seq_id == 0 ? -1 : seq_id, flags);
    }

    void state_read(llama_io_read_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) override {
        if (seq_id != -1 && seq_id != 0) {
            throw std::runtime_error("a merged cache holds one sequence, number 0");
        }
        const uint32_t size = v_cells[0].size();

        uint32_t numbers[2];
        io.read(numbers, sizeof(numbers));

        const auto [head, n] = numbers;
        if (head > size || n > size) {
            throw std::runtime_error("the state was saved with a larger sliding window");
        }
        slot_info::idx_vec_t places(n);
        if (n > 0) {
            io.read(places.data(), n*sizeof(places[0]));
        }
        for (uint32_t i = 0; i < n; ++i) {
            if (places[i] >= size || (i > 0 && places[i] <= places[i - 1])) {
                throw std::runtime_error("the state contradicts itself: its cells of the sliding window are out of order");
            }
        }

        slot_info sinfo = {};
        if (n > 0) {
            sinfo.resize(1);
            sinfo.idxs[0] = std::move(places);
        }
        clear(true);

        const slot_info_vec_t sinfos = { sinfo };
        state_read_sinfo(io, 0, flags, nullptr, &sinfos);
        v_heads[0] = head;
    }
};

} // namespace

llama_kv_cache * llama_kv_cache_create_window(
       const llama_kv_cache & base,
          const llama_model & model,
        const llama_hparams & hparams,
                  ggml_type   type_k,
                  ggml_type   type_v,
                       bool   v_trans,
                       bool   offload,
                       bool   unified,
                   uint32_t   kv_size,
                   uint32_t   n_seq_max,
                   uint32_t   n_pad,
                   uint32_t   n_swa,
             llama_swa_type   swa_type,
             llama_memory_t   mem_other,
    const llama_memory_i::layer_filter_cb & filter,
    const llama_memory_i::layer_reuse_cb  & reuse,
    const llama_memory_i::layer_share_cb  & share) {
    if (dynamic_cast<const llama_kv_cache_asym *>(&base)) {
        return new llama_kv_cache_window(model, hparams, type_k, type_v, v_trans, offload, unified, kv_size, n_seq_max, n_pad,
                n_swa, swa_type, mem_other, filter, reuse, share);
    }
    return new llama_kv_cache(model, hparams, type_k, type_v, v_trans, offload, unified, kv_size, n_seq_max, n_pad,
            n_swa, swa_type, mem_other, filter, reuse, share);
}
