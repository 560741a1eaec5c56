#pragma once

#include "asymkv-kernels.h"
#include "asymkv-observe.h"

#include <vector>

namespace asymkv {

constexpr uint32_t NO_SLOT = UINT32_MAX;

// how many compressions a slot of that age has been in, weighed as its score weighs them: `room` tokens come between two
double compressions_of(const asymkv_params & params, double age);

// one group while its plan is being made: every array is updated by each step. made once and reset for group after
// group, so that its memory is taken from the system only once
struct group_state {
    asymkv_params params = {};
    asymkv_group  group  = {};
    observation   seen; // its rows follow the steps; a probability is prob * row_factor

    uint32_t n_slots = 0;
    uint32_t n_heads = 0;
    uint32_t head_k  = 0;
    uint32_t head_v  = 0;
    size_t   n_rows  = 0; // n_heads * n_queries

    // order of the live slots; a slot keeps its index
    std::vector<uint32_t> prev;
    std::vector<uint32_t> next;
    std::vector<uint8_t>  live;

    std::vector<float>    keys;      // [n_slots][n_heads][head_k]
    std::vector<float>    values;    // [n_slots][n_heads][head_v]
    std::vector<double>   positions; // [n_slots]
    std::vector<uint32_t> cards;     // [n_slots]
    std::vector<double>   scores;    // [n_slots] accumulated attention mass
    std::vector<double>   history;   // [n_slots] what earlier compressions saw of it, on average, times params.history
    std::vector<uint8_t>  touched;   // [n_slots] the row differs from the cache's

    // of `output` and `exact`
    std::vector<float> value_norm; // [n_slots][n_heads] |v_i|
    std::vector<float> row_factor; // [n_rows]

    std::vector<double> priority; // [n_slots] of scores that order the slots once

    // of the key weights `slimmer`
    std::vector<double> value_mean; // [n_heads][head_v]

    // of `fisher`: the information of most slots is only wanted as a sum, that of single channels before a first merge
    std::vector<float>   query_sq;    // [n_rows][head_k] q^2, where two channels rotate together their mean
    std::vector<float>   query_norm;  // [n_rows] |q|^2
    std::vector<double>  information; // [n_slots] sum over channels
    std::vector<float>   fisher;      // [n_slots][n_heads][head_k] of the slots in
    std::vector<uint8_t> has_fisher;  // [n_slots]
    std::vector<float>   query_information; // [n_queries] of one head


    double score_sum = 0.0;

    uint32_t first_index = 0; // leading protected slots

    // observes the group, whose arrays have to live as long as the state is used. its keys and values may be the state's own
    void reset(const asymkv_params & params, const asymkv_group & group);

    bool is_protected(uint32_t i) const { return group.is_protected[i] != 0; }
    bool is_expired  (uint32_t i) const { return group.is_expired && group.is_expired[i] != 0; }

    bool can_merge(uint32_t i) const {
        return next[i] != NO_SLOT && !is_protected(i) && !is_protected(next[i]);
    }

    uint32_t merged_cardinality(uint32_t i, uint32_t j) const {
        const uint64_t sum = (uint64_t) cards[i] + cards[j];
        const uint64_t max = params.max_cardinality > 0 ? params.max_cardinality : UINT32_MAX;
        return (uint32_t) (sum < max ? sum : max);
    }

    float       * key  (uint32_t i, uint32_t h)       { return keys  .data() + ((size_t) i*n_heads + h)*head_k; }
    float       * value(uint32_t i, uint32_t h)       { return values.data() + ((size_t) i*n_heads + h)*head_v; }
    const float * value(uint32_t i, uint32_t h) const { return values.data() + ((size_t) i*n_heads + h)*head_v; }

    // slot i as the queries of head h see it
    slot_rows rows(uint32_t i, uint32_t h) {
        const size_t x = (size_t) i*n_rows + (size_t) h*group.n_queries;
        return { seen.prob.data() + x, seen.log_prob.data() + x, seen.dist_sq.data() + x };
    }
    query_rows queries(uint32_t h) {
        const size_t x = (size_t) h*group.n_queries;
        return { row_factor.data() + x, seen.out_norm.data() + x };
    }

    // |v_i - v_j|^2
    float value_distance_sq(uint32_t i, uint32_t j, uint32_t h) const { return kernels().distance_sq(value(i, h), value(j, h), head_v); }

    void update_value_norm(uint32_t i);

    void unlink(uint32_t i);
};

} // namespace asymkv
