#pragma once

#include "asymkv-dev-args.h"

// rows of the cache, and what a block does together

#define AKV_LOG_ZERO (-1e4f)  // logit of a slot that a query does not see, of a probability
#define AKV_UNSEEN   (-1e30f) // " before the softmax
#define AKV_HUGE     (3e38f)  // cost of what is not allowed
#define AKV_TINY     (1e-30f) // a denominator below this says nothing

AKV_FUNC AKV_GLOBAL float * akv_seen_of(akv_buffers b, AKV_PARAMS p, uint32_t group) { return b.seen + group*akv_seen(p).n_floats; }
AKV_FUNC AKV_GLOBAL float * akv_plan_of(akv_buffers b, AKV_PARAMS p, uint32_t group) { return b.plan + group*akv_plan(p).n_floats; }

// of one group
struct akv_slots {
    AKV_GLOBAL const float * pos;
    AKV_GLOBAL const float * pos_rest;
    AKV_GLOBAL const float * card;
    AKV_GLOBAL const float * score;
    AKV_GLOBAL const float * hold; // AKV_FREE, ...
    AKV_GLOBAL const float * history;
};

AKV_FUNC akv_slots akv_slots_of(akv_buffers b, AKV_PARAMS p, uint32_t group) {
    AKV_GLOBAL const float * first = b.slots + group*AKV_SLOT_FIELDS*p.n_slots;

    akv_slots s;
    s.pos          = first;
    s.pos_rest     = first + p.n_slots;
    s.card         = first + p.n_slots*2;
    s.score        = first + p.n_slots*3;
    s.hold         = first + p.n_slots*4;
    s.history      = first + p.n_slots*5;
    return s;
}

AKV_FUNC uint16_t akv_load_u16(AKV_GLOBAL const uint8_t * x) {
    return (uint16_t) (x[0] | (x[1] << 8));
}

AKV_FUNC float akv_load_float(AKV_GLOBAL const uint8_t * x, uint32_t type) {
    if (type == AKV_TYPE_F32) {
        return *(AKV_GLOBAL const float *) x;
    }
    const uint16_t bits = *(AKV_GLOBAL const uint16_t *) x;
    return type == AKV_TYPE_F16 ? akv_from_half(bits) : akv_from_bits((uint32_t) bits << 16);
}

// channel c of a row
AKV_FUNC float akv_load(AKV_GLOBAL const uint8_t * row, uint32_t type, uint32_t c) {
    if (type == AKV_TYPE_Q8_0) {
        AKV_GLOBAL const uint8_t * block = row + c/32*34;
        return akv_from_half(akv_load_u16(block))*(float) (int8_t) block[2 + c % 32];
    }
    if (type == AKV_TYPE_Q4_0) {
        AKV_GLOBAL const uint8_t * block = row + c/32*18;
        const uint8_t two = block[2 + c % 16];
        return akv_from_half(akv_load_u16(block))*(float) ((int32_t) (c % 32 < 16 ? two & 15 : two >> 4) - 8);
    }
    return akv_load_float(row + akv_row_bytes(type, c), type);
}

// where channel c of a slot's value is; of a group's first head and channel on
AKV_FUNC AKV_GLOBAL uint8_t * akv_value_at(akv_buffers b, AKV_PARAMS p, uint32_t group, uint32_t cell, uint32_t c) {
    const uint32_t channel = (p.first_group + group)*p.n_heads*p.head_v + c;
    return p.v_channel ? b.v + (size_t) channel*p.v_channel + cell*akv_row_bytes(p.v_type, 1) : b.v + (size_t) cell*p.v_row + akv_row_bytes(p.v_type, channel);
}

AKV_FUNC AKV_GLOBAL uint8_t * akv_key_at(akv_buffers b, AKV_PARAMS p, uint32_t group, uint32_t cell) {
    return b.k + (size_t) cell*p.k_row + akv_row_bytes(p.k_type, (p.first_group + group)*p.n_heads*p.head_k);
}

// channel c of a slot's value, of the group's first head on
AKV_FUNC float akv_load_value(akv_buffers b, AKV_PARAMS p, uint32_t group, uint32_t cell, uint32_t c) {
    if (p.v_channel) {
        return akv_load_float(akv_value_at(b, p, group, cell, c), p.v_type);
    }
    return akv_load(b.v + (size_t) cell*p.v_row, p.v_type, (p.first_group + group)*p.n_heads*p.head_v + c);
}

// sums over the block of up to 4 numbers, `n` of them. every thread gets them
struct akv_four {
    float x[4];
};

AKV_FUNC akv_four akv_sums(akv_four mine, uint32_t n, AKV_LOCAL float * local, akv_place at) {
    AKV_LOCAL float * parts = local + n*at.n_threads;
    for (uint32_t k = 0; k < n; ++k) {
        local[k*at.n_threads + at.thread] = mine.x[k];
    }
    AKV_BARRIER();
    for (uint32_t x = at.thread; x < n*AKV_PARTS; x += at.n_threads) {
        float sum = 0.0f;
        for (uint32_t t = x % AKV_PARTS; t < at.n_threads; t += AKV_PARTS) {
            sum += local[x/AKV_PARTS*at.n_threads + t];
        }
        parts[x] = sum;
    }
    AKV_BARRIER();
    for (uint32_t k = 0; k < n; ++k) {
        float sum = 0.0f;
        for (uint32_t u = 0; u < AKV_PARTS; ++u) {
            sum += parts[k*AKV_PARTS + u];
        }
        mine.x[k] = sum;
    }
    AKV_BARRIER(); // another sum may be of fewer numbers, and put its own over these parts
    return mine;
}
