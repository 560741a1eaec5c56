#include "asymkv-observe.h"

#include "asymkv-math.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace asymkv {

namespace {

// y[t][r] = sum over c of x[t*stride_t + c*stride_c] * m[c][r], for t < T and r < n: T rows at once, a block of r in registers
#if defined(__GNUC__)

// 64 bytes, aligned as its elements; the compiler splits it where registers are smaller
template <typename M> struct vec_of;
template <> struct vec_of<float>  { typedef float  type __attribute__((vector_size(64), aligned(4), may_alias)); };
template <> struct vec_of<double> { typedef double type __attribute__((vector_size(64), aligned(8), may_alias)); };

template <uint32_t T, typename M>
ASYMKV_INLINE uint32_t products_blocks(const float * x, size_t stride_t, size_t stride_c, const M * m, uint32_t n_channels, uint32_t n, M * y) {
    typedef typename vec_of<M>::type vec;

    constexpr uint32_t n_lanes = sizeof(vec)/sizeof(M);
    constexpr uint32_t n_vecs  = 2;

    uint32_t r0 = 0;
    for (; r0 + n_vecs*n_lanes <= n; r0 += n_vecs*n_lanes) {
        vec sums[T][n_vecs] = {};
        for (uint32_t c = 0; c < n_channels; ++c) {
            const M * row = m + (size_t) c*n + r0;
#pragma GCC unroll 8
            for (uint32_t u = 0; u < n_vecs; ++u) {
                const vec row_u = *(const vec *) (row + u*n_lanes);
#pragma GCC unroll 8
                for (uint32_t t = 0; t < T; ++t) {
                    sums[t][u] += (M) x[t*stride_t + c*stride_c]*row_u;
                }
            }
        }
#pragma GCC unroll 8
        for (uint32_t t = 0; t < T; ++t) {
#pragma GCC unroll 8
            for (uint32_t u = 0; u < n_vecs; ++u) {
                *(vec *) (y + (size_t) t*n + r0 + u*n_lanes) = sums[t][u];
            }
        }
    }
    return r0;
}

#else

template <uint32_t T, typename M>
inline uint32_t products_blocks(const float *, size_t, size_t, const M *, uint32_t, uint32_t, M *) {
    return 0;
}

#endif

template <uint32_t T, typename M>
ASYMKV_INLINE void products_rows(const float * x, size_t stride_t, size_t stride_c, const M * m, uint32_t n_channels, uint32_t n, M * y) {
    for (uint32_t r = products_blocks<T>(x, stride_t, stride_c, m, n_channels, n, y); r < n; ++r) {
        for (uint32_t t = 0; t < T; ++t) {
            M sum = 0;
            for (uint32_t c = 0; c < n_channels; ++c) {
                sum += (M) x[t*stride_t + c*stride_c]*m[(size_t) c*n + r];
            }
            y[(size_t) t*n + r] = sum;
        }
    }
}

constexpr uint32_t ROWS_AT_ONCE = 4;

template <typename M>
ASYMKV_INLINE void products_any(const float * x, size_t stride_t, size_t stride_c, const M * m, uint32_t n_rows, uint32_t n_channels, uint32_t n, M * y) {
    if (n_rows == ROWS_AT_ONCE) {
        products_rows<ROWS_AT_ONCE>(x, stride_t, stride_c, m, n_channels, n, y);
        return;
    }
    for (uint32_t t = 0; t < n_rows; ++t) {
        products_rows<1>(x + t*stride_t, stride_t, stride_c, m, n_channels, n, y + (size_t) t*n);
    }
}

ASYMKV_CLONES
void products(const float * x, size_t stride_t, size_t stride_c, const float * m, uint32_t n_rows, uint32_t n_channels, uint32_t n, float * y) {
    products_any(x, stride_t, stride_c, m, n_rows, n_channels, n, y);
}

ASYMKV_CLONES
void products(const float * x, size_t stride_t, size_t stride_c, const double * m, uint32_t n_rows, uint32_t n_channels, uint32_t n, double * y) {
    products_any(x, stride_t, stride_c, m, n_rows, n_channels, n, y);
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

    // nothing is known: every slot counts alike
    if (nq == 0) {
        std::fill(res.mass.begin(), res.mass.end(), 1.0/n);
        return res;
    }

    std::vector<double> log_card(n);
    for (uint32_t i = 0; i < n; ++i) {
        log_card[i] = std::log((double) g.cardinalities[i]);
    }

    std::vector<float>  queries_t((size_t) dk*nq);
    std::vector<float>  scores((size_t) ROWS_AT_ONCE*nq);
    std::vector<double> prob((size_t) n*nq);
    std::vector<double> row_max(nq);
    std::vector<double> row_sum(nq);
    std::vector<double> out_t;           // o(q), as columns
    std::vector<double> value_out((size_t) ROWS_AT_ONCE*nq);
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

        for (uint32_t i0 = 0; i0 < n; i0 += ROWS_AT_ONCE) {
            const uint32_t n_rows = std::min(ROWS_AT_ONCE, n - i0);

            products(g.keys + ((size_t) i0*nh + h)*dk, (size_t) nh*dk, 1, queries_t.data(), n_rows, dk, nq, scores.data());

            for (uint32_t t = 0; t < n_rows; ++t) {
                const uint32_t i = i0 + t;
                double * p = prob.data() + (size_t) i*nq;
                for (uint32_t r = 0; r < nq; ++r) {
                    double s = (double) g.scale*scores[(size_t) t*nq + r];
                    if (g.softcap > 0.0f) {
                        s = g.softcap*std::tanh(s/g.softcap);
                    }
                    p[r] = g.positions[i] <= g.query_positions[r] ? s + log_card[i] : -std::numeric_limits<double>::infinity();
                    row_max[r] = p[r] > row_max[r] ? p[r] : row_max[r];
                }
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

        // o(q) as columns: channels are the rows of the product, slots its channels
        out_t.resize((size_t) dv*nq);
        for (uint32_t c = 0; c < dv; c += ROWS_AT_ONCE) {
            products(g.values + (size_t) h*dv + c, 1, (size_t) nh*dv, prob.data(), std::min(ROWS_AT_ONCE, dv - c), n, nq, out_t.data() + (size_t) c*nq);
        }

        double * out_sq = res.out_sq.data() + (size_t) h*nq;
        for (uint32_t c = 0; c < dv; ++c) {
            for (uint32_t r = 0; r < nq; ++r) {
                const double o = out_t[(size_t) c*nq + r];
                out_sq[r] += o*o;
            }
        }

        for (uint32_t i0 = 0; i0 < n; i0 += ROWS_AT_ONCE) {
            const uint32_t n_rows = std::min(ROWS_AT_ONCE, n - i0);

            products(g.values + ((size_t) i0*nh + h)*dv, (size_t) nh*dv, 1, out_t.data(), n_rows, dv, nq, value_out.data());

            for (uint32_t t = 0; t < n_rows; ++t) {
                const uint32_t i  = i0 + t;
                const double * p  = prob.data() + (size_t) i*nq;
                const double * vo = value_out.data() + (size_t) t*nq;

                if (wants.rows) {
                    const size_t row = (size_t) i*nr + (size_t) h*nq;
                    std::copy(p,  p  + nq, res.prob     .begin() + row);
                    std::copy(vo, vo + nq, res.value_out.begin() + row);
                }
                if (wants.fisher && !g.is_protected[i]) {
                    const float * v    = g.values + ((size_t) i*nh + h)*dv;
                    const double  v_sq = dot(v, v, dv);

                    for (uint32_t r = 0; r < nq; ++r) {
                        information[r] = p[r]*p[r]*std::max(0.0, v_sq - 2.0*vo[r] + out_sq[r]);
                    }
                    double * f = res.fisher.data() + ((size_t) i*nh + h)*dk;
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
    }

    return res;
}

} // namespace asymkv
