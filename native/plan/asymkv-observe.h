#pragma once

#include "asymkv.h"

#include <vector>

namespace asymkv {

// what the observed queries of one group saw. rows: x = head * n_queries + query, n_rows = n_heads * n_queries
struct observation {
    std::vector<double> mass; // [n_slots] attention mass, summed over rows

    // with `rows`, else empty
    std::vector<double> prob;       // [n_slots][n_rows] a_i(q)
    std::vector<double> out_sq;     // [n_rows]          |o(q)|^2
    std::vector<double> value_out;  // [n_slots][n_rows] v_i . o(q)

    // with `fisher`, else empty: sum over queries of a_i^2 |v_i - o|^2 q[ch]^2, [n_slots][n_heads][head_k]
    std::vector<double> fisher;
};

struct observe_wants {
    bool rows;   // probabilities query by query: the `output` and `exact` scores
    bool fisher; // the `fisher` key weights
};

// locally merged attention of the observed queries: softmax over scale * q.k_i + ln c_i
observation observe(const asymkv_group & group, observe_wants wants);

} // namespace asymkv
