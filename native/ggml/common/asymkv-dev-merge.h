#pragma once

#include "asymkv-dev-costs.h"

// MERGE: what the plan has decided, done to the cache. A slot's key is the weighed sum of its members' keys, each rotated to
// the slot's position: rotations and sums are linear, so a run of merges is one sum, and every row is read once. Rows that
// no merge touched are moved as bytes. Kept slots fill the cells from 0 on

// orthonormal Walsh-Hadamard transform of blocks of n channels, by all threads
AKV_FUNC void akv_hadamard_block(AKV_LOCAL float * x, uint32_t n_channels, uint32_t n, akv_place at) {
    const float norm = 1.0f/akv_sqrt((float) n);

    for (uint32_t len = 1; len < n; len *= 2) {
        AKV_BARRIER();
        for (uint32_t t = at.thread; t < n_channels/2; t += at.n_threads) {
            const uint32_t i = t/len*2*len + t % len;
            const float u = x[i], v = x[i + len];
            x[i]       = u + v;
            x[i + len] = u - v;
        }
    }
    AKV_BARRIER();
    for (uint32_t c = at.thread; c < n_channels; c += at.n_threads) {
        x[c] *= norm;
    }
    AKV_BARRIER();
}

// 32 channels, as ggml quantizes them
AKV_FUNC void akv_store_block(AKV_GLOBAL uint8_t * dst, uint32_t type, AKV_LOCAL const float * x) {
    float most = 0.0f; // with its sign
    for (uint32_t c = 0; c < 32; ++c) {
        most = akv_abs(x[c]) > akv_abs(most) ? x[c] : most;
    }
    const float    d    = type == AKV_TYPE_Q8_0 ? akv_abs(most)/127.0f : most/-8.0f;
    const float    id   = d != 0.0f ? 1.0f/d : 0.0f;
    const uint16_t bits = akv_to_half(d);

    dst[0] = (uint8_t) (bits & 0xff);
    dst[1] = (uint8_t) (bits >> 8);

    if (type == AKV_TYPE_Q8_0) {
        for (uint32_t c = 0; c < 32; ++c) {
            dst[2 + c] = (uint8_t) (int8_t) akv_round(x[c]*id);
        }
    } else {
        for (uint32_t c = 0; c < 16; ++c) {
            const int32_t low  = (int32_t) (x[c]*id      + 8.5f);
            const int32_t high = (int32_t) (x[c + 16]*id + 8.5f);
            dst[2 + c] = (uint8_t) ((low < 15 ? low : 15) | ((high < 15 ? high : 15) << 4));
        }
    }
}

// a row of n channels, by all threads
AKV_FUNC void akv_store_row(AKV_GLOBAL uint8_t * dst, uint32_t type, AKV_LOCAL const float * x, uint32_t n, akv_place at) {
    if (type == AKV_TYPE_Q8_0 || type == AKV_TYPE_Q4_0) {
        for (uint32_t block = at.thread; block < n/32; block += at.n_threads) {
            akv_store_block(dst + akv_row_bytes(type, 32*block), type, x + 32*block);
        }
        return;
    }
    for (uint32_t c = at.thread; c < n; c += at.n_threads) {
        if (type == AKV_TYPE_F32) {
            ((AKV_GLOBAL float *) dst)[c] = x[c];
        } else if (type == AKV_TYPE_F16) {
            ((AKV_GLOBAL uint16_t *) dst)[c] = akv_to_half(x[c]);
        } else {
            const uint32_t bits = akv_to_bits(x[c]);
            ((AKV_GLOBAL uint16_t *) dst)[c] = (uint16_t) ((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
        }
    }
}

// radians of a move by `whole` + `rest` positions, within half a turn: whole*freq is held in two numbers, since one is too
// coarse for long moves
AKV_FUNC float akv_angle(float whole, float rest, float freq) {
    const float turn = 6.28318548f;
    const float more = -1.74845553e-7f; // 2 pi is their sum

    const float high = whole*freq;
    const float low  = akv_fma(whole, freq, -high) + rest*freq;
    const float k    = akv_round(high/turn);

    return akv_fma(-k, more, akv_fma(-k, turn, high)) + low;
}

// the key of head h of a slot that was merged
AKV_FUNC void akv_merge_key(akv_buffers b, AKV_PARAMS p, akv_state st, uint32_t i, uint32_t h, AKV_GLOBAL uint8_t * dst, AKV_LOCAL float * local, akv_place at) {
    const akv_slots slots = akv_slots_of(b, p, at.group);

    AKV_LOCAL float * sum  = local;
    AKV_LOCAL float * all  = local + p.head_k;   // fisher, of all members
    AKV_LOCAL float * key  = local + p.head_k*2;

    AKV_GLOBAL const float * fisher = st.seen + st.s.fisher + h*p.head_k;
    const uint32_t fisher_row = p.n_heads*p.head_k;

    for (uint32_t c = at.thread; c < p.head_k; c += at.n_threads) {
        sum[c] = 0.0f;
        all[c] = 0.0f;
        for (float m = (float) i; m >= 0.0f && akv_wants_fisher(p); m = st.plan[st.l.member_next + (uint32_t) m]) {
            all[c] += fisher[(uint32_t) m*fisher_row + c];
        }
    }

    for (float next = (float) i; next >= 0.0f; ) {
        const uint32_t m = (uint32_t) next;
        next = st.plan[st.l.member_next + m];

        for (uint32_t c = at.thread; c < p.head_k; c += at.n_threads) {
            key[c] = akv_load(akv_key_at(b, p, at.group, (uint32_t) b.cells[m]), p.k_type, h*p.head_k + c);
        }
        if (p.hadamard > 0) {
            akv_hadamard_block(key, p.head_k, p.hadamard, at);
        } else {
            AKV_BARRIER();
        }

        const float weight = st.plan[st.l.weight_k + m];
        const float whole  = st.plan[st.l.pos      + i] - slots.pos     [m];
        const float rest   = st.plan[st.l.pos_rest + i] - slots.pos_rest[m];

        const uint32_t n_pairs = p.n_rot/2;
        for (uint32_t t = at.thread; t < p.head_k - n_pairs; t += at.n_threads) {
            const bool     turns = t < n_pairs;
            const uint32_t c0 = turns ? (p.rope_neox ? t : 2*t) : t + n_pairs;
            const uint32_t c1 = turns ? (p.rope_neox ? t + n_pairs : 2*t + 1) : c0;

            float y0 = key[c0];
            float y1 = key[c1];
            if (turns) {
                const float angle = akv_angle(whole, rest, b.freqs[t]);
                const float cosine = akv_cos(angle), sine = akv_sin(angle);
                const float x0 = y0, x1 = y1;
                y0 = x0*cosine - x1*sine;
                y1 = x0*sine   + x1*cosine;
            }
            const bool  known = akv_wants_fisher(p);
            const float w0 = known && all[c0] >= AKV_TINY ? fisher[m*fisher_row + c0]/all[c0] : weight;
            const float w1 = known && all[c1] >= AKV_TINY ? fisher[m*fisher_row + c1]/all[c1] : weight;

            sum[c0] += w0*y0;
            if (turns) {
                sum[c1] += w1*y1;
            }
        }
        AKV_BARRIER();
    }

    if (p.hadamard > 0) {
        akv_hadamard_block(sum, p.head_k, p.hadamard, at);
    }
    akv_store_row(dst, p.k_type, sum, p.head_k, at);
    AKV_BARRIER();
}

AKV_FUNC void akv_merge_value(akv_buffers b, AKV_PARAMS p, akv_state st, uint32_t i, uint32_t h, AKV_GLOBAL uint8_t * dst, AKV_LOCAL float * local, akv_place at) {
    for (uint32_t c = at.thread; c < p.head_v; c += at.n_threads) {
        float sum = 0.0f;
        for (float m = (float) i; m >= 0.0f; m = st.plan[st.l.member_next + (uint32_t) m]) {
            sum += st.plan[st.l.weight_v + (uint32_t) m]*akv_load_value(b, p, at.group, (uint32_t) b.cells[(uint32_t) m], h*p.head_v + c);
        }
        local[c] = sum;
    }
    AKV_BARRIER();
    akv_store_row(dst, p.v_type, local, p.head_v, at);
    AKV_BARRIER();
}

// the kept slots' rows, aside
AKV_FUNC void akv_merge_rows(akv_buffers b, AKV_PARAMS p, AKV_LOCAL float * local, akv_place at) {
    const akv_state st = akv_state_of(b, p, at.group);

    const uint32_t k_size = akv_row_bytes(p.k_type, p.n_heads*p.head_k);
    const uint32_t v_size = akv_row_bytes(p.v_type, p.n_heads*p.head_v);
    const uint32_t end    = (at.tile + 1)*AKV_MERGE_TILE < p.n_keep ? (at.tile + 1)*AKV_MERGE_TILE : p.n_keep;

    AKV_GLOBAL uint8_t * keys   = b.rows + (size_t) at.group*akv_rows_bytes(p);
    AKV_GLOBAL uint8_t * values = keys + akv_rows_values(p);

    for (uint32_t s = at.tile*AKV_MERGE_TILE; s < end; ++s) {
        const uint32_t i    = (uint32_t) st.plan[st.l.kept + s];
        const uint32_t cell = (uint32_t) b.cells[i];

        if (st.plan[st.l.member_next + i] >= 0.0f) {
            for (uint32_t h = 0; h < p.n_heads; ++h) {
                akv_merge_key  (b, p, st, i, h, keys   + s*k_size + akv_row_bytes(p.k_type, h*p.head_k), local, at);
                akv_merge_value(b, p, st, i, h, values + s*v_size + akv_row_bytes(p.v_type, h*p.head_v), local, at);
            }
            continue;
        }
        AKV_GLOBAL const uint8_t * key = akv_key_at(b, p, at.group, cell);
        for (uint32_t x = at.thread; x < k_size; x += at.n_threads) {
            keys[s*k_size + x] = key[x];
        }
        if (p.v_channel) {
            const uint32_t size = akv_row_bytes(p.v_type, 1);
            for (uint32_t x = at.thread; x < v_size; x += at.n_threads) {
                values[s*v_size + x] = akv_value_at(b, p, at.group, cell, x/size)[x % size];
            }
        } else {
            AKV_GLOBAL const uint8_t * value = akv_value_at(b, p, at.group, cell, 0);
            for (uint32_t x = at.thread; x < v_size; x += at.n_threads) {
                values[s*v_size + x] = value[x];
            }
        }
    }
}

// and back into the cache
AKV_FUNC void akv_merge_store(akv_buffers b, AKV_PARAMS p, AKV_LOCAL float * /*local*/, akv_place at) {
    const uint32_t k_size = akv_row_bytes(p.k_type, p.n_heads*p.head_k);
    const uint32_t v_size = akv_row_bytes(p.v_type, p.n_heads*p.head_v);
    const uint32_t end    = (at.tile + 1)*AKV_MERGE_TILE < p.n_keep ? (at.tile + 1)*AKV_MERGE_TILE : p.n_keep;

    AKV_GLOBAL const uint8_t * keys   = b.rows + (size_t) at.group*akv_rows_bytes(p);
    AKV_GLOBAL const uint8_t * values = keys + akv_rows_values(p);

    for (uint32_t s = at.tile*AKV_MERGE_TILE; s < end; ++s) {
        AKV_GLOBAL uint8_t * key = akv_key_at(b, p, at.group, s);
        for (uint32_t x = at.thread; x < k_size; x += at.n_threads) {
            key[x] = keys[s*k_size + x];
        }
        if (!p.v_channel) {
            AKV_GLOBAL uint8_t * value = akv_value_at(b, p, at.group, s, 0);
            for (uint32_t x = at.thread; x < v_size; x += at.n_threads) {
                value[x] = values[s*v_size + x];
            }
        }
    }
    if (p.v_channel) {
        // neighbours are the slots of a channel
        const uint32_t size  = akv_row_bytes(p.v_type, 1);
        const uint32_t first = at.tile*AKV_MERGE_TILE;
        for (uint32_t x = at.thread; x < (end - first)*p.n_heads*p.head_v; x += at.n_threads) {
            const uint32_t s = first + x % (end - first);
            const uint32_t c = x/(end - first);
            AKV_GLOBAL uint8_t * value = akv_value_at(b, p, at.group, s, c);
            for (uint32_t y = 0; y < size; ++y) {
                value[y] = values[s*v_size + c*size + y];
            }
        }
    }
}
