#pragma once

#include "asymkv-dev-rows.h"

// OBSERVE: locally merged attention of the observed queries over all slots, softmax over scale * q.k_i + ln c_i, and how far
// each value is from what a query gets. K is read once; V once, and from then on as single precision. A learned attention
// sink takes part in the softmax, and has no value: probabilities then sum to less than one

// orthonormal Walsh-Hadamard transform of blocks of n channels that are `stride` apart; its own inverse
AKV_FUNC void akv_hadamard(AKV_GLOBAL float * x, uint32_t n_channels, uint32_t n, uint32_t stride) {
    const float norm = 1.0f/akv_sqrt((float) n);

    for (uint32_t b = 0; b < n_channels; b += n) {
        for (uint32_t len = 1; len < n; len *= 2) {
            for (uint32_t t = 0; t < n/2; ++t) {
                const uint32_t i = (b + t/len*2*len + t % len)*stride;
                const uint32_t j = i + len*stride;
                const float u = x[i], v = x[j];
                x[i] = u + v;
                x[j] = u - v;
            }
        }
        for (uint32_t t = b; t < b + n; ++t) {
            x[t*stride] *= norm;
        }
    }
}

// the ring's queries as columns: a thread each
AKV_FUNC void akv_observe_queries(akv_buffers b, AKV_PARAMS p, AKV_LOCAL float * /*local*/, akv_place at) {
    const akv_seen_layout    s    = akv_seen(p);
    AKV_GLOBAL float       * seen = akv_seen_of(b, p, at.group);

    const uint32_t nq   = akv_n_queries(p);
    const uint32_t head = at.tile;

    for (uint32_t r = at.thread; r < nq; r += at.n_threads) {
        AKV_GLOBAL const uint8_t * row = b.q + (size_t) b.q_rows[r/p.n_gqa]*p.q_row;
        const uint32_t channel = (((p.first_group + at.group)*p.n_heads + head)*p.n_gqa + r % p.n_gqa)*p.head_k;

        AKV_GLOBAL float * column = seen + s.queries + head*p.head_k*nq + r;
        for (uint32_t c = 0; c < p.head_k; ++c) {
            column[c*nq] = akv_load(row, p.q_type, channel + c);
        }

        if (akv_wants_fisher(p)) {
            AKV_GLOBAL float * square = seen + s.query_sq + head*p.head_k*nq + r;
            for (uint32_t c = 0; c < p.head_k; ++c) {
                square[c*nq] = column[c*nq];
            }
            if (p.hadamard > 0) {
                akv_hadamard(square, p.head_k, p.hadamard, nq);
            }
            for (uint32_t c = 0; c < p.head_k; ++c) {
                square[c*nq] *= square[c*nq];
            }
        }
    }
}

// logits of a tile's slots, without ln c, their largest and the sum of their exponentials. a Hadamard transform of keys
// and queries alike changes no product
AKV_FUNC void akv_observe_logits(akv_buffers b, AKV_PARAMS p, AKV_LOCAL float * local, akv_place at) {
    const akv_seen_layout    s     = akv_seen(p);
    AKV_GLOBAL float       * seen  = akv_seen_of (b, p, at.group);
    const akv_slots          slots = akv_slots_of(b, p, at.group);

    const uint32_t nq   = akv_n_queries(p);
    const uint32_t rows = akv_n_rows(p);
    const uint32_t end  = (at.tile + 1)*AKV_TILE < p.n_slots ? (at.tile + 1)*AKV_TILE : p.n_slots;

    AKV_GLOBAL const int32_t * query_pos = b.q_rows + p.n_observed;

    for (uint32_t h = 0; h < p.n_heads; ++h) {
        AKV_GLOBAL float * top = seen + s.top + at.tile*rows + h*nq;
        AKV_GLOBAL float * sum = seen + s.sum + at.tile*rows + h*nq;

        for (uint32_t i0 = at.tile*AKV_TILE; i0 < end; i0 += AKV_SUB) {
            const uint32_t n_sub = i0 + AKV_SUB < end ? AKV_SUB : end - i0;

            for (uint32_t x = at.thread; x < AKV_SUB*p.head_k; x += at.n_threads) {
                const uint32_t i = x/p.head_k;
                local[x] = i < n_sub ? akv_load(akv_key_at(b, p, at.group, (uint32_t) b.cells[i0 + i]), p.k_type, h*p.head_k + x % p.head_k) : 0.0f;
            }
            AKV_BARRIER();

            for (uint32_t r = at.thread; r < nq; r += at.n_threads) {
                AKV_GLOBAL const float * column = seen + s.queries + h*p.head_k*nq + r;

                float dot[AKV_SUB];
                for (uint32_t i = 0; i < AKV_SUB; ++i) {
                    dot[i] = 0.0f;
                }
                for (uint32_t c = 0; c < p.head_k; ++c) {
                    const float q = column[c*nq];
                    for (uint32_t i = 0; i < AKV_SUB; ++i) {
                        dot[i] += q*local[i*p.head_k + c];
                    }
                }

                const float seen_to = (float) query_pos[r/p.n_gqa];

                float most = i0 % AKV_TILE == 0 ? AKV_UNSEEN : top[r];
                float part = i0 % AKV_TILE == 0 ? 0.0f       : sum[r];
                const float before = most;

                for (uint32_t i = 0; i < n_sub; ++i) {
                    const uint32_t slot = i0 + i;
                    const bool is_seen = slots.pos[slot] < seen_to || (slots.pos[slot] == seen_to && slots.pos_rest[slot] == 0.0f);

                    float logit = p.scale*dot[i];
                    if (p.softcap > 0.0f) {
                        logit = p.softcap*akv_tanh(logit/p.softcap);
                    }
                    dot[i] = is_seen ? logit + akv_log(slots.card[slot]) : AKV_UNSEEN;
                    most   = dot[i] > most ? dot[i] : most;

                    seen[s.log_prob + slot*rows + h*nq + r] = is_seen ? logit : AKV_UNSEEN;
                }
                if (most > before) {
                    part *= before > AKV_UNSEEN ? akv_exp(before - most) : 0.0f;
                }
                for (uint32_t i = 0; i < n_sub; ++i) {
                    part += dot[i] > AKV_UNSEEN ? akv_exp(dot[i] - most) : 0.0f;
                }
                top[r] = most;
                sum[r] = part;
            }
            AKV_BARRIER();
        }
    }
}

// of a row's query head; AKV_UNSEEN: none
AKV_FUNC float akv_sink(akv_buffers b, AKV_PARAMS p, uint32_t group, uint32_t x) {
    const uint32_t nq   = akv_n_queries(p);
    const uint32_t head = (p.first_group + group)*p.n_heads + x/nq;
    const float    sink = p.has_sinks ? b.sinks[head*p.n_gqa + x % nq % p.n_gqa] : AKV_UNSEEN;
    return sink > AKV_UNSEEN ? sink : AKV_UNSEEN;
}

// probabilities and their logarithms, mass, values in single precision, and the tile's share of the outputs
AKV_FUNC void akv_observe_probs(akv_buffers b, AKV_PARAMS p, AKV_LOCAL float * local, akv_place at) {
    const akv_seen_layout    s     = akv_seen(p);
    AKV_GLOBAL float       * seen  = akv_seen_of (b, p, at.group);
    const akv_slots          slots = akv_slots_of(b, p, at.group);

    const uint32_t nq    = akv_n_queries(p);
    const uint32_t rows  = akv_n_rows(p);
    const uint32_t tiles = akv_n_tiles(p);
    const uint32_t start = at.tile*AKV_TILE;
    const uint32_t end   = start + AKV_TILE < p.n_slots ? start + AKV_TILE : p.n_slots;

    for (uint32_t x = at.thread; x < rows; x += at.n_threads) {
        const float sink = akv_sink(b, p, at.group, x);

        float most = sink;
        for (uint32_t t = 0; t < tiles; ++t) {
            const float top = seen[s.top + t*rows + x];
            most = top > most ? top : most;
        }
        float all = sink > AKV_UNSEEN ? akv_exp(sink - most) : 0.0f;
        for (uint32_t t = 0; t < tiles; ++t) {
            const float top = seen[s.top + t*rows + x];
            all += top > AKV_UNSEEN ? seen[s.sum + t*rows + x]*akv_exp(top - most) : 0.0f;
        }

        // a query that sees nothing gets zeros
        const float factor = all > 0.0f ? 1.0f/all : 0.0f;
        const float shift  = all > 0.0f ? most + akv_log(all) : 0.0f;

        for (uint32_t i = start; i < end; ++i) {
            const float logit = seen[s.log_prob + i*rows + x];
            const float prob  = logit > AKV_UNSEEN ? factor*akv_exp(logit + akv_log(slots.card[i]) - most) : 0.0f;
            seen[s.prob     + i*rows + x] = prob;
            seen[s.log_prob + i*rows + x] = logit - shift < AKV_LOG_ZERO ? AKV_LOG_ZERO : logit - shift;
        }
    }
    AKV_BARRIER();

    for (uint32_t i = start + at.thread; i < end; i += at.n_threads) {
        float mass = 0.0f;
        for (uint32_t x0 = 0; x0 < rows; x0 += AKV_TILE) { // short sums first
            float part = 0.0f;
            for (uint32_t x = x0; x < x0 + AKV_TILE && x < rows; ++x) {
                part += seen[s.prob + i*rows + x];
            }
            mass += part;
        }
        seen[s.mass + i] = mass;
    }

    if (!akv_wants_values(p)) {
        return;
    }

    for (uint32_t h = 0; h < p.n_heads; ++h) {
        for (uint32_t i0 = start; i0 < end; i0 += AKV_SUB) {
            const uint32_t n_sub = i0 + AKV_SUB < end ? AKV_SUB : end - i0;

            for (uint32_t x = at.thread; x < AKV_SUB*p.head_v; x += at.n_threads) {
                const uint32_t i = x/p.head_v;
                const uint32_t c = x % p.head_v;
                local[x] = 0.0f;
                if (i < n_sub) {
                    local[x] = akv_load_value(b, p, at.group, (uint32_t) b.cells[i0 + i], h*p.head_v + c);
                    seen[s.values + ((i0 + i)*p.n_heads + h)*p.head_v + c] = local[x];
                }
            }
            AKV_BARRIER();

            for (uint32_t r = at.thread; akv_wants_dists(p) && r < nq; r += at.n_threads) {
                float prob[AKV_SUB];
                for (uint32_t i = 0; i < AKV_SUB; ++i) {
                    prob[i] = i < n_sub ? seen[s.prob + (i0 + i)*rows + h*nq + r] : 0.0f;
                }
                AKV_GLOBAL float * out = seen + s.out + (at.tile*p.n_heads + h)*p.head_v*nq + r;
                for (uint32_t c = 0; c < p.head_v; ++c) {
                    float sum = i0 == start ? 0.0f : out[c*nq];
                    for (uint32_t i = 0; i < AKV_SUB; ++i) {
                        sum += prob[i]*local[i*p.head_v + c];
                    }
                    out[c*nq] = sum;
                }
            }
            AKV_BARRIER();
        }
    }
}

// the tiles' shares become the outputs, in the first one's place
AKV_FUNC void akv_observe_outputs(akv_buffers b, AKV_PARAMS p, AKV_LOCAL float * /*local*/, akv_place at) {
    if (!akv_wants_dists(p)) {
        return;
    }
    const akv_seen_layout    s    = akv_seen(p);
    AKV_GLOBAL float       * seen = akv_seen_of(b, p, at.group);

    const uint32_t nq    = akv_n_queries(p);
    const uint32_t rows  = akv_n_rows(p);
    const uint32_t tiles = akv_n_tiles(p);

    for (uint32_t r = at.thread; r < nq; r += at.n_threads) {
        AKV_GLOBAL float * out = seen + s.out + at.tile*p.head_v*nq + r;
        float norm_sq = 0.0f;
        for (uint32_t c = 0; c < p.head_v; ++c) {
            float sum = 0.0f;
            for (uint32_t t = 0; t < tiles; ++t) {
                sum += out[t*rows*p.head_v + c*nq];
            }
            out[c*nq] = sum;
            norm_sq += sum*sum;
        }
        seen[s.out_norm + at.tile*nq + r] = akv_sqrt(norm_sq);
    }
}

// what two rotated channels have in common
AKV_FUNC void akv_observe_fisher(akv_buffers b, AKV_PARAMS p, uint32_t i, akv_place at) {
    const akv_seen_layout    s    = akv_seen(p);
    AKV_GLOBAL float       * seen = akv_seen_of(b, p, at.group);

    const uint32_t nq   = akv_n_queries(p);
    const uint32_t rows = akv_n_rows(p);

    for (uint32_t x = at.thread; x < p.n_heads*p.head_k; x += at.n_threads) {
        const uint32_t h = x/p.head_k;
        const uint32_t c = x % p.head_k;

        const uint32_t half_rot = p.n_rot/2;
        const uint32_t other = c >= p.n_rot ? c : p.rope_neox ? (c < half_rot ? c + half_rot : c - half_rot) : (c ^ 1);

        AKV_GLOBAL const float * sq_c = seen + s.query_sq + (h*p.head_k + c)*nq;
        AKV_GLOBAL const float * sq_o = seen + s.query_sq + (h*p.head_k + other)*nq;

        float info = 0.0f;
        for (uint32_t r = 0; r < nq; ++r) {
            const float prob = seen[s.prob    + i*rows + h*nq + r];
            const float dist = seen[s.dist_sq + i*rows + h*nq + r];
            info += prob*prob*dist*0.5f*(sq_c[r] + sq_o[r]);
        }
        seen[s.fisher + i*p.n_heads*p.head_k + x] = info;
    }
}

// |v - o|^2, and with it the keys' information
AKV_FUNC void akv_observe_dists(akv_buffers b, AKV_PARAMS p, AKV_LOCAL float * local, akv_place at) {
    if (!akv_wants_dists(p)) {
        return;
    }
    const akv_seen_layout    s    = akv_seen(p);
    AKV_GLOBAL float       * seen = akv_seen_of(b, p, at.group);

    const uint32_t nq    = akv_n_queries(p);
    const uint32_t rows  = akv_n_rows(p);
    const uint32_t start = at.tile*AKV_TILE;
    const uint32_t end   = start + AKV_TILE < p.n_slots ? start + AKV_TILE : p.n_slots;

    for (uint32_t h = 0; h < p.n_heads; ++h) {
        for (uint32_t i0 = start; i0 < end; i0 += AKV_SUB) {
            const uint32_t n_sub = i0 + AKV_SUB < end ? AKV_SUB : end - i0;

            for (uint32_t x = at.thread; x < AKV_SUB*p.head_v; x += at.n_threads) {
                const uint32_t i = x/p.head_v;
                local[x] = i < n_sub ? seen[s.values + ((i0 + i)*p.n_heads + h)*p.head_v + x % p.head_v] : 0.0f;
            }
            AKV_BARRIER();

            for (uint32_t r = at.thread; r < nq; r += at.n_threads) {
                AKV_GLOBAL const float * out = seen + s.out + h*p.head_v*nq + r;

                float dist[AKV_SUB];
                for (uint32_t i = 0; i < AKV_SUB; ++i) {
                    dist[i] = 0.0f;
                }
                for (uint32_t c = 0; c < p.head_v; ++c) {
                    const float o = out[c*nq];
                    for (uint32_t i = 0; i < AKV_SUB; ++i) {
                        const float d = local[i*p.head_v + c] - o;
                        dist[i] += d*d;
                    }
                }
                for (uint32_t i = 0; i < n_sub; ++i) {
                    seen[s.dist_sq + (i0 + i)*rows + h*nq + r] = dist[i];
                }
            }
            AKV_BARRIER();
        }
    }

    if (akv_wants_fisher(p)) {
        for (uint32_t i = start; i < end; ++i) {
            akv_observe_fisher(b, p, i, at);
        }
    }
}
