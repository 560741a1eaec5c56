#pragma once

#include "asymkv-kernels.h"

#include <cmath>
#include <cstring>

// the bodies of the kernels, see asymkv-kernels.h: always inlined, so that they are compiled for the instruction set of
// the function that they are inlined into. loops run over independent queries, which compilers vectorize without relaxed
// floating-point rules; sums over queries are made in lanes, an order that does not depend on the CPU

#if defined(__GNUC__)
#    define ASYMKV_INLINE static inline __attribute__((always_inline))
#else
#    define ASYMKV_INLINE static inline
#endif

namespace asymkv {
namespace body {

constexpr uint32_t N_LANES = 16;
constexpr uint32_t N_BLOCK = 64; // queries whose costs are held before they are summed

// a probability can reach 1, and a slot cannot give away all of a row
constexpr float MIN_DENOMINATOR = 1e-12f;

ASYMKV_INLINE float sqrt(float x) {
#if defined(__GNUC__)
    return __builtin_sqrtf(x);
#else
    return std::sqrt(x);
#endif
}

// e^x to about 1 ulp for x in [-87, 88]; 0 below
ASYMKV_INLINE float exp(float x) {
    const float y = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);

    // y = k ln 2 + r, |r| <= ln 2 / 2; adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits
    const float magic  = 12582912.0f;
    const float k_bits = y*1.44269504088896341f + magic;
    const float k      = k_bits - magic;
    const float r      = (y - k*0.693359375f) + k*2.12194440e-4f;

    float p = 1.0f/5040.0f;
    p = p*r + 1.0f/720.0f;
    p = p*r + 1.0f/120.0f;
    p = p*r + 1.0f/24.0f;
    p = p*r + 1.0f/6.0f;
    p = p*r + 0.5f;
    p = p*r + 1.0f;
    p = p*r + 1.0f;

    int32_t k_int;
    std::memcpy(&k_int, &k_bits, sizeof(k_int));

    const int32_t scale_bits = (int32_t) (((uint32_t) k_int + 127u) << 23);

    float scale;
    std::memcpy(&scale, &scale_bits, sizeof(scale));

    const float e = p*scale;
    return x < -87.0f ? 0.0f : e;
}

ASYMKV_INLINE double sum_of_lanes(const float * lanes) {
    double sum = 0.0;
    for (uint32_t t = 0; t < N_LANES; ++t) {
        sum += lanes[t];
    }
    return sum;
}

// adds n <= N_BLOCK terms, each to its lane
ASYMKV_INLINE void add_to_lanes(const float * terms, uint32_t n, float * lanes) {
    uint32_t x = 0;
    for (; x + N_LANES <= n; x += N_LANES) {
        for (uint32_t t = 0; t < N_LANES; ++t) {
            lanes[t] += terms[x + t];
        }
    }
    for (uint32_t t = 0; x + t < n; ++t) {
        lanes[t] += terms[x + t];
    }
}

//
// products
//

struct multiply_add {
    template <typename V> ASYMKV_INLINE V apply(V sum, float x, V m) { return sum + x*m; }
};

struct square_distance {
    template <typename V> ASYMKV_INLINE V apply(V sum, float x, V m) { const V d = x - m; return sum + d*d; }
};

// T rows at once, a block of 16 queries in registers
template <typename OP, uint32_t T>
ASYMKV_INLINE void rows_at_once(const float * x, size_t x_row, size_t x_col, const float * m, size_t m_row, float * y, size_t y_row, uint32_t n_mid, uint32_t n, bool add) {
    uint32_t r = 0;

#if defined(__GNUC__)
    // aligned as its elements; the compiler splits it where registers are smaller
    typedef float vec __attribute__((vector_size(64), aligned(4), may_alias));

    for (; r + N_LANES <= n; r += N_LANES) {
        vec sums[T];
#pragma GCC unroll 8
        for (uint32_t t = 0; t < T; ++t) {
            sums[t] = add ? *(const vec *) (y + t*y_row + r) : vec {};
        }
        for (uint32_t c = 0; c < n_mid; ++c) {
            const vec mr = *(const vec *) (m + c*m_row + r);
#pragma GCC unroll 8
            for (uint32_t t = 0; t < T; ++t) {
                sums[t] = OP::template apply<vec>(sums[t], x[t*x_row + c*x_col], mr);
            }
        }
#pragma GCC unroll 8
        for (uint32_t t = 0; t < T; ++t) {
            *(vec *) (y + t*y_row + r) = sums[t];
        }
    }
#endif

    for (; r < n; ++r) {
        for (uint32_t t = 0; t < T; ++t) {
            float sum = add ? y[t*y_row + r] : 0.0f;
            for (uint32_t c = 0; c < n_mid; ++c) {
                sum = OP::template apply<float>(sum, x[t*x_row + c*x_col], m[c*m_row + r]);
            }
            y[t*y_row + r] = sum;
        }
    }
}

template <typename OP, uint32_t T>
ASYMKV_INLINE void all_rows(const float * x, size_t x_row, size_t x_col, const float * m, size_t m_row, float * y, size_t y_row, uint32_t n_rows, uint32_t n_mid, uint32_t n, bool add) {
    uint32_t t = 0;
    for (; t + T <= n_rows; t += T) {
        rows_at_once<OP, T>(x + t*x_row, x_row, x_col, m, m_row, y + t*y_row, y_row, n_mid, n, add);
    }
    for (; t < n_rows; ++t) {
        rows_at_once<OP, 1>(x + t*x_row, x_row, x_col, m, m_row, y + t*y_row, y_row, n_mid, n, add);
    }
}

template <uint32_t T>
ASYMKV_INLINE void products(const float * x, size_t x_row, size_t x_col, const float * m, size_t m_row, float * y, size_t y_row, uint32_t n_rows, uint32_t n_mid, uint32_t n, bool add) {
    all_rows<multiply_add, T>(x, x_row, x_col, m, m_row, y, y_row, n_rows, n_mid, n, add);
}

template <uint32_t T>
ASYMKV_INLINE void distances(const float * x, size_t x_row, const float * m, size_t m_row, float * y, size_t y_row, uint32_t n_rows, uint32_t n_mid, uint32_t n) {
    all_rows<square_distance, T>(x, x_row, 1, m, m_row, y, y_row, n_rows, n_mid, n, false);
}

//
// softmax
//

ASYMKV_INLINE void softmax_top(float * __restrict s, float scale, float log_card, float * __restrict top, uint32_t n) {
    for (uint32_t r = 0; r < n; ++r) {
        const float l = scale*s[r];
        s[r]   = l;
        top[r] = l + log_card > top[r] ? l + log_card : top[r];
    }
}

ASYMKV_INLINE void softmax_exp(const float * __restrict s, float log_card, const float * __restrict top, float * __restrict p, float * __restrict sum, uint32_t n) {
    for (uint32_t r = 0; r < n; ++r) {
        const float e = exp(s[r] + log_card - top[r]);
        p  [r]  = e;
        sum[r] += e;
    }
}

ASYMKV_INLINE double softmax_end(float * s, float * p, const float * factor, const float * shift, uint32_t n) {
    float lanes[N_LANES] = {};
    for (uint32_t x = 0; x < n; x += N_BLOCK) {
        const uint32_t nb = n - x < N_BLOCK ? n - x : N_BLOCK;
        float logit[N_BLOCK];
        float prob [N_BLOCK];
        for (uint32_t r = 0; r < nb; ++r) {
            const float l = s[x + r] - shift[x + r];
            logit[r] = l < LOG_ZERO ? LOG_ZERO : l;
            prob [r] = p[x + r]*factor[x + r];
        }
        std::memcpy(s + x, logit, nb*sizeof(float));
        std::memcpy(p + x, prob,  nb*sizeof(float));
        add_to_lanes(prob, nb, lanes);
    }
    return sum_of_lanes(lanes);
}

//
// costs
//

ASYMKV_INLINE double information(const float * __restrict p, const float * __restrict d, const float * __restrict m, float * __restrict y, uint32_t n) {
    float lanes[N_LANES] = {};
    for (uint32_t x = 0; x < n; x += N_BLOCK) {
        const uint32_t nb = n - x < N_BLOCK ? n - x : N_BLOCK;
        float terms[N_BLOCK];
        for (uint32_t r = 0; r < nb; ++r) {
            y[x + r] = p[x + r]*p[x + r]*d[x + r];
            terms[r] = y[x + r]*m[x + r];
        }
        add_to_lanes(terms, nb, lanes);
    }
    return sum_of_lanes(lanes);
}

ASYMKV_INLINE float distance_sq(const float * __restrict x, const float * __restrict y, uint32_t n) {
    float lanes[N_LANES] = {};
    uint32_t c = 0;
    for (; c + N_LANES <= n; c += N_LANES) {
        for (uint32_t t = 0; t < N_LANES; ++t) {
            const float d = x[c + t] - y[c + t];
            lanes[t] += d*d;
        }
    }
    for (uint32_t t = 0; c + t < n; ++t) {
        const float d = x[c + t] - y[c + t];
        lanes[t] += d*d;
    }
    return (float) sum_of_lanes(lanes);
}

ASYMKV_INLINE double unevenness(const float * __restrict pi, const float * __restrict pj, float ci, float cj, uint32_t n) {
    float lanes[N_LANES] = {};
    for (uint32_t x = 0; x < n; x += N_BLOCK) {
        const uint32_t nb = n - x < N_BLOCK ? n - x : N_BLOCK;
        float terms[N_BLOCK];
        for (uint32_t r = 0; r < nb; ++r) {
            terms[r] = std::fabs(pi[x + r]*cj - pj[x + r]*ci);
        }
        add_to_lanes(terms, nb, lanes);
    }
    return sum_of_lanes(lanes);
}

// with s = m - p_i - p_j, the change of the pair's probability, and e = f p_j - (1 - f) p_i, its unevenness, the output
// changes by [s (f u_i + (1 - f) u_j) + e (v_i - v_j)]/(1 + s), u = v - o: only lengths are needed, and none of the terms
// is a difference of large numbers
ASYMKV_INLINE double merge_change(const slot_rows & i, const slot_rows & j, const query_rows & q, const pair_terms & t, uint32_t n) {
    const float f = t.share, g = 1.0f - t.share, w = t.weight, v = 1.0f - t.weight;
    const float c = t.card, d = t.dist_sq, fgd = f*g*t.dist_sq, hd = (0.5f - f)*t.dist_sq, norm = t.norm;

    float lanes[N_LANES] = {};
    for (uint32_t x = 0; x < n; x += N_BLOCK) {
        const uint32_t nb = n - x < N_BLOCK ? n - x : N_BLOCK;

        const float * __restrict pi = i.prob     + x;
        const float * __restrict pj = j.prob     + x;
        const float * __restrict li = i.log_prob + x;
        const float * __restrict lj = j.log_prob + x;
        const float * __restrict ui = i.dist_sq  + x;
        const float * __restrict uj = j.dist_sq  + x;
        const float * __restrict factor   = q.factor   + x;
        const float * __restrict out_norm = q.out_norm + x;

        float terms[N_BLOCK];
        for (uint32_t r = 0; r < nb; ++r) {
            const float m = c*exp(w*li[r] + v*lj[r]);
            const float s = (m - pi[r] - pj[r])*factor[r];
            const float e = (f*pj[r] - g*pi[r])*factor[r];

            const float uu = f*ui[r] + g*uj[r] - fgd;     // |f u_i + (1 - f) u_j|^2
            const float uv = 0.5f*(ui[r] - uj[r]) - hd;   // its product with v_i - v_j
            const float d2 = s*s*(uu > 0.0f ? uu : 0.0f) + 2.0f*s*e*uv + e*e*d;

            const float left = 1.0f + s;
            const float cost = body::sqrt(d2 > 0.0f ? d2 : 0.0f)/left;
            terms[r] = left < LEAST_LEFT ? norm + out_norm[r] : cost;
        }
        add_to_lanes(terms, nb, lanes);
    }
    return sum_of_lanes(lanes);
}

ASYMKV_INLINE double evict_change(const slot_rows & i, const query_rows & q, float norm, uint32_t n) {
    float lanes[N_LANES] = {};
    for (uint32_t x = 0; x < n; x += N_BLOCK) {
        const uint32_t nb = n - x < N_BLOCK ? n - x : N_BLOCK;

        const float * __restrict pi = i.prob    + x;
        const float * __restrict ui = i.dist_sq + x;
        const float * __restrict factor   = q.factor   + x;
        const float * __restrict out_norm = q.out_norm + x;

        float terms[N_BLOCK];
        for (uint32_t r = 0; r < nb; ++r) {
            const float p    = pi[r]*factor[r];
            const float left = 1.0f - p;
            const float cost = p*body::sqrt(ui[r])/left;
            terms[r] = left < LEAST_LEFT ? norm + out_norm[r] : cost;
        }
        add_to_lanes(terms, nb, lanes);
    }
    return sum_of_lanes(lanes);
}

// rows are renormalised lazily: only the factor changes

ASYMKV_INLINE void merge_apply(const slot_rows & i, const slot_rows & j, const query_rows & q, const pair_terms & t, uint32_t n) {
    const float f = t.share, g = 1.0f - t.share, w = t.weight, v = 1.0f - t.weight;
    const float c = t.card, fgd = f*g*t.dist_sq;

    for (uint32_t x = 0; x < n; x += N_BLOCK) {
        const uint32_t nb = n - x < N_BLOCK ? n - x : N_BLOCK;

        const float * pi = i.prob     + x;
        const float * pj = j.prob     + x;
        const float * li = i.log_prob + x;
        const float * lj = j.log_prob + x;
        const float * ui = i.dist_sq  + x;
        const float * uj = j.dist_sq  + x;
        const float * factor = q.factor + x;

        float prob[N_BLOCK], log_prob[N_BLOCK], dist_sq[N_BLOCK], after[N_BLOCK];
        for (uint32_t r = 0; r < nb; ++r) {
            const float l   = w*li[r] + v*lj[r];
            const float m   = c*exp(l);
            const float den = 1.0f + (m - pi[r] - pj[r])*factor[r];
            const float uu  = f*ui[r] + g*uj[r] - fgd;

            prob    [r] = m;
            log_prob[r] = l;
            dist_sq [r] = uu > 0.0f ? uu : 0.0f;
            after   [r] = factor[r]/(den > MIN_DENOMINATOR ? den : MIN_DENOMINATOR);
        }
        std::memcpy(i.prob     + x, prob,     nb*sizeof(float));
        std::memcpy(i.log_prob + x, log_prob, nb*sizeof(float));
        std::memcpy(i.dist_sq  + x, dist_sq,  nb*sizeof(float));
        std::memcpy(q.factor   + x, after,    nb*sizeof(float));
    }
}

ASYMKV_INLINE void evict_apply(const slot_rows & i, const query_rows & q, uint32_t n) {
    const float * __restrict pi = i.prob;
    float * __restrict factor = q.factor;

    for (uint32_t r = 0; r < n; ++r) {
        const float den = 1.0f - pi[r]*factor[r];
        factor[r] /= den > MIN_DENOMINATOR ? den : MIN_DENOMINATOR;
    }
}

//
// rows of the cache
//

// in double: positions are large, and so are angles
ASYMKV_INLINE void cos_sin(double delta, const float * __restrict freqs, float * __restrict cos, float * __restrict sin, uint32_t n) {
    for (uint32_t t = 0; t < n; ++t) {
        const double x = delta*freqs[t];

        // x = k pi/2 + r, |r| <= pi/4; adding 1.5 * 2^52 rounds to the nearest integer and leaves it in the low bits
        const double magic  = 6755399441055744.0;
        const double k_bits = x*0.63661977236758134308 + magic;
        const double k      = k_bits - magic;
        const double r      = (x - k*1.57079632679489655800) - k*6.12323399573676603587e-17;
        const double z      = r*r;

        double s = 1.0/362880.0;
        s = s*z - 1.0/5040.0;
        s = s*z + 1.0/120.0;
        s = s*z - 1.0/6.0;
        s = s*z*r + r;

        double c = -1.0/3628800.0;
        c = c*z + 1.0/40320.0;
        c = c*z - 1.0/720.0;
        c = c*z + 1.0/24.0;
        c = c*z - 0.5;
        c = c*z + 1.0;

        int64_t quadrant;
        std::memcpy(&quadrant, &k_bits, sizeof(quadrant));

        const bool swap = (quadrant & 1) != 0;
        const double a = swap ? s : c;
        const double b = swap ? c : s;
        cos[t] = (float) (((quadrant + 1) & 2) != 0 ? -a : a);
        sin[t] = (float) (( quadrant      & 2) != 0 ? -b : b);
    }
}

// IEEE half precision, exactly; infinities and NaNs stay what they are
ASYMKV_INLINE void half_to_float(const uint16_t * __restrict x, float * __restrict y, size_t n) {
    for (size_t t = 0; t < n; ++t) {
        const uint32_t h    = x[t];
        const uint32_t bits = (h & 0x7fffu) << 13;

        float magnitude;
        std::memcpy(&magnitude, &bits, sizeof(magnitude));
        magnitude *= 0x1.0p+112f; // the exponents' biases differ by 112; makes subnormal numbers right, too

        uint32_t out;
        std::memcpy(&out, &magnitude, sizeof(out));
        out |= (h & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
        out |= (h & 0x8000u) << 16;
        std::memcpy(&y[t], &out, sizeof(out));
    }
}

} // namespace body
} // namespace asymkv
