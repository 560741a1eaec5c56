#include "asymkv-state.h"

#include "asymkv-score.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace asymkv {

double compressions_of(const asymkv_params & params, double age) {
    const double n = std::max(1.0, age/params.room);
    const double a = params.accumulate;

    return a < 1.0 ? (1.0 - std::pow(a, n))/(1.0 - a) : n;
}

void group_state::reset(const asymkv_params & new_params, const asymkv_group & g) {
    const score_type * score = score_find(new_params.score);
    if (!score) {
        throw std::invalid_argument("unknown score " + std::to_string(new_params.score));
    }

    params  = new_params;
    group   = g;
    n_slots = g.n_slots;
    n_heads = g.n_heads;
    head_k  = g.head_k;
    head_v  = g.head_v;
    n_rows  = (size_t) g.n_heads*g.n_queries;

    const bool merges = score->merge_cost && params.evict != ASYMKV_EVICT_ONLY;
    observe(group, score->keeps_rows || (merges && params.key_weights == ASYMKV_KEYS_FISHER), seen);

    prev.resize(n_slots);
    next.resize(n_slots);
    for (uint32_t i = 0; i < n_slots; ++i) {
        prev[i] = i == 0           ? NO_SLOT : i - 1;
        next[i] = i == n_slots - 1 ? NO_SLOT : i + 1;
    }
    live   .assign(n_slots, 1);
    touched.assign(n_slots, 0);

    first_index = 0;
    while (first_index < n_slots && is_protected(first_index)) {
        ++first_index;
    }

    // the caller may have put them here
    if (g.keys != keys.data()) {
        keys.assign(g.keys, g.keys + (size_t) n_slots*n_heads*head_k);
    }
    if (g.values != values.data()) {
        values.assign(g.values, g.values + (size_t) n_slots*n_heads*head_v);
    }
    positions.assign(g.positions,     g.positions     + n_slots);
    cards    .assign(g.cardinalities, g.cardinalities + n_slots);

    scores .resize(n_slots);
    history.resize(n_slots);
    score_sum = 0.0;
    for (uint32_t i = 0; i < n_slots; ++i) {
        const double sum = (double) params.accumulate*g.scores[i];
        history[i] = params.history*sum/compressions_of(params, positions[n_slots - 1] - positions[i]);
        scores[i] = sum + seen.mass[i];
        score_sum += scores[i];
    }

    if (score->keeps_rows) {
        row_factor.assign(n_rows, 1.0f);
        value_norm.resize((size_t) n_slots*n_heads);
        for (uint32_t i = 0; i < n_slots; ++i) {
            update_value_norm(i);
        }
    }
}

void group_state::update_value_norm(uint32_t i) {
    for (uint32_t h = 0; h < n_heads; ++h) {
        const float * v = value(i, h);
        double sum = 0.0;
        for (uint32_t c = 0; c < head_v; ++c) {
            sum += (double) v[c]*v[c];
        }
        value_norm[(size_t) i*n_heads + h] = (float) std::sqrt(sum);
    }
}

void group_state::unlink(uint32_t i) {
    live[i] = 0;
    if (prev[i] != NO_SLOT) {
        next[prev[i]] = next[i];
    }
    if (next[i] != NO_SLOT) {
        prev[next[i]] = prev[i];
    }
}

} // namespace asymkv
