#pragma once

#include <cstddef>
#include <cstdint>

// the planner's inner loops, compiled for several instruction sets and chosen when the program runs: libllama itself may
// be built for the oldest CPU of its platform. single precision; sums over many terms leave it in double

namespace asymkv {

// logit of a slot that a query does not see: far below every real one, and harmless in sums
constexpr float LOG_ZERO = -1e4f;

// an operation that leaves a query less of its attention than this replaces its output by one that nothing tells: the
// exact price is 0/0 there, and |v| + |o| is charged instead
constexpr float LEAST_LEFT = 1e-6f;

// one slot as n observed queries see it
struct slot_rows {
    float * prob;     // attention probability, before the row factor
    float * log_prob; // ln(probability / cardinality), "
    float * dist_sq;  // |v - o|^2
};

// what the queries of a slot share
struct query_rows {
    float       * factor;   // the probability is prob * factor
    const float * out_norm; // |o|
};

// of a pair (i, j)
struct pair_terms {
    float card;    // merged cardinality
    float share;   // of i: c_i/(c_i + c_j)
    float weight;  // of key i
    float dist_sq; // |v_i - v_j|^2
    float norm;    // |v| of the longer one
};

struct kernel_table {
    const char * name;

    // y[t][r] = (add ? y[t][r] : 0) + sum over c of x[t*x_row + c*x_col] * m[c*m_row + r], t < n_rows, c < n_mid, r < n
    void (*products)(const float * x, size_t x_row, size_t x_col, const float * m, size_t m_row, float * y, size_t y_row,
            uint32_t n_rows, uint32_t n_mid, uint32_t n, bool add);

    // y[t][r] = sum over c of (x[t*x_row + c] - m[c*m_row + r])^2
    void (*distances)(const float * x, size_t x_row, const float * m, size_t m_row, float * y, size_t y_row,
            uint32_t n_rows, uint32_t n_mid, uint32_t n);

    // softmax of n queries over the slots, one slot after the other:
    // s *= scale, top = max(top, s + log_card)
    void (*softmax_top)(float * s, float scale, float log_card, float * top, uint32_t n);
    // p = exp(s + log_card - top), sum += p
    void (*softmax_exp)(const float * s, float log_card, const float * top, float * p, float * sum, uint32_t n);
    // p *= factor, s -= shift, but not below LOG_ZERO; the sum of p
    double (*softmax_end)(float * s, float * p, const float * factor, const float * shift, uint32_t n);

    // y = p^2 d; the sum of y m
    double (*information)(const float * p, const float * d, const float * m, float * y, uint32_t n);

    // sum of |v_i - v_j|^2
    float (*distance_sq)(const float * x, const float * y, uint32_t n);

    // sum over queries of |c_j p_i - c_i p_j|
    double (*unevenness)(const float * pi, const float * pj, float ci, float cj, uint32_t n);

    // sums over queries of |output change|
    double (*merge_change)(const slot_rows & i, const slot_rows & j, const query_rows & q, const pair_terms & t, uint32_t n);
    double (*evict_change)(const slot_rows & i, const query_rows & q, float norm, uint32_t n);

    // the rows after that: i is the merged slot
    void (*merge_apply)(const slot_rows & i, const slot_rows & j, const query_rows & q, const pair_terms & t, uint32_t n);
    void (*evict_apply)(const slot_rows & i, const query_rows & q, uint32_t n);

    // cos and sin of delta * freqs
    void (*cos_sin)(double delta, const float * freqs, float * cos, float * sin, uint32_t n);

    void (*half_to_float)(const uint16_t * x, float * y, size_t n);
};

// the fastest that this CPU runs
const kernel_table & kernels();

// all that this CPU runs, for tests; null-terminated
const kernel_table * const * kernels_all();

} // namespace asymkv
