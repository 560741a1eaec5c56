#pragma once

#include "asymkv-dev-costs.h"

// PLAN: true greedy. One block plans one group: of all operations the cheapest first, at equal cost a merge before an
// eviction, then the lower slot; what it touched is priced again. Every thread keeps the cheapest of its own run of slots,
// so that a step looks at few costs

AKV_FUNC void akv_plan_totals(akv_buffers b, AKV_PARAMS p, AKV_LOCAL float * local, akv_place at) {
    const akv_state st    = akv_state_of(b, p, at.group);
    const akv_slots slots = akv_slots_of(b, p, at.group);

    akv_four sums = { { 0.0f, 0.0f, 0.0f, 0.0f } };
    for (uint32_t i = at.thread; i < p.n_slots; i += at.n_threads) {
        const float score = slots.score[i] + st.seen[st.s.mass + i];
        st.plan[st.l.score + i] = score;
        sums.x[0] += score;
    }
    sums = akv_sums(sums, 1, local, at);
    const float all = sums.x[0];

    if (at.thread == 0) {
        for (uint32_t x = 0; x < AKV_PLAN_HEADER; ++x) {
            st.plan[st.l.header + x] = x == 2 ? all : 0.0f;
        }
    }
    for (uint32_t c = at.thread; c < p.n_heads*p.head_v; c += at.n_threads) {
        float mean = 0.0f;
        for (uint32_t i0 = 0; akv_wants_mean(p) && all >= AKV_TINY && i0 < p.n_slots; i0 += AKV_TILE) { // short sums first
            float part = 0.0f;
            for (uint32_t i = i0; i < i0 + AKV_TILE && i < p.n_slots; ++i) {
                part += st.plan[st.l.score + i]/all*st.seen[st.s.values + i*p.n_heads*p.head_v + c];
            }
            mean += part;
        }
        st.plan[st.l.mean + c] = mean;
    }
}

AKV_FUNC float akv_distance_sq(AKV_GLOBAL const float * x, AKV_GLOBAL const float * y, uint32_t n) {
    float sum = 0.0f;
    for (uint32_t c = 0; c < n; ++c) {
        const float d = x[c] - y[c];
        sum += d*d;
    }
    return sum;
}

// what is known of every slot before the first step
AKV_FUNC void akv_plan_slots(akv_buffers b, AKV_PARAMS p, AKV_LOCAL float * /*local*/, akv_place at) {
    const akv_state st    = akv_state_of(b, p, at.group);
    const akv_slots slots = akv_slots_of(b, p, at.group);

    const uint32_t end = (at.tile + 1)*AKV_TILE < p.n_slots ? (at.tile + 1)*AKV_TILE : p.n_slots;

    for (uint32_t i = at.tile*AKV_TILE + at.thread; i < end; i += at.n_threads) {
        st.plan[st.l.pos         + i] = slots.pos[i];
        st.plan[st.l.pos_rest    + i] = slots.pos_rest[i];
        st.plan[st.l.card        + i] = slots.card[i];
        st.plan[st.l.history     + i] = slots.history[i];
        st.plan[st.l.prev        + i] = (float) i - 1.0f;
        st.plan[st.l.next        + i] = i + 1 < p.n_slots ? (float) (i + 1) : -1.0f;
        st.plan[st.l.live        + i] = 1.0f;
        st.plan[st.l.member_next + i] = -1.0f;
        st.plan[st.l.member_last + i] = (float) i;
        st.plan[st.l.weight_k    + i] = 1.0f;
        st.plan[st.l.weight_v    + i] = 1.0f;

        float far = 0.0f;
        for (uint32_t h = 0; h < p.n_heads; ++h) {
            AKV_GLOBAL const float * value = st.seen + st.s.values + (i*p.n_heads + h)*p.head_v;
            float sum = 0.0f;
            for (uint32_t c = 0; akv_wants_values(p) && c < p.head_v; ++c) {
                sum += value[c]*value[c];
                far += akv_wants_mean(p) ? akv_abs(value[c] - st.plan[st.l.mean + h*p.head_v + c]) : 0.0f;
            }
            st.plan[st.l.norm + i*p.n_heads + h] = akv_sqrt(sum);
            st.plan[st.l.dist + i*p.n_heads + h] = akv_wants_values(p) && i + 1 < p.n_slots ? akv_distance_sq(value, value + p.n_heads*p.head_v, p.head_v) : 0.0f;
        }
        st.plan[st.l.far + i] = far;

        float info = 0.0f;
        for (uint32_t c = 0; akv_wants_fisher(p) && c < p.n_heads*p.head_k; ++c) {
            info += st.seen[st.s.fisher + i*p.n_heads*p.head_k + c];
        }
        st.plan[st.l.info + i] = info;
    }
    for (uint32_t x = at.thread; at.tile == 0 && x < st.rows; x += at.n_threads) {
        st.plan[st.l.factor + x] = 1.0f;
    }
}

// costs before the first step
AKV_FUNC void akv_plan_costs(akv_buffers b, AKV_PARAMS p, AKV_LOCAL float * /*local*/, akv_place at) {
    const akv_state st    = akv_state_of(b, p, at.group);
    const akv_slots slots = akv_slots_of(b, p, at.group);

    const uint32_t end = (at.tile + 1)*AKV_TILE < p.n_slots ? (at.tile + 1)*AKV_TILE : p.n_slots;

    for (uint32_t i = at.tile*AKV_TILE + at.thread; i < end; i += at.n_threads) {
        float merge = AKV_HUGE;
        float evict = AKV_HUGE;

        if (p.merges && i + 1 < p.n_slots && slots.hold[i] != AKV_PROTECTED && slots.hold[i + 1] != AKV_PROTECTED) {
            const akv_pair t = akv_pair_of(st, p, i, i + 1);
            merge = p.score == AKV_SCORE_MASS ? akv_mass_cost(st, p, i, i + 1, t) : akv_past_merge(st, p, i, i + 1, t);
            for (uint32_t x = 0; p.score != AKV_SCORE_MASS && x < st.rows; ++x) {
                merge += akv_merge_term(st, p, i, i + 1, x, t, st.plan[st.l.dist + i*p.n_heads + x/st.nq]);
            }
        }
        if (p.evicts && slots.hold[i] == AKV_EXPIRED) {
            evict = -1.0f; // before all others
        } else if (p.evicts && slots.hold[i] == AKV_FREE) {
            evict = p.score == AKV_SCORE_EXACT ? akv_past_evict(st, p, i) : akv_priority(b, st, p, i);
            for (uint32_t x = 0; p.score == AKV_SCORE_EXACT && x < st.rows; ++x) {
                evict += akv_evict_term(st, p, i, x);
            }
        }
        st.plan[st.l.cost_merge + i] = merge;
        st.plan[st.l.cost_evict + i] = evict;
    }
}

// an operation: merges are numbered by slot, and evictions behind them
struct akv_best {
    float cost;
    float code;
};

AKV_FUNC akv_best akv_better(akv_best x, akv_best y) {
    return y.cost < x.cost || (y.cost == x.cost && y.code < x.code) ? y : x;
}

// of a run of slots
AKV_FUNC akv_best akv_best_of(akv_state st, AKV_PARAMS p, uint32_t first, uint32_t end) {
    akv_best res = { AKV_HUGE, 0.0f };
    for (uint32_t i = first; i < end; ++i) {
        const akv_best merge = { st.plan[st.l.cost_merge + i], (float) i };
        const akv_best evict = { st.plan[st.l.cost_evict + i], (float) (p.n_slots + i) };
        res = akv_better(akv_better(res, merge), evict);
    }
    return res;
}

// of the block. every thread gets it
AKV_FUNC akv_best akv_best_of_all(akv_best mine, AKV_LOCAL float * local, akv_place at) {
    AKV_LOCAL float * costs  = local;
    AKV_LOCAL float * codes  = local + at.n_threads;
    AKV_LOCAL float * part_c = local + 2*at.n_threads;
    AKV_LOCAL float * part_o = part_c + AKV_PARTS;

    costs[at.thread] = mine.cost;
    codes[at.thread] = mine.code;
    AKV_BARRIER();
    for (uint32_t x = at.thread; x < AKV_PARTS; x += at.n_threads) {
        akv_best res = { AKV_HUGE, 0.0f };
        for (uint32_t t = x; t < at.n_threads; t += AKV_PARTS) {
            const akv_best other = { costs[t], codes[t] };
            res = akv_better(res, other);
        }
        part_c[x] = res.cost;
        part_o[x] = res.code;
    }
    AKV_BARRIER();
    akv_best res = { AKV_HUGE, 0.0f };
    for (uint32_t x = 0; x < AKV_PARTS; ++x) {
        const akv_best other = { part_c[x], part_o[x] };
        res = akv_better(res, other);
    }
    AKV_BARRIER();
    return res;
}

// probabilities and values after a merge; i is the merged slot. rows are renormalised lazily: only their factor changes
AKV_FUNC void akv_merge_seen(akv_state st, AKV_PARAMS p, uint32_t i, uint32_t j, akv_pair t, akv_place at) {
    const float f = t.share, g = 1.0f - t.share;

    for (uint32_t x = at.thread; x < st.rows && p.score == AKV_SCORE_OUTPUT; x += at.n_threads) {
        st.seen[st.s.prob + i*st.rows + x] += st.seen[st.s.prob + j*st.rows + x];
    }
    for (uint32_t x = at.thread; x < st.rows && p.score == AKV_SCORE_EXACT; x += at.n_threads) {
        const uint32_t xi = i*st.rows + x;
        const uint32_t xj = j*st.rows + x;

        const float l   = t.weight*st.seen[st.s.log_prob + xi] + (1.0f - t.weight)*st.seen[st.s.log_prob + xj];
        const float m   = t.card*akv_exp(l);
        const float den = 1.0f + (m - st.seen[st.s.prob + xi] - st.seen[st.s.prob + xj])*st.plan[st.l.factor + x];
        const float uu  = f*st.seen[st.s.dist_sq + xi] + g*st.seen[st.s.dist_sq + xj] - f*g*st.plan[st.l.dist + i*p.n_heads + x/st.nq];

        st.seen[st.s.prob     + xi] = m;
        st.seen[st.s.log_prob + xi] = l;
        st.seen[st.s.dist_sq  + xi] = uu > 0.0f ? uu : 0.0f;
        st.plan[st.l.factor   + x] /= den > AKV_MIN_DENOMINATOR ? den : AKV_MIN_DENOMINATOR;
    }
    for (uint32_t c = at.thread; c < p.n_heads*p.head_v && akv_wants_values(p); c += at.n_threads) {
        AKV_GLOBAL float * vi = st.seen + st.s.values + i*p.n_heads*p.head_v + c;
        *vi = f**vi + g*st.seen[st.s.values + j*p.n_heads*p.head_v + c];
    }
}

AKV_FUNC void akv_evict_seen(akv_state st, AKV_PARAMS p, uint32_t i, akv_place at) {
    for (uint32_t x = at.thread; x < st.rows && p.score == AKV_SCORE_EXACT; x += at.n_threads) {
        const float den = 1.0f - st.seen[st.s.prob + i*st.rows + x]*st.plan[st.l.factor + x];
        st.plan[st.l.factor + x] /= den > AKV_MIN_DENOMINATOR ? den : AKV_MIN_DENOMINATOR;
    }
}

// what a slot is after it took in another one: by one thread
AKV_FUNC void akv_merge_slots(akv_state st, uint32_t i, uint32_t j, akv_pair t) {
    AKV_GLOBAL float * plan = st.plan;

    // between the two, by cardinality: the whole part stays whole, since single precision is too coarse for late positions
    const float apart = plan[st.l.pos + j] - plan[st.l.pos + i] + (plan[st.l.pos_rest + j] - plan[st.l.pos_rest + i]);
    const float moved = plan[st.l.pos_rest + i] + (1.0f - t.share)*apart;
    const float whole = akv_floor(moved);
    plan[st.l.pos      + i] += whole;
    plan[st.l.pos_rest + i]  = moved - whole;

    plan[st.l.card  + i]  = t.card;
    plan[st.l.score   + i] += plan[st.l.score   + j];
    plan[st.l.history + i] += plan[st.l.history + j];
    plan[st.l.info    + i] += plan[st.l.info    + j];

    plan[st.l.member_next + (uint32_t) plan[st.l.member_last + i]] = (float) j;
    plan[st.l.member_last + i] = plan[st.l.member_last + j];
}

AKV_FUNC void akv_unlink(akv_state st, uint32_t i) {
    const float prev = st.plan[st.l.prev + i];
    const float next = st.plan[st.l.next + i];

    st.plan[st.l.live       + i] = 0.0f;
    st.plan[st.l.cost_merge + i] = AKV_HUGE;
    st.plan[st.l.cost_evict + i] = AKV_HUGE;
    if (prev >= 0.0f) {
        st.plan[st.l.next + (uint32_t) prev] = next;
    }
    if (next >= 0.0f) {
        st.plan[st.l.prev + (uint32_t) next] = prev;
    }
}

// prices what a step has touched: merging `left` and merging `i` with their right neighbours, and evicting `i`. -1: none
AKV_FUNC void akv_price_again(akv_state st, akv_slots slots, AKV_PARAMS p, float left, float i, AKV_LOCAL float * local, akv_place at) {
    const float none = -1.0f;

    float first[2], second[2];
    for (uint32_t k = 0; k < 2; ++k) {
        first [k] = k == 0 ? left : i;
        second[k] = first[k] >= 0.0f && p.merges ? st.plan[st.l.next + (uint32_t) first[k]] : none;
        if (second[k] >= 0.0f && (slots.hold[(uint32_t) first[k]] == AKV_PROTECTED || slots.hold[(uint32_t) second[k]] == AKV_PROTECTED)) {
            second[k] = none;
        }
    }

    // distances of values, head by head
    float far = 0.0f;
    for (uint32_t h = 0; h < p.n_heads && akv_wants_values(p); ++h) {
        akv_four sums = { { 0.0f, 0.0f, 0.0f, 0.0f } };
        for (uint32_t c = at.thread; c < p.head_v; c += at.n_threads) {
            for (uint32_t k = 0; k < 2; ++k) {
                if (second[k] >= 0.0f) {
                    const float d = st.seen[st.s.values + ((uint32_t) first [k]*p.n_heads + h)*p.head_v + c] -
                                    st.seen[st.s.values + ((uint32_t) second[k]*p.n_heads + h)*p.head_v + c];
                    sums.x[k] += d*d;
                }
            }
            if (i >= 0.0f) {
                const float v = st.seen[st.s.values + ((uint32_t) i*p.n_heads + h)*p.head_v + c];
                sums.x[2] += v*v;
                sums.x[3] += akv_wants_mean(p) ? akv_abs(v - st.plan[st.l.mean + h*p.head_v + c]) : 0.0f;
            }
        }
        sums = akv_sums(sums, 4, local, at);
        far += sums.x[3];
        if (at.thread == 0) {
            for (uint32_t k = 0; k < 2; ++k) {
                if (second[k] >= 0.0f) {
                    st.plan[st.l.dist + (uint32_t) first[k]*p.n_heads + h] = sums.x[k];
                }
            }
            if (i >= 0.0f) {
                st.plan[st.l.norm + (uint32_t) i*p.n_heads + h] = akv_sqrt(sums.x[2]);
            }
        }
    }
    if (at.thread == 0 && i >= 0.0f) {
        st.plan[st.l.far + (uint32_t) i] = far;
    }
    AKV_BARRIER();

    akv_four sums = { { 0.0f, 0.0f, 0.0f, 0.0f } };
    float    base[2] = { 0.0f, 0.0f }; // what is not asked of queries
    for (uint32_t k = 0; k < 2; ++k) {
        if (second[k] >= 0.0f) {
            const uint32_t a = (uint32_t) first[k];
            const uint32_t z = (uint32_t) second[k];
            const akv_pair t = akv_pair_of(st, p, a, z);
            base[k] = p.score == AKV_SCORE_MASS ? akv_mass_cost(st, p, a, z, t) : akv_past_merge(st, p, a, z, t);
            for (uint32_t x = at.thread; p.score != AKV_SCORE_MASS && x < st.rows; x += at.n_threads) {
                sums.x[k] += akv_merge_term(st, p, a, z, x, t, st.plan[st.l.dist + a*p.n_heads + x/st.nq]);
            }
        }
    }
    for (uint32_t x = at.thread; p.evicts && i >= 0.0f && x < st.rows; x += at.n_threads) {
        sums.x[2] += akv_evict_term(st, p, (uint32_t) i, x);
    }
    sums = akv_sums(sums, 3, local, at);

    if (at.thread == 0) {
        for (uint32_t k = 0; k < 2; ++k) {
            if (first[k] >= 0.0f) {
                st.plan[st.l.cost_merge + (uint32_t) first[k]] = second[k] >= 0.0f ? sums.x[k] + base[k] : AKV_HUGE;
            }
        }
        if (i >= 0.0f) {
            st.plan[st.l.cost_evict + (uint32_t) i] = p.evicts ? sums.x[2] + akv_past_evict(st, p, (uint32_t) i) : AKV_HUGE;
        }
    }
    AKV_BARRIER();
}

// the slots that are kept, and what a member's key and value count in what it has become
AKV_FUNC void akv_plan_end(akv_state st, AKV_PARAMS p, uint32_t n_steps, uint32_t first, uint32_t end, AKV_LOCAL float * local, akv_place at) {
    float count = 0.0f;
    for (uint32_t i = first; i < end; ++i) {
        count += st.plan[st.l.live + i];
    }
    local[at.thread] = count;
    AKV_BARRIER();

    uint32_t s = 0;
    for (uint32_t t = 0; t < at.thread; ++t) {
        s += (uint32_t) local[t];
    }
    for (uint32_t i = first; i < end; ++i) {
        if (st.plan[st.l.live + i] != 0.0f && s < p.n_keep) {
            st.plan[st.l.kept + s++] = (float) i;
        }
    }

    // backwards: what a slot counts is known before those that it took in
    if (at.thread == 0) {
        for (uint32_t step = n_steps; step-- > 0; ) {
            if (st.plan[st.l.op_j + step] >= 0.0f) {
                const uint32_t i = (uint32_t) st.plan[st.l.op_i + step];
                const uint32_t j = (uint32_t) st.plan[st.l.op_j + step];
                const float wk = st.plan[st.l.op_w     + step];
                const float wv = st.plan[st.l.op_share + step];

                st.plan[st.l.weight_k + j] = (1.0f - wk)*st.plan[st.l.weight_k + i];
                st.plan[st.l.weight_v + j] = (1.0f - wv)*st.plan[st.l.weight_v + i];
                st.plan[st.l.weight_k + i] *= wk;
                st.plan[st.l.weight_v + i] *= wv;
            }
        }
    }
}

AKV_FUNC void akv_plan_greedy(akv_buffers b, AKV_PARAMS p, AKV_LOCAL float * local, akv_place at) {
    const akv_state st    = akv_state_of(b, p, at.group);
    const akv_slots slots = akv_slots_of(b, p, at.group);

    const uint32_t run   = (p.n_slots + at.n_threads - 1)/at.n_threads;
    const uint32_t first = at.thread*run < p.n_slots ? at.thread*run : p.n_slots;
    const uint32_t end   = first + run   < p.n_slots ? first + run   : p.n_slots;

    akv_best mine = akv_best_of(st, p, first, end);

    uint32_t step     = 0;
    uint32_t n_merges = 0;

    for (; step < p.n_slots - p.n_keep; ++step) {
        const akv_best best = akv_best_of_all(mine, local, at);
        if (best.cost >= AKV_HUGE) {
            break; // nothing is allowed any more
        }
        const bool     merges = best.code < (float) p.n_slots;
        const uint32_t i      = (uint32_t) best.code - (merges ? 0 : p.n_slots);
        const float    left   = st.plan[st.l.prev + i];

        uint32_t gone = i;
        if (merges) {
            const uint32_t j = (uint32_t) st.plan[st.l.next + i];
            const akv_pair t = akv_pair_of(st, p, i, j);
            const float    w = p.key_weights == AKV_KEYS_FISHER ? akv_weight_mass(st, i, j) : t.weight;
            gone = j;
            ++n_merges;

            akv_merge_seen(st, p, i, j, t, at);
            AKV_BARRIER();
            if (at.thread == 0) {
                st.plan[st.l.op_i     + step] = (float) i;
                st.plan[st.l.op_j     + step] = (float) j;
                st.plan[st.l.op_w     + step] = w;
                st.plan[st.l.op_share + step] = t.share;
                st.plan[st.l.op_cost  + step] = best.cost;
                akv_merge_slots(st, i, j, t);
                akv_unlink(st, j);
            }
        } else {
            akv_evict_seen(st, p, i, at);
            AKV_BARRIER();
            if (at.thread == 0) {
                st.plan[st.l.op_i     + step] = (float) i;
                st.plan[st.l.op_j     + step] = -1.0f;
                st.plan[st.l.op_w     + step] = 0.0f;
                st.plan[st.l.op_share + step] = 0.0f;
                st.plan[st.l.op_cost  + step] = best.cost;
                akv_unlink(st, i);
            }
        }
        AKV_BARRIER();

        akv_price_again(st, slots, p, left, merges ? (float) i : -1.0f, local, at);

        const bool is_mine = (i >= first && i < end) || (gone >= first && gone < end) || (left >= (float) first && left < (float) end);
        if (is_mine) {
            mine = akv_best_of(st, p, first, end);
        }
    }
    if (at.thread == 0) {
        st.plan[st.l.header]     = (float) step;
        st.plan[st.l.header + 1] = (float) n_merges;
    }
    akv_plan_end(st, p, step, first, end, local, at);
}
