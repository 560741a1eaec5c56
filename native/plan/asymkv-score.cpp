#include "asymkv-score.h"

#include "asymkv-math.h"
#include "asymkv-weights.h"

#include <algorithm>
#include <cmath>

namespace asymkv {

namespace {

// a probability can reach 1, and a slot cannot give away all of a row
constexpr double MIN_DENOMINATOR = 1e-12;

// an operation that leaves a query less of its attention than this replaces its output by one that nothing tells: the
// exact price is 0/0 there, and |v| + |o| is charged instead
constexpr double LEAST_LEFT = 1e-6;

// sums f(0) .. f(n - 1) in eight lanes, an order that does not depend on the CPU
template <typename F>
ASYMKV_INLINE double sum_in_lanes(size_t n, F f) {
    double lanes[8] = { 0 };
    size_t x = 0;
    for (; x + 8 <= n; x += 8) {
        for (size_t t = 0; t < 8; ++t) {
            lanes[t] += f(x + t);
        }
    }
    for (; x < n; ++x) {
        lanes[0] += f(x);
    }
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

double value_product(const group_state & st, uint32_t i, uint32_t j, uint32_t h) {
    return dot(st.value(i, h), st.value(j, h), st.head_v);
}

//
// mass: the paper's reference score
//

double mass_merge_cost(const group_state & st, uint32_t i, uint32_t j) {
    double cost = (st.scores[i] + st.scores[j])*((double) st.cards[i] + st.cards[j]);
    if (st.params.decay > 0.0f) {
        cost /= std::exp((double) (i - st.first_index)/st.params.decay);
    }
    return cost;
}

//
// output: change of the output when the pair's attention is spread equally over its tokens
//

ASYMKV_CLONES
double output_row_sum(const double * ai, const double * aj, double ci, double cj, size_t n) {
    return sum_in_lanes(n, [&](size_t x) ASYMKV_INLINE_LAMBDA { return std::fabs(ai[x]*cj - aj[x]*ci); });
}

double output_merge_cost(const group_state & st, uint32_t i, uint32_t j) {
    const uint32_t nq = st.group.n_queries;
    const double ci = st.cards[i];
    const double cj = st.cards[j];

    double cost = 0.0;
    for (uint32_t h = 0; h < st.n_heads; ++h) {
        const double sum = output_row_sum(
                st.prob.data() + (size_t) i*st.n_rows + (size_t) h*nq,
                st.prob.data() + (size_t) j*st.n_rows + (size_t) h*nq, ci, cj, nq);
        const double d_sq = st.value_sq[(size_t) i*st.n_heads + h] + st.value_sq[(size_t) j*st.n_heads + h] - 2.0*value_product(st, i, j, h);
        cost += sum/(ci + cj)*std::sqrt(std::max(0.0, d_sq));
    }
    return cost;
}

void output_merge_apply(group_state & st, uint32_t i, uint32_t j) {
    double       * ai = st.prob.data() + (size_t) i*st.n_rows;
    const double * aj = st.prob.data() + (size_t) j*st.n_rows;
    for (size_t x = 0; x < st.n_rows; ++x) {
        ai[x] += aj[x];
    }
}

//
// exact: the output change itself, of merging and of evicting, in one unit
//

struct pair_rows {
    const double * ai, * aj; // probabilities, before the row factor
    const double * li, * lj; // ln(probability / cardinality), "
    const double * oi, * oj; // v_i.o, v_j.o
    const double * factor;   // row factors
    const double * oo;       // |o|^2
    const double * o_norm;   // |o|
    double c, f, w;          // merged cardinality, share of i, key weight of i
    double vii, vjj, vij;    // products of the values
    double v_norm;           // of the longer one
};

// |output change| of one query
ASYMKV_INLINE double exact_merge_change(const pair_rows & p, size_t x) {
    const double ai = p.ai[x]*p.factor[x];
    const double aj = p.aj[x]*p.factor[x];
    const double mm = p.c*fast_exp(p.w*p.li[x] + (1.0 - p.w)*p.lj[x])*p.factor[x];

    const double left = 1.0 + mm - ai - aj;

    const double bi = mm*p.f         - ai;
    const double bj = mm*(1.0 - p.f) - aj;

    const double uii = p.vii - 2.0*p.oi[x]       + p.oo[x];
    const double ujj = p.vjj - 2.0*p.oj[x]       + p.oo[x];
    const double uij = p.vij - p.oi[x] - p.oj[x] + p.oo[x];

    double d2 = bi*bi*uii + bj*bj*ujj + 2.0*bi*bj*uij;
    d2 = d2 < 0.0 ? 0.0 : d2;
    return left < LEAST_LEFT ? p.v_norm + p.o_norm[x] : std::sqrt(d2)/left;
}

struct slot_rows {
    const double * a, * vo;              // probabilities before the row factor, v.o
    const double * factor, * oo, * o_norm;
    double v_sq, v_norm;
};

ASYMKV_INLINE double exact_evict_change(const slot_rows & s, size_t x) {
    const double p    = s.a[x]*s.factor[x];
    const double left = 1.0 - p;

    double u2 = s.v_sq - 2.0*s.vo[x] + s.oo[x];
    u2 = u2 < 0.0 ? 0.0 : u2;
    return left < LEAST_LEFT ? s.v_norm + s.o_norm[x] : p*std::sqrt(u2)/left;
}

ASYMKV_CLONES
double exact_merge_sum(const pair_rows p, size_t n) {
    return sum_in_lanes(n, [&](size_t x) ASYMKV_INLINE_LAMBDA { return exact_merge_change(p, x); });
}

ASYMKV_CLONES
double exact_evict_sum(const slot_rows s, size_t n) {
    return sum_in_lanes(n, [&](size_t x) ASYMKV_INLINE_LAMBDA { return exact_evict_change(s, x); });
}

double exact_merge_cost(const group_state & st, uint32_t i, uint32_t j) {
    const uint32_t nq = st.group.n_queries;

    pair_rows p;
    p.c = st.merged_cardinality(i, j);
    p.f = (double) st.cards[i]/((double) st.cards[i] + st.cards[j]);
    p.w = weight_scalar(st, i, j);

    double cost = 0.0;
    for (uint32_t h = 0; h < st.n_heads; ++h) {
        const size_t row = (size_t) h*nq;
        p.ai  = st.prob     .data() + (size_t) i*st.n_rows + row;
        p.aj  = st.prob     .data() + (size_t) j*st.n_rows + row;
        p.li  = st.log_prob .data() + (size_t) i*st.n_rows + row;
        p.lj  = st.log_prob .data() + (size_t) j*st.n_rows + row;
        p.oi  = st.value_out.data() + (size_t) i*st.n_rows + row;
        p.oj  = st.value_out.data() + (size_t) j*st.n_rows + row;
        p.oo     = st.seen.out_sq.data() + row;
        p.o_norm = st.out_norm   .data() + row;
        p.factor = st.row_factor.data() + row;
        p.vii = st.value_sq[(size_t) i*st.n_heads + h];
        p.vjj = st.value_sq[(size_t) j*st.n_heads + h];
        p.vij = value_product(st, i, j, h);
        p.v_norm = std::sqrt(std::max(p.vii, p.vjj));

        cost += exact_merge_sum(p, nq);
    }
    return cost;
}

void exact_merge_apply(group_state & st, uint32_t i, uint32_t j) {
    const double c = st.merged_cardinality(i, j);
    const double f = (double) st.cards[i]/((double) st.cards[i] + st.cards[j]);
    const double w = weight_scalar(st, i, j);

    double       * ai = st.prob     .data() + (size_t) i*st.n_rows;
    const double * aj = st.prob     .data() + (size_t) j*st.n_rows;
    double       * li = st.log_prob .data() + (size_t) i*st.n_rows;
    const double * lj = st.log_prob .data() + (size_t) j*st.n_rows;
    double       * oi = st.value_out.data() + (size_t) i*st.n_rows;
    const double * oj = st.value_out.data() + (size_t) j*st.n_rows;

    for (size_t x = 0; x < st.n_rows; ++x) {
        const double l = w*li[x] + (1.0 - w)*lj[x];
        const double m = c*fast_exp(l);

        // rows are renormalised lazily: only the factor changes
        const double den = std::max(1.0 + (m - ai[x] - aj[x])*st.row_factor[x], MIN_DENOMINATOR);

        ai[x] = m;
        li[x] = l;
        oi[x] = f*oi[x] + (1.0 - f)*oj[x];
        st.row_factor[x] /= den;
    }
}

double exact_evict_cost(const group_state & st, uint32_t i) {
    const uint32_t nq = st.group.n_queries;

    double cost = 0.0;
    for (uint32_t h = 0; h < st.n_heads; ++h) {
        const size_t row = (size_t) h*nq;
        slot_rows rows;
        rows.a      = st.prob     .data() + (size_t) i*st.n_rows + row;
        rows.vo     = st.value_out.data() + (size_t) i*st.n_rows + row;
        rows.factor = st.row_factor .data() + row;
        rows.oo     = st.seen.out_sq.data() + row;
        rows.o_norm = st.out_norm   .data() + row;
        rows.v_sq   = st.value_sq[(size_t) i*st.n_heads + h];
        rows.v_norm = std::sqrt(rows.v_sq);

        cost += exact_evict_sum(rows, nq);
    }
    return cost;
}

void exact_evict_apply(group_state & st, uint32_t i) {
    const double * a = st.prob.data() + (size_t) i*st.n_rows;
    for (size_t x = 0; x < st.n_rows; ++x) {
        st.row_factor[x] /= std::max(1.0 - a[x]*st.row_factor[x], MIN_DENOMINATOR);
    }
}

//
// random: the control
//

double random_merge_cost(const group_state & st, uint32_t i, uint32_t /*j*/) {
    return hash_uniform(st.params.seed + i + 65536ull*st.cards[i]);
}

struct score_entry {
    int32_t    id;
    score_type type;
};

const score_entry SCORES[] = {
    { ASYMKV_SCORE_MASS,   { "mass",   false, mass_merge_cost,   nullptr,            nullptr,          nullptr           } },
    { ASYMKV_SCORE_OUTPUT, { "output", true,  output_merge_cost, output_merge_apply, nullptr,          nullptr           } },
    { ASYMKV_SCORE_EXACT,  { "exact",  true,  exact_merge_cost,  exact_merge_apply,  exact_evict_cost, exact_evict_apply } },
    { ASYMKV_SCORE_RANDOM, { "random", false, random_merge_cost, nullptr,            nullptr,          nullptr           } },
};

} // namespace

const score_type * score_find(int32_t score) {
    for (const auto & e : SCORES) {
        if (e.id == score) {
            return &e.type;
        }
    }
    return nullptr;
}

} // namespace asymkv
