#pragma once

// what the threads of a threadgroup do together. A thread is a fiber, and runs alone until it needs the others: at a barrier,
// and at each operation of its simdgroup, where all 32 lanes meet. Between these nothing is in lockstep, so that a kernel
// which relies on more than Metal promises mostly fails here

#include "msl.h"

namespace msl {

constexpr int n_lanes = 32;

// which operation a lane is at: all lanes of a simdgroup must be at the same one
enum class meeting { barrier, sum, max, min, product, shuffle, shuffle_up, shuffle_down, broadcast, ballot, matrix };

typedef int origin; // of a matrix in memory: the kernels use 0 only

int lane(); // of the running thread

// waits until all lanes of the simdgroup are here, and gives what each has brought; nullptr for one that has returned
const void * const * exchange(meeting what, const void * value, size_t size);

void threadgroup_wait();

template <typename T, typename F> T reduce(meeting what, T value, F combine) {
    const void * const * values = exchange(what, &value, sizeof(value));

    T    res   = value;
    bool first = true;
    for (int i = 0; i < n_lanes; ++i) {
        if (values[i]) {
            res   = first ? *(const T *) values[i] : combine(res, *(const T *) values[i]);
            first = false;
        }
    }
    return res;
}

// a lane outside of the simdgroup: undefined in Metal; the lane's own value, as on Apple's GPUs
template <typename T> T from_lane(meeting what, T value, int source) {
    const void * const * values = exchange(what, &value, sizeof(value));

    return source >= 0 && source < n_lanes && values[source] ? *(const T *) values[source] : value;
}

} // namespace msl

namespace metal {

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };

inline mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags((int) a | (int) b); }

inline void threadgroup_barrier(mem_flags) { msl::threadgroup_wait(); }
inline void simdgroup_barrier(mem_flags)   { msl::exchange(msl::meeting::barrier, nullptr, 0); }

template <typename T> T simd_sum(T x) { return msl::reduce(msl::meeting::sum, x, [](T a, T b) { return T(a + b); }); }
template <typename T> T simd_max(T x) { return msl::reduce(msl::meeting::max, x, [](T a, T b) { return max(a, b); }); }
template <typename T> T simd_min(T x) { return msl::reduce(msl::meeting::min, x, [](T a, T b) { return min(a, b); }); }

template <typename T> T simd_shuffle     (T x, ushort i) { return msl::from_lane(msl::meeting::shuffle,      x, i); }
template <typename T> T simd_broadcast   (T x, ushort i) { return msl::from_lane(msl::meeting::broadcast,    x, i); }
template <typename T> T simd_shuffle_up  (T x, ushort d) { return msl::from_lane(msl::meeting::shuffle_up,   x, msl::lane() - d); }
template <typename T> T simd_shuffle_down(T x, ushort d) { return msl::from_lane(msl::meeting::shuffle_down, x, msl::lane() + d); }

//
// 8x8 matrices, spread over the lanes: each holds two elements of a row, and loads and stores nothing else
//

template <typename T, int C, int R> struct simdgroup_matrix {
    static_assert(C == 8 && R == 8, "Metal has 8x8 only");

    T mine[2];

    static int row()    { return msl::lane()/4; }
    static int column() { return 2*(msl::lane()%4); }
};

typedef simdgroup_matrix<half,  8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;

template <typename T, int C, int R = C> simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(T value) {
    return { { value, value } };
}

template <typename M> size_t simdgroup_offset(int i, ulong stride, bool transposed) {
    return transposed ? (M::column() + i)*stride + M::row() : M::row()*stride + M::column() + i;
}

template <typename T, int C, int R>
void simdgroup_load(simdgroup_matrix<T, C, R> & m, const T * data, ulong stride = C, msl::origin = 0, bool transposed = false) {
    for (int i = 0; i < 2; ++i) {
        m.mine[i] = data[simdgroup_offset<simdgroup_matrix<T, C, R>>(i, stride, transposed)];
    }
}

template <typename T, int C, int R>
void simdgroup_store(const simdgroup_matrix<T, C, R> & m, T * data, ulong stride = C, msl::origin = 0, bool transposed = false) {
    for (int i = 0; i < 2; ++i) {
        data[simdgroup_offset<simdgroup_matrix<T, C, R>>(i, stride, transposed)] = m.mine[i];
    }
}

// d = a*b + c; summed in float, and rounded to d's type at the end
template <typename TD, typename TA, typename TB, typename TC>
void simdgroup_multiply_accumulate(
        simdgroup_matrix<TD, 8, 8> & d, const simdgroup_matrix<TA, 8, 8> & a,
        const simdgroup_matrix<TB, 8, 8> & b, const simdgroup_matrix<TC, 8, 8> & c) {
    const float brought[4] = { a.mine[0], a.mine[1], b.mine[0], b.mine[1] };
    const void * const * values = msl::exchange(msl::meeting::matrix, brought, sizeof(brought));

    const int row = simdgroup_matrix<TD, 8, 8>::row();
    const int col = simdgroup_matrix<TD, 8, 8>::column();

    float res[2] = { c.mine[0], c.mine[1] };
    for (int k = 0; k < 8; ++k) {
        const float   x = ((const float *) values[4*row + k/2])[k%2];
        const float * y =  (const float *) values[4*k + col/2] + 2;
        res[0] += x*y[0];
        res[1] += x*y[1];
    }
    d.mine[0] = TD(res[0]);
    d.mine[1] = TD(res[1]);
}

} // namespace metal
