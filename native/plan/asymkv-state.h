#pragma once

#include "asymkv-observe.h"

#include <vector>

namespace asymkv {

constexpr uint32_t NO_SLOT = UINT32_MAX;

// log of a probability that is zero: far below every real one, and harmless in sums
constexpr double LOG_ZERO = -1e4;

// one group while its plan is being made: every array is updated by each step
struct group_state {
    const asymkv_params & params;
    const asymkv_group  & group;
    observation           seen; // its rows move to the arrays below, which steps update

    const uint32_t n_slots;
    const uint32_t n_heads;
    const uint32_t head_k;
    const uint32_t head_v;
    const size_t   n_rows; // n_heads * n_queries

    // order of the live slots; a slot keeps its index
    std::vector<uint32_t> prev;
    std::vector<uint32_t> next;
    std::vector<bool>     live;

    std::vector<float>    keys;      // [n_slots][n_heads][head_k]
    std::vector<float>    values;    // [n_slots][n_heads][head_v]
    std::vector<double>   positions; // [n_slots]
    std::vector<uint32_t> cards;     // [n_slots]
    std::vector<double>   scores;    // [n_slots] accumulated attention mass
    std::vector<bool>     touched;   // [n_slots] the row differs from the cache's

    // of `output` and `exact`
    std::vector<double> prob;      // [n_slots][n_rows]; the probability is prob * row_factor
    std::vector<double> log_prob;  // [n_slots][n_rows]; ln(prob / cardinality), `exact` only
    std::vector<double> value_out; // [n_slots][n_rows]
    std::vector<double> value_sq;  // [n_slots][n_heads] |v_i|^2
    std::vector<double> row_factor; // [n_rows]
    std::vector<double> out_norm;   // [n_rows] |o(q)|, `exact` only

    // of the key weights
    std::vector<double> fisher;    // [n_slots][n_heads][head_k]
    std::vector<double> value_mean; // [n_heads][head_v], of `slimmer`
    double              score_sum = 0.0;

    uint32_t first_index = 0; // leading protected slots

    group_state(const asymkv_params & params, const asymkv_group & group, observation seen);

    bool is_protected(uint32_t i) const { return group.is_protected[i] != 0; }

    bool can_merge(uint32_t i) const {
        return next[i] != NO_SLOT && !is_protected(i) && !is_protected(next[i]);
    }

    uint32_t merged_cardinality(uint32_t i, uint32_t j) const {
        const uint64_t sum = (uint64_t) cards[i] + cards[j];
        const uint64_t max = params.max_cardinality > 0 ? params.max_cardinality : UINT32_MAX;
        return (uint32_t) (sum < max ? sum : max);
    }

    const float * value(uint32_t i, uint32_t h) const { return values.data() + ((size_t) i*n_heads + h)*head_v; }

    void unlink(uint32_t i);
};

} // namespace asymkv
