#include "asymkv-observe.h"

#include "asymkv-kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace asymkv {

namespace {

constexpr float INF = std::numeric_limits<float>::infinity();

// slots at a time: what a block of them needs stays in the cache, and single precision sums stay short
constexpr uint32_t N_BLOCK = 64;

// one head's rows: those of the result, or scratch without distances where nobody wants them
struct head_rows {
    float * prob;
    float * logit;
    float * dist_sq;
    size_t  stride; // from slot to slot
};

// logits scale * q.k into `rows.logit`; top[r] = the largest of logit + ln c, and of the sink's
void head_logits(const asymkv_group & g, uint32_t h, const std::vector<float> & log_card, const float * queries_t, const head_rows & rows, std::vector<float> & top) {
    const auto & kernel = kernels();

    const uint32_t n  = g.n_slots;
    const uint32_t nq = g.n_queries;
    const size_t   nk = (size_t) g.n_heads*g.head_k;

    const int32_t first_query = *std::min_element(g.query_positions, g.query_positions + nq);

    if (g.sink_logits) {
        std::copy_n(g.sink_logits + (size_t) h*nq, nq, top.begin());
    } else {
        std::fill(top.begin(), top.end(), -INF);
    }

    for (uint32_t i0 = 0; i0 < n; i0 += N_BLOCK) {
        const uint32_t nb = std::min(N_BLOCK, n - i0);

        kernel.products(g.keys + i0*nk + (size_t) h*g.head_k, nk, 1, queries_t, nq, rows.logit + i0*rows.stride, rows.stride, nb, g.head_k, nq, false);

        for (uint32_t i = i0; i < i0 + nb; ++i) {
            float * s = rows.logit + i*rows.stride;

            if (g.softcap > 0.0f) {
                for (uint32_t r = 0; r < nq; ++r) {
                    s[r] = g.softcap*std::tanh(g.scale*s[r]/g.softcap)/g.scale;
                }
            }
            for (uint32_t r = 0; g.positions[i] > first_query && r < nq; ++r) {
                if (g.positions[i] > g.query_positions[r]) {
                    s[r] = -INF;
                }
            }
            kernel.softmax_top(s, g.scale, log_card[i], top.data(), nq);
        }
    }

    // a query that sees nothing gets zeros, not NaN
    for (float & t : top) {
        t = std::isinf(t) ? 0.0f : t;
    }
}

// probabilities and their logarithms. what the sink takes is no slot's
void head_softmax(const asymkv_group & g, uint32_t h, const std::vector<float> & log_card, const head_rows & rows, const std::vector<float> & top, std::vector<double> & mass) {
    const auto & kernel = kernels();

    const uint32_t n  = g.n_slots;
    const uint32_t nq = g.n_queries;

    std::vector<double> sum(nq, 0.0);
    std::vector<float>  part(nq);

    for (uint32_t r = 0; g.sink_logits && r < nq; ++r) {
        sum[r] = std::exp((double) g.sink_logits[(size_t) h*nq + r] - top[r]);
    }

    for (uint32_t i0 = 0; i0 < n; i0 += N_BLOCK) {
        std::fill(part.begin(), part.end(), 0.0f);
        for (uint32_t i = i0; i < std::min(i0 + N_BLOCK, n); ++i) {
            kernel.softmax_exp(rows.logit + i*rows.stride, log_card[i], top.data(), rows.prob + i*rows.stride, part.data(), nq);
        }
        for (uint32_t r = 0; r < nq; ++r) {
            sum[r] += part[r];
        }
    }

    std::vector<float> factor(nq);
    std::vector<float> shift (nq);
    for (uint32_t r = 0; r < nq; ++r) {
        factor[r] = sum[r] > 0.0 ? (float) (1.0/sum[r]) : 0.0f;
        shift [r] = sum[r] > 0.0 ? (float) (top[r] + std::log(sum[r])) : 0.0f;
    }
    for (uint32_t i = 0; i < n; ++i) {
        mass[i] += kernel.softmax_end(rows.logit + i*rows.stride, rows.prob + i*rows.stride, factor.data(), shift.data(), nq);
    }
}

// |v - o|^2, and o(q) as columns
void head_distances(const asymkv_group & g, uint32_t h, const head_rows & rows, float * out_t, float * out_norm) {
    const auto & kernel = kernels();

    const uint32_t n  = g.n_slots;
    const uint32_t nq = g.n_queries;
    const uint32_t dv = g.head_v;
    const size_t   nv = (size_t) g.n_heads*dv;

    const float * values = g.values + (size_t) h*dv;

    // channels are the rows of this product, slots its middle
    for (uint32_t i0 = 0; i0 < n; i0 += N_BLOCK) {
        kernel.products(values + i0*nv, 1, nv, rows.prob + i0*rows.stride, rows.stride, out_t, nq, dv, std::min(N_BLOCK, n - i0), nq, i0 > 0);
    }
    for (uint32_t r = 0; r < nq; ++r) {
        double sum = 0.0;
        for (uint32_t c = 0; c < dv; ++c) {
            sum += (double) out_t[(size_t) c*nq + r]*out_t[(size_t) c*nq + r];
        }
        out_norm[r] = (float) std::sqrt(sum);
    }
    kernel.distances(values, nv, out_t, nq, rows.dist_sq, rows.stride, n, dv, nq);
}

} // namespace

void observe(const asymkv_group & g, bool wants_rows, observation & out) {
    const uint32_t n  = g.n_slots;
    const uint32_t nh = g.n_heads;
    const uint32_t nq = g.n_queries;
    const size_t   nr = (size_t) nh*nq;

    out.mass.assign(n, 0.0);

    // every element of these is written below
    out.prob    .resize(wants_rows ? n*nr : 0);
    out.log_prob.resize(wants_rows ? n*nr : 0);
    out.dist_sq .resize(wants_rows ? n*nr : 0);
    out.out_norm.resize(nr);

    // nothing is known: every slot counts alike
    if (nq == 0) {
        std::fill(out.mass.begin(), out.mass.end(), 1.0/n);
        return;
    }

    out.queries_t.resize((size_t) g.head_k*nq);
    out.out_t    .resize((size_t) g.head_v*nq);
    if (!wants_rows) {
        out.head_prob .resize((size_t) n*nq);
        out.head_logit.resize((size_t) n*nq);
    }

    std::vector<float> log_card(n);
    for (uint32_t i = 0; i < n; ++i) {
        log_card[i] = (float) std::log((double) g.cardinalities[i]);
    }
    std::vector<float> top(nq);

    for (uint32_t h = 0; h < nh; ++h) {
        const size_t first = (size_t) h*nq;

        const head_rows rows = wants_rows ?
            head_rows { out.prob.data() + first, out.log_prob.data() + first, out.dist_sq.data() + first, nr } :
            head_rows { out.head_prob.data(), out.head_logit.data(), nullptr, nq };

        for (uint32_t r = 0; r < nq; ++r) {
            const float * q = g.queries + (first + r)*g.head_k;
            for (uint32_t c = 0; c < g.head_k; ++c) {
                out.queries_t[(size_t) c*nq + r] = q[c];
            }
        }

        head_logits (g, h, log_card, out.queries_t.data(), rows, top);
        head_softmax(g, h, log_card, rows, top, out.mass);

        if (wants_rows) {
            head_distances(g, h, rows, out.out_t.data(), out.out_norm.data() + first);
        }
    }
}

} // namespace asymkv
