#include "llama-kv-cache-asym.h"

#include <algorithm>
#include <cmath>

// the part of llama_kv_cache_asym that looks whether its invariants hold (llama-kv-cache-asym.h): of a state that comes
// from outside, and, with what the device holds, for tests after every operation

namespace {

std::string at(uint32_t layer, size_t group, uint32_t cell) {
    return " (layer " + std::to_string(layer) + ", group " + std::to_string(group) + ", slot " + std::to_string(cell) + ")";
}

} // namespace

std::string llama_kv_cache_asym::cells_problem() const {
    const auto & cells = v_cells[0];

    for (uint32_t i = 0; i < cells.size(); ++i) {
        if (!cells.is_empty(i) && !cells.seq_has(i, 0)) {
            return "cell " + std::to_string(i) + " belongs to another sequence than 0";
        }
        if (i < n_packed && cells.is_empty(i)) {
            return "packed cell " + std::to_string(i) + " of " + std::to_string(n_packed) + " is empty";
        }
    }
    if (n_middle > n_packed) {
        return std::to_string(n_middle) + " merged slots are more than the " + std::to_string(n_packed) + " packed ones";
    }
    if (n_middle == 0 && (middle_pos0 != -1 || middle_pos1 != -1 || n_middle_tokens != 0)) {
        return "nothing is merged, but there is a merged span";
    }
    if (n_middle > 0 && (middle_pos0 < 0 || middle_pos0 > middle_pos1)) {
        return "the merged span [" + std::to_string(middle_pos0) + ", " + std::to_string(middle_pos1) + "] is none";
    }

    std::vector<llama_pos> seen;
    for (llama_pos pos : ring_pos) {
        if (pos > cells.seq_pos_max(0)) {
            return "an observed query stands at " + std::to_string(pos) + ", after the text";
        }
        if (pos >= 0) {
            seen.push_back(pos);
        }
    }
    std::sort(seen.begin(), seen.end());
    if (std::adjacent_find(seen.begin(), seen.end()) != seen.end()) {
        return "a query is observed twice";
    }
    return "";
}

std::string llama_kv_cache_asym::table_problem(const asym_layer & layer, uint32_t group, const std::vector<uint32_t> & order, bool with_device) const {
    const auto & table = layer.tables[group];

    if (table.packed.size() < n_packed) {
        return "a table has " + std::to_string(table.packed.size()) + " slots, " + std::to_string(n_packed) + " are packed" + at(layer.il, group, 0);
    }

    const auto slots = slots_of(table, order);

    uint64_t n_counted = table.n_lost;
    uint32_t n_inside  = 0;
    double   before    = -1.0;
    int32_t  last      = -1;

    for (size_t i = 0; i < order.size(); ++i) {
        const asymkv_slot & slot = slots[i];
        const uint32_t      cell = order[i];
        const llama_pos     pos  = v_cells[0].pos_get(cell);

        const bool is_inside = n_middle > 0 && pos >= middle_pos0 && pos <= middle_pos1;

        if (slot.cardinality == 0 || slot.first > slot.last || slot.cardinality > (uint32_t) (slot.last - slot.first) + 1) {
            return "cardinality and span contradict each other" + at(layer.il, group, cell);
        }
        if (!(slot.position > before) || slot.first <= last) {
            return "slots are not in order" + at(layer.il, group, cell);
        }
        if (!moved && (slot.position < slot.first || slot.position > slot.last)) {
            return "a slot stands outside of its span" + at(layer.il, group, cell);
        }
        if (!is_inside && (slot.cardinality != 1 || slot.first != pos || (!moved && slot.position != pos))) {
            return "a token outside of the merged span is not exact" + at(layer.il, group, cell);
        }
        if (is_inside && (slot.first < middle_pos0 || slot.last > middle_pos1)) {
            return "a slot stands for tokens outside of the merged span" + at(layer.il, group, cell);
        }
        before     = slot.position;
        last       = slot.last;
        n_counted += slot.cardinality;
        n_inside  += is_inside;
    }

    if (n_counted != n_tokens()) {
        return "slots and lost tokens count " + std::to_string(n_counted) + " tokens, there are " + std::to_string(n_tokens()) + at(layer.il, group, 0);
    }
    if (n_inside < n_middle) {
        return std::to_string(n_inside) + " slots stand in the merged span, " + std::to_string(n_middle) + " were merged" + at(layer.il, group, 0);
    }

    if (!with_device) {
        return "";
    }
    std::vector<ggml_fp16_t> log_card(get_size());
    ggml_backend_tensor_get(layer.log_card, log_card.data(), group*layer.log_card->nb[1], log_card.size()*sizeof(ggml_fp16_t));
    const auto packed = table.packed.unpack(n_packed);
    for (uint32_t i = 0; i < log_card.size(); ++i) {
        const float expected = i < n_packed ? std::log((float) packed[i].cardinality) : 0.0f;
        if (log_card[i] != ggml_fp32_to_fp16(expected)) {
            return "the device has another cardinality than the table" + at(layer.il, group, i);
        }
    }
    return "";
}

std::string llama_kv_cache_asym::problem(bool with_device) const {
    std::string res = cells_problem();

    const auto order = sorted_cells();
    for (size_t i = 0; i < asym_layers.size() && res.empty(); ++i) {
        for (uint32_t group = 0; group < asym_layers[i].tables.size() && res.empty(); ++group) {
            res = table_problem(asym_layers[i], group, order, with_device);
        }
    }
    return res;
}
