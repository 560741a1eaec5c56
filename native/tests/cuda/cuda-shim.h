#pragma once

// what kernels of ggml-cuda need to run on the CPU: the toolkit's own types, and threads of a block as fibers. A thread runs
// alone until a barrier, or until its warp exchanges values, where all 32 lanes meet. Blocks run one after the other

#include <cuda_runtime.h>
#include <cuda.h>
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_fp4.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#ifndef SHIM_ARCH
#error "SHIM_ARCH: the architecture whose code is compiled, 610 or 750"
#endif
#define __CUDA_ARCH__ SHIM_ARCH

extern uint3 threadIdx, blockIdx; // of the running thread
extern dim3  blockDim, gridDim;

namespace cuda_shim {

// the block's, as large as the launch says
extern char * shared_memory;

void launch(dim3 grid_dim, dim3 block_dim, size_t shared_bytes, const std::function<void()> & kernel);

int n_launches_since(); // the last call

void meet_block();
void meet_warp();

// the warp's: a value of up to 16 bytes for every lane
char * lanes();
int    lane();

template <typename T> T exchange(T value, int from) {
    static_assert(sizeof(T) <= 16, "too large for a register");
    memcpy(lanes() + 16*lane(), &value, sizeof(T));
    meet_warp();
    memcpy(&value, lanes() + 16*from, sizeof(T));
    meet_warp();
    return value;
}

} // namespace cuda_shim

#undef  __shared__
#define __shared__ static // one block runs at a time

#undef  __launch_bounds__
#define __launch_bounds__(...)

#define __builtin_assume(x) ((void) 0)

template <typename... A> static cudaError_t cudaFuncSetAttribute(void (*)(A...), cudaFuncAttribute, int) { return cudaSuccess; }

static inline void __syncthreads() { cuda_shim::meet_block(); }
static inline void __syncwarp(unsigned = 0xffffffff) { cuda_shim::meet_warp(); }
static inline void __threadfence_block() {}
static inline void __trap() { abort(); }

template <typename T> static T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
    return cuda_shim::exchange(value, cuda_shim::lane() ^ mask);
}

template <typename T> static T __shfl_sync(unsigned, T value, int from, int width = 32) {
    return cuda_shim::exchange(value, cuda_shim::lane()/width*width + from % width);
}

template <typename T> static T __shfl_up_sync(unsigned, T value, unsigned delta, int width = 32) {
    const int lane = cuda_shim::lane();
    return cuda_shim::exchange(value, lane % width < (int) delta ? lane : lane - (int) delta);
}

static inline unsigned __ballot_sync(unsigned, int predicate) {
    unsigned res = 0;
    cuda_shim::exchange(predicate, 0);
    for (int i = 0; i < 32; ++i) {
        res |= (unsigned) (cuda_shim::exchange(predicate, i) != 0) << i;
    }
    return res;
}

static inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == 0xffffffff; }
static inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }

//
// instructions of tensor cores, as PTX describes their fragments: lane = 4*row + column/2, two halves in a register. In place of
// the asm statements (tests/test_cuda_attention.py), operands in order
//

namespace cuda_shim {

template <typename T> struct all_lanes {
    T values[32];

    explicit all_lanes(T value) {
        for (int i = 0; i < 32; ++i) {
            values[i] = exchange(value, i);
        }
    }
};

static inline float half_of(int reg, int i) { return __half2float(__ushort_as_half((unsigned short) (reg >> 16*i))); }

// 8x8 matrices of halves whose rows are where the lanes say
static inline void ldmatrix(int ** regs, int n, bool trans, const void * address) {
    const all_lanes<const char *> rows((const char *) address);
    for (int r = 0; r < n; ++r) {
        const char * const * row = rows.values + 8*r;
        unsigned short both[2];
        for (int i = 0; i < 2; ++i) {
            const int major = lane()/4, minor = lane() % 4*2 + i;
            memcpy(&both[i], trans ? row[minor] + 2*major : row[major] + 2*minor, 2);
        }
        memcpy(regs[r], both, 4);
    }
}

static inline void ldmatrix_x2(int & a, int & b, const void * address) {
    int * regs[] = { &a, &b };
    ldmatrix(regs, 2, false, address);
}

static inline void ldmatrix_x4(int & a, int & b, int & c, int & d, const void * address) {
    int * regs[] = { &a, &b, &c, &d };
    ldmatrix(regs, 4, false, address);
}

static inline void ldmatrix_x4_trans(int & a, int & b, int & c, int & d, const void * address) {
    int * regs[] = { &a, &b, &c, &d };
    ldmatrix(regs, 4, true, address);
}

static inline void movmatrix(int & res, int x) {
    const all_lanes<int> all(x);
    const int row = lane()/4, column = lane() % 4*2;
    res = (all.values[4*column + row/2] >> row % 2*16 & 0xffff) | (all.values[4*(column + 1) + row/2] >> row % 2*16 & 0xffff) << 16;
}

// 16x8 of A, 8x8 of B: what is added to the lane's four numbers, two of each half of rows
static inline void mma_k8(float res[4], int a0, int a1, int b0) {
    const all_lanes<int> all_a0(a0), all_a1(a1), all_b0(b0);
    for (int i = 0; i < 4; ++i) {
        const int row = lane()/4, column = lane() % 4*2 + i % 2;
        for (int k = 0; k < 8; ++k) {
            res[i] += half_of((i < 2 ? all_a0 : all_a1).values[4*row + k/2], k % 2)*half_of(all_b0.values[4*column + k/2], k % 2);
        }
    }
}

static inline void mma_f16(int & d0, int & d1, int a0, int a1, int b0) {
    float res[4] = { half_of(d0, 0), half_of(d0, 1), half_of(d1, 0), half_of(d1, 1) };
    mma_k8(res, a0, a1, b0);
    const half2 sums[2] = { make_half2(res[0], res[1]), make_half2(res[2], res[3]) };
    memcpy(&d0, &sums[0], 4);
    memcpy(&d1, &sums[1], 4);
}

static inline void mma_f32(int & d0, int & d1, int & d2, int & d3, int a0, int a1, int b0) {
    int * regs[] = { &d0, &d1, &d2, &d3 };
    float res[4];
    for (int i = 0; i < 4; ++i) {
        memcpy(&res[i], regs[i], 4);
    }
    mma_k8(res, a0, a1, b0);
    for (int i = 0; i < 4; ++i) {
        memcpy(regs[i], &res[i], 4);
    }
}

} // namespace cuda_shim

static inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; ++i) {
        c += (int) (int8_t) (a >> 8*i)*(int) (int8_t) (b >> 8*i);
    }
    return c;
}

using std::max;
using std::min;

static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned) ((uint64_t) a*b >> 32); }
static inline int      __popc (unsigned x) { return __builtin_popcount(x); }
static inline float    __uint_as_float(unsigned x) { float y; memcpy(&y, &x, sizeof(y)); return y; }
static inline unsigned __float_as_uint(float x)    { unsigned y; memcpy(&y, &x, sizeof(y)); return y; }

// bytes of a pair of registers
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const uint64_t both = (uint64_t) y << 32 | x;
    unsigned res = 0;
    for (int i = 0; i < 4; ++i) {
        res |= (unsigned) (both >> 8*(selector >> 4*i & 7) & 255) << 8*i;
    }
    return res;
}

// four bytes at once
static inline unsigned __vsub4(unsigned a, unsigned b) {
    unsigned res = 0;
    for (int i = 0; i < 4; ++i) {
        res |= ((a >> 8*i) - (b >> 8*i) & 255) << 8*i;
    }
    return res;
}

// only named by what never runs here
static inline unsigned __vsubss4(unsigned, unsigned) { abort(); }
static inline unsigned __vcmpne4(unsigned, unsigned) { abort(); }
static inline unsigned __vcmpeq4(unsigned, unsigned) { abort(); }
