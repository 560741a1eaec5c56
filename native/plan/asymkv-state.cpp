#include "asymkv-state.h"

#include "asymkv-math.h"

#include <cmath>
#include <utility>

namespace asymkv {

group_state::group_state(const asymkv_params & params, const asymkv_group & g, observation seen_by) :
    params(params), group(g), seen(std::move(seen_by)),
    n_slots(g.n_slots), n_heads(g.n_heads), head_k(g.head_k), head_v(g.head_v),
    n_rows((size_t) g.n_heads*g.n_queries) {

    prev.resize(n_slots);
    next.resize(n_slots);
    for (uint32_t i = 0; i < n_slots; ++i) {
        prev[i] = i == 0           ? NO_SLOT : i - 1;
        next[i] = i == n_slots - 1 ? NO_SLOT : i + 1;
    }
    live   .assign(n_slots, true);
    touched.assign(n_slots, false);

    while (first_index < n_slots && is_protected(first_index)) {
        ++first_index;
    }

    keys     .assign(g.keys,          g.keys   + (size_t) n_slots*n_heads*head_k);
    values   .assign(g.values,        g.values + (size_t) n_slots*n_heads*head_v);
    positions.assign(g.positions,     g.positions     + n_slots);
    cards    .assign(g.cardinalities, g.cardinalities + n_slots);

    scores.resize(n_slots);
    for (uint32_t i = 0; i < n_slots; ++i) {
        scores[i] = (double) params.accumulate*g.scores[i] + seen.mass[i];
        score_sum += scores[i];
    }

    const bool keeps_rows = params.score == ASYMKV_SCORE_OUTPUT || params.score == ASYMKV_SCORE_EXACT;
    if (keeps_rows) {
        prob      = std::move(seen.prob);
        value_out = std::move(seen.value_out);
        row_factor.assign(n_rows, 1.0);

        value_sq.resize((size_t) n_slots*n_heads);
        for (uint32_t i = 0; i < n_slots; ++i) {
            for (uint32_t h = 0; h < n_heads; ++h) {
                value_sq[(size_t) i*n_heads + h] = dot(value(i, h), value(i, h), head_v);
            }
        }
    }

    if (params.score == ASYMKV_SCORE_EXACT) {
        out_norm.resize(n_rows);
        for (size_t x = 0; x < n_rows; ++x) {
            out_norm[x] = std::sqrt(seen.out_sq[x]);
        }
        log_prob.resize((size_t) n_slots*n_rows);
        for (uint32_t i = 0; i < n_slots; ++i) {
            const double * a = prob.data() + (size_t) i*n_rows;
            double       * l = log_prob.data() + (size_t) i*n_rows;
            for (size_t x = 0; x < n_rows; ++x) {
                const double per_token = a[x]/cards[i]; // may underflow to 0
                l[x] = per_token > 0.0 ? std::log(per_token) : LOG_ZERO;
            }
        }
    }
}

void group_state::unlink(uint32_t i) {
    live[i] = false;
    if (prev[i] != NO_SLOT) {
        next[prev[i]] = next[i];
    }
    if (next[i] != NO_SLOT) {
        prev[next[i]] = prev[i];
    }
}

} // namespace asymkv
