#pragma once

#include "asymkv.h"

#include <vector>

namespace asymkv {

// what the observed queries of one group saw. rows: x = head * n_queries + query, n_rows = n_heads * n_queries
struct observation {
    std::vector<double> mass; // [n_slots] attention mass, summed over rows

    // empty unless asked for (`output` and `exact` scores, `fisher` weights)
    std::vector<double> prob;       // [n_slots][n_rows] a_i(q)
    std::vector<double> out;        // [n_rows][head_v]  o(q)
    std::vector<double> out_sq;     // [n_rows]          |o(q)|^2
    std::vector<double> value_out;  // [n_slots][n_rows] v_i . o(q)
};

// locally merged attention of the observed queries: softmax over scale * q.k_i + ln c_i
observation observe(const asymkv_group & group, bool keep_rows);

} // namespace asymkv
