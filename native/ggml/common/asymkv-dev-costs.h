#pragma once

#include "asymkv-dev-rows.h"

// what an operation costs, query by query, and how two keys are weighed: as native/plan does it on the host, in single
// precision

// an operation that leaves a query less of its attention than this replaces its output by one that nothing tells: the
// exact price is 0/0 there, and |v| + |o| is charged instead
#define AKV_LEAST_LEFT      1e-6f
#define AKV_MIN_DENOMINATOR 1e-12f

// one group while it is planned
struct akv_state {
    AKV_GLOBAL float * seen;
    AKV_GLOBAL float * plan;
    akv_seen_layout s;
    akv_plan_layout l;
    uint32_t nq;
    uint32_t rows;
};

AKV_FUNC akv_state akv_state_of(akv_buffers b, AKV_PARAMS p, uint32_t group) {
    akv_state st;
    st.seen = akv_seen_of(b, p, group);
    st.plan = akv_plan_of(b, p, group);
    st.s    = akv_seen(p);
    st.l    = akv_plan(p);
    st.nq   = akv_n_queries(p);
    st.rows = akv_n_rows(p);
    return st;
}

//
// key weights
//

AKV_FUNC float akv_weight_mean(akv_state st, uint32_t i, uint32_t j) {
    const float ci = st.plan[st.l.card + i], cj = st.plan[st.l.card + j];
    return ci/(ci + cj);
}

AKV_FUNC float akv_weight_mass(akv_state st, uint32_t i, uint32_t j) {
    const float ai = st.plan[st.l.score + i], aj = st.plan[st.l.score + j];
    return ai + aj < AKV_TINY ? akv_weight_mean(st, i, j) : ai/(ai + aj);
}

// KVSlimmer (arXiv 2603.00907): second derivatives of o = sum alpha v with respect to the logits
AKV_FUNC float akv_weight_slimmer(akv_state st, uint32_t i, uint32_t j) {
    const float all = st.plan[st.l.header + 2];
    if (all < AKV_TINY) {
        return akv_weight_mass(st, i, j);
    }
    const float ai = st.plan[st.l.score + i]/all, aj = st.plan[st.l.score + j]/all;
    const float di = st.plan[st.l.far   + i],     dj = st.plan[st.l.far   + j];

    const float hii = ai*(1.0f - 2.0f*ai)*di;
    const float hjj = aj*(1.0f - 2.0f*aj)*dj;
    const float hij = ai*aj*(di + dj);
    const float den = hii + hjj - 2.0f*hij;
    const float w   = akv_abs(den) < AKV_TINY ? -1.0f : (hii - hij)/den;

    return w >= 0.0f && w <= 1.0f ? w : akv_weight_mass(st, i, j);
}

// of the left key
AKV_FUNC float akv_weight(akv_state st, AKV_PARAMS p, uint32_t i, uint32_t j) {
    if (p.key_weights == AKV_KEYS_MEAN) {
        return akv_weight_mean(st, i, j);
    }
    if (p.key_weights == AKV_KEYS_SLIMMER) {
        return akv_weight_slimmer(st, i, j);
    }
    if (p.key_weights == AKV_KEYS_FISHER) {
        const float hi = st.plan[st.l.info + i], hj = st.plan[st.l.info + j];
        return hi + hj < AKV_TINY ? akv_weight_mass(st, i, j) : hi/(hi + hj);
    }
    return akv_weight_mass(st, i, j);
}

//
// pairs
//

struct akv_pair {
    float ci;     // cardinalities
    float cj;
    float card;   // merged
    float share;  // of i
    float weight; // of key i
};

AKV_FUNC akv_pair akv_pair_of(akv_state st, AKV_PARAMS p, uint32_t i, uint32_t j) {
    akv_pair t;
    t.ci     = st.plan[st.l.card + i];
    t.cj     = st.plan[st.l.card + j];
    t.share  = t.ci/(t.ci + t.cj);
    t.weight = akv_weight(st, p, i, j);
    t.card   = t.ci + t.cj;
    if (p.max_cardinality > 0 && t.card > (float) p.max_cardinality) {
        t.card = (float) p.max_cardinality;
    }
    return t;
}

// what query x of the group adds to the cost of merging i with j, whose values are dist_sq apart
AKV_FUNC float akv_merge_term(akv_state st, AKV_PARAMS p, uint32_t i, uint32_t j, uint32_t x, akv_pair t, float dist_sq) {
    const float pi = st.seen[st.s.prob + i*st.rows + x];
    const float pj = st.seen[st.s.prob + j*st.rows + x];

    if (p.score == AKV_SCORE_OUTPUT) {
        return akv_abs(pi*t.cj - pj*t.ci)/(t.ci + t.cj)*akv_sqrt(dist_sq);
    }

    const float f = t.share, g = 1.0f - t.share;

    const float li = st.seen[st.s.log_prob + i*st.rows + x];
    const float lj = st.seen[st.s.log_prob + j*st.rows + x];
    const float ui = st.seen[st.s.dist_sq  + i*st.rows + x];
    const float uj = st.seen[st.s.dist_sq  + j*st.rows + x];
    const float factor = st.plan[st.l.factor + x];

    const float m = t.card*akv_exp(t.weight*li + (1.0f - t.weight)*lj);
    const float s = (m - pi - pj)*factor;
    const float e = (f*pj - g*pi)*factor;

    const float uu = f*ui + g*uj - f*g*dist_sq;                // |f u_i + (1 - f) u_j|^2
    const float uv = 0.5f*(ui - uj) - (0.5f - f)*dist_sq;      // its product with v_i - v_j
    const float d2 = s*s*(uu > 0.0f ? uu : 0.0f) + 2.0f*s*e*uv + e*e*dist_sq;

    const float left = 1.0f + s;
    if (left < AKV_LEAST_LEFT) {
        const uint32_t h  = x/st.nq;
        const float    ni = st.plan[st.l.norm + i*p.n_heads + h];
        const float    nj = st.plan[st.l.norm + j*p.n_heads + h];
        return (ni > nj ? ni : nj) + st.seen[st.s.out_norm + x];
    }
    return akv_sqrt(d2 > 0.0f ? d2 : 0.0f)/left;
}

// " of evicting i
AKV_FUNC float akv_evict_term(akv_state st, AKV_PARAMS p, uint32_t i, uint32_t x) {
    const float prob = st.seen[st.s.prob + i*st.rows + x]*st.plan[st.l.factor + x];
    const float left = 1.0f - prob;
    if (left < AKV_LEAST_LEFT) {
        return st.plan[st.l.norm + i*p.n_heads + x/st.nq] + st.seen[st.s.out_norm + x];
    }
    return prob*akv_sqrt(st.seen[st.s.dist_sq + i*st.rows + x])/left;
}

// what `exact` adds for the queries of earlier compressions, of which only sums are known
AKV_FUNC float akv_past_merge(akv_state st, AKV_PARAMS p, uint32_t i, uint32_t j, akv_pair t) {
    float sum = 0.0f;
    for (uint32_t h = 0; h < p.n_heads && p.score == AKV_SCORE_EXACT; ++h) {
        sum += akv_sqrt(st.plan[st.l.dist + i*p.n_heads + h]);
    }
    return akv_abs(st.plan[st.l.history + i]*(1.0f - t.share) - st.plan[st.l.history + j]*t.share)*sum/(float) p.n_heads;
}

AKV_FUNC float akv_past_evict(akv_state st, AKV_PARAMS p, uint32_t i) {
    float sum = 0.0f;
    for (uint32_t h = 0; h < p.n_heads; ++h) {
        sum += st.plan[st.l.norm + i*p.n_heads + h];
    }
    return st.plan[st.l.history + i]*sum/(float) p.n_heads;
}

// of the paper's score: no query is asked
AKV_FUNC float akv_mass_cost(akv_state st, AKV_PARAMS p, uint32_t i, uint32_t j, akv_pair t) {
    const float cost = (st.plan[st.l.score + i] + st.plan[st.l.score + j])*(t.ci + t.cj);
    return p.decay > 0.0f ? cost*akv_exp(((float) p.first_index - (float) i)/p.decay) : cost;
}

// scores that order the slots once: the least is evicted first
AKV_FUNC float akv_priority(akv_buffers b, akv_state st, AKV_PARAMS p, uint32_t i) {
    if (p.score == AKV_SCORE_H2O) {
        return st.plan[st.l.score + i];
    }
    if (p.score == AKV_SCORE_STREAMING) {
        return (float) i;
    }
    float res = 0.0f;
    if (p.score == AKV_SCORE_SNAPKV) {
        for (uint32_t t = i < 3 ? 0 : i - 3; t <= i + 3 && t < p.n_slots; ++t) {
            const float mass = st.seen[st.s.mass + t];
            res = mass > res ? mass : res;
        }
    } else { // AKV_SCORE_TOVA
        int32_t last = 0;
        for (uint32_t t = 0; t < p.n_observed; ++t) {
            last = b.q_rows[p.n_observed + t] > last ? b.q_rows[p.n_observed + t] : last;
        }
        for (uint32_t x = 0; x < st.rows; ++x) {
            res += b.q_rows[p.n_observed + x % st.nq/p.n_gqa] == last ? st.seen[st.s.prob + i*st.rows + x] : 0.0f;
        }
    }
    return res;
}
