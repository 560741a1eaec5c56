#pragma once

#include "asymkv.h"

#include <vector>

namespace asymkv {

// what the observed queries of one group saw. rows: x = head * n_queries + query, n_rows = n_heads * n_queries
struct observation {
    std::vector<double> mass; // [n_slots] attention mass, summed over rows

    // with `rows`
    std::vector<float> prob;     // [n_slots][n_rows] a_i(q)
    std::vector<float> log_prob; // [n_slots][n_rows] ln(a_i(q)/c_i), not below LOG_ZERO
    std::vector<float> dist_sq;  // [n_slots][n_rows] |v_i - o(q)|^2
    std::vector<float> out_norm; // [n_rows]          |o(q)|

    // of one head; kept, since their memory is needed again for the next group
    std::vector<float> queries_t;   // as columns: [head_k][n_queries]
    std::vector<float> out_t;       // "           [head_v][n_queries]
    std::vector<float> head_prob;   // [n_slots][n_queries] without `rows`
    std::vector<float> head_logit;  // "
};

// locally merged attention of the observed queries: softmax over scale * q.k_i + ln c_i, and the learned sink where there is
// one. the rows, query by query, are what the `output` and `exact` scores and the `fisher` key weights want
void observe(const asymkv_group & group, bool wants_rows, observation & out);

} // namespace asymkv
