#include "asymkv-observe.h"

#include "asymkv-math.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace asymkv {

namespace {

// y[r] += x * m[r]
ASYMKV_CLONES
void accumulate_rows(float * y, const float * m, float x, uint32_t n) {
    for (uint32_t r = 0; r < n; ++r) {
        y[r] += x*m[r];
    }
}

ASYMKV_CLONES
void accumulate_rows(double * y, const double * m, double x, uint32_t n) {
    for (uint32_t r = 0; r < n; ++r) {
        y[r] += x*m[r];
    }
}

ASYMKV_CLONES
void exp_shifted(double * p, const double * shift, uint32_t n) {
    for (uint32_t r = 0; r < n; ++r) {
        p[r] = fast_exp(p[r] - shift[r]);
    }
}

} // namespace

observation observe(const asymkv_group & g, observe_wants wants) {
    const uint32_t n  = g.n_slots;
    const uint32_t nh = g.n_heads;
    const uint32_t nq = g.n_queries;
    const uint32_t dk = g.head_k;
    const uint32_t dv = g.head_v;
    const size_t   nr = (size_t) nh*nq;

    observation res;
    res.mass.assign(n, 0.0);

    if (wants.rows) {
        res.prob     .assign(n*nr, 0.0);
        res.value_out.assign(n*nr, 0.0);
    }
    if (wants.rows || wants.fisher) {
        res.out_sq.assign(nr, 0.0);
    }
    if (wants.fisher) {
        res.fisher.assign((size_t) n*nh*dk, 0.0);
    }

    if (nq == 0) {
        return res;
    }

    std::vector<double> log_card(n);
    for (uint32_t i = 0; i < n; ++i) {
        log_card[i] = std::log((double) g.cardinalities[i]);
    }

    std::vector<float>  queries_t((size_t) dk*nq);
    std::vector<float>  scores(nq);
    std::vector<double> prob((size_t) n*nq);
    std::vector<double> row_max(nq);
    std::vector<double> row_sum(nq);
    std::vector<double> out_t;           // o(q), as columns
    std::vector<double> value_out(nq);
    std::vector<double> information(nq);

    for (uint32_t h = 0; h < nh; ++h) {
        // queries as columns, so that the inner loops run over queries
        for (uint32_t r = 0; r < nq; ++r) {
            const float * q = g.queries + ((size_t) h*nq + r)*dk;
            for (uint32_t c = 0; c < dk; ++c) {
                queries_t[(size_t) c*nq + r] = q[c];
            }
        }

        std::fill(row_max.begin(), row_max.end(), -std::numeric_limits<double>::infinity());

        for (uint32_t i = 0; i < n; ++i) {
            const float * k = g.keys + ((size_t) i*nh + h)*dk;

            std::fill(scores.begin(), scores.end(), 0.0f);
            for (uint32_t c = 0; c < dk; ++c) {
                accumulate_rows(scores.data(), queries_t.data() + (size_t) c*nq, k[c], nq);
            }

            double * p = prob.data() + (size_t) i*nq;
            for (uint32_t r = 0; r < nq; ++r) {
                double s = (double) g.scale*scores[r];
                if (g.softcap > 0.0f) {
                    s = g.softcap*std::tanh(s/g.softcap);
                }
                p[r] = g.positions[i] <= g.query_positions[r] ? s + log_card[i] : -std::numeric_limits<double>::infinity();
                row_max[r] = p[r] > row_max[r] ? p[r] : row_max[r];
            }
        }

        // a query that sees nothing gets zeros, not NaN
        for (uint32_t r = 0; r < nq; ++r) {
            if (std::isinf(row_max[r])) {
                row_max[r] = 0.0;
            }
        }

        std::fill(row_sum.begin(), row_sum.end(), 0.0);
        for (uint32_t i = 0; i < n; ++i) {
            double * p = prob.data() + (size_t) i*nq;
            exp_shifted(p, row_max.data(), nq);
            for (uint32_t r = 0; r < nq; ++r) {
                if (g.positions[i] > g.query_positions[r]) {
                    p[r] = 0.0; // exp() of -inf is clamped
                }
                row_sum[r] += p[r];
            }
        }
        for (uint32_t r = 0; r < nq; ++r) {
            row_sum[r] = row_sum[r] > 0.0 ? 1.0/row_sum[r] : 0.0;
        }
        for (uint32_t i = 0; i < n; ++i) {
            double * p = prob.data() + (size_t) i*nq;
            double sum = 0.0;
            for (uint32_t r = 0; r < nq; ++r) {
                p[r] *= row_sum[r];
                sum  += p[r];
            }
            res.mass[i] += sum;
        }

        if (!wants.rows && !wants.fisher) {
            continue;
        }

        out_t.assign((size_t) dv*nq, 0.0);
        for (uint32_t i = 0; i < n; ++i) {
            const double * p = prob.data() + (size_t) i*nq;
            const float  * v = g.values + ((size_t) i*nh + h)*dv;
            for (uint32_t c = 0; c < dv; ++c) {
                accumulate_rows(out_t.data() + (size_t) c*nq, p, (double) v[c], nq);
            }
        }

        double * out_sq = res.out_sq.data() + (size_t) h*nq;
        for (uint32_t c = 0; c < dv; ++c) {
            for (uint32_t r = 0; r < nq; ++r) {
                const double o = out_t[(size_t) c*nq + r];
                out_sq[r] += o*o;
            }
        }

        for (uint32_t i = 0; i < n; ++i) {
            const double * p = prob.data() + (size_t) i*nq;
            const float  * v = g.values + ((size_t) i*nh + h)*dv;

            std::fill(value_out.begin(), value_out.end(), 0.0);
            double v_sq = 0.0;
            for (uint32_t c = 0; c < dv; ++c) {
                accumulate_rows(value_out.data(), out_t.data() + (size_t) c*nq, (double) v[c], nq);
                v_sq += (double) v[c]*v[c];
            }

            if (wants.rows) {
                const size_t row = (size_t) i*nr + (size_t) h*nq;
                std::copy(p, p + nq, res.prob.begin() + row);
                std::copy(value_out.begin(), value_out.end(), res.value_out.begin() + row);
            }
            if (wants.fisher && !g.is_protected[i]) {
                double * f = res.fisher.data() + ((size_t) i*nh + h)*dk;
                for (uint32_t r = 0; r < nq; ++r) {
                    information[r] = (p[r]*p[r]*std::max(0.0, v_sq - 2.0*value_out[r] + out_sq[r]));
                }
                for (uint32_t c = 0; c < dk; ++c) {
                    const float * q = queries_t.data() + (size_t) c*nq;
                    double sum = 0.0;
                    for (uint32_t r = 0; r < nq; ++r) {
                        sum += information[r]*q[r]*q[r];
                    }
                    f[c] = sum;
                }
            }
        }
    }

    return res;
}

} // namespace asymkv
