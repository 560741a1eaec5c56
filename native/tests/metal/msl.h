#pragma once

// the part of the Metal Shading Language that ggml's kernels use, as C++17: so that they compile with any compiler and run
// on the CPU. Types here, what threads do together in msl-simd.h. docs/metal.md says what this cannot prove

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

typedef unsigned char  uchar;
typedef unsigned short ushort;
typedef unsigned int   uint;
typedef unsigned long  ulong;

namespace metal {

template <typename T, typename U> struct is_same : std::is_same<T, U> {};

using std::enable_if_t;

typedef _Float16 half;

inline half operator""h(long double value) { return (half) value; }

template <typename T> struct is_scalar : std::is_arithmetic<T> {};
template <> struct is_scalar<half> : std::true_type {};

// of a vector's element and a scalar; a literal takes the vector's type
template <typename T, typename U> struct common { typedef decltype(T{} + U{}) type; };
template <typename T> struct common<T, double>  { typedef T type; };
template <typename T> struct common<double, T>  { typedef T type; };

//
// vectors
//

template <typename T, int N> struct elements;
template <typename T> struct elements<T, 2> { T x, y; };
template <typename T> struct elements<T, 3> { T x, y, z; };
template <typename T> struct elements<T, 4> { T x, y, z, w; };

template <typename T, int N> struct vec : elements<T, N> {
    vec() = default;

    template <typename S, typename = enable_if_t<is_scalar<S>::value>>
    vec(S value) {
        for (int i = 0; i < N; ++i) {
            (*this)[i] = T(value);
        }
    }

    template <typename... S, typename = enable_if_t<sizeof...(S) == N && N != 1>>
    vec(S... values) {
        const T list[N] = { T(values)... };
        for (int i = 0; i < N; ++i) {
            (*this)[i] = list[i];
        }
    }

    template <typename U>
    explicit vec(const vec<U, N> & other) {
        for (int i = 0; i < N; ++i) {
            (*this)[i] = T(other[i]);
        }
    }

    T       & operator[](int i)       { return (&this->x)[i]; }
    const T & operator[](int i) const { return (&this->x)[i]; }
};

template <typename V> struct vec_size { static constexpr int value = 0; };
template <typename T, int N> struct vec_size<vec<T, N>> { static constexpr int value = N; };

#define MSL_VEC_OPERATOR(op) \
    template <typename T, int N> vec<T, N> operator op(const vec<T, N> & a, const vec<T, N> & b) { \
        vec<T, N> res; \
        for (int i = 0; i < N; ++i) { res[i] = T(a[i] op b[i]); } \
        return res; \
    } \
    template <typename T, int N, typename S, typename = enable_if_t<is_scalar<S>::value>> \
    vec<typename common<T, S>::type, N> operator op(const vec<T, N> & a, S b) { \
        vec<typename common<T, S>::type, N> res; \
        for (int i = 0; i < N; ++i) { res[i] = typename common<T, S>::type(a[i] op b); } \
        return res; \
    } \
    template <typename T, int N, typename S, typename = enable_if_t<is_scalar<S>::value>> \
    vec<typename common<T, S>::type, N> operator op(S a, const vec<T, N> & b) { \
        vec<typename common<T, S>::type, N> res; \
        for (int i = 0; i < N; ++i) { res[i] = typename common<T, S>::type(a op b[i]); } \
        return res; \
    } \
    template <typename T, int N, typename S> vec<T, N> & operator op##=(vec<T, N> & a, const S & b) { \
        return a = vec<T, N>(a op b); \
    }

MSL_VEC_OPERATOR(+)
MSL_VEC_OPERATOR(-)
MSL_VEC_OPERATOR(*)
MSL_VEC_OPERATOR(/)

#undef MSL_VEC_OPERATOR

#define MSL_VEC_TYPES(T) \
    typedef vec<T, 2> T##2; \
    typedef vec<T, 3> T##3; \
    typedef vec<T, 4> T##4;

MSL_VEC_TYPES(half)
MSL_VEC_TYPES(float)
MSL_VEC_TYPES(char)
MSL_VEC_TYPES(uchar)
MSL_VEC_TYPES(short)
MSL_VEC_TYPES(ushort)
MSL_VEC_TYPES(int)
MSL_VEC_TYPES(uint)

#undef MSL_VEC_TYPES

typedef vec<char, 4>  packed_char4;
typedef vec<uchar, 4> packed_uchar4;

template <typename T, int C, int R> struct matrix {
    vec<T, R> columns[C];

    matrix() = default;

    template <typename U>
    explicit matrix(const matrix<U, C, R> & other) {
        for (int i = 0; i < C; ++i) {
            columns[i] = vec<T, R>(other[i]);
        }
    }

    vec<T, R>       & operator[](int i)       { return columns[i]; }
    const vec<T, R> & operator[](int i) const { return columns[i]; }
};

typedef matrix<half,  4, 4> half4x4;
typedef matrix<float, 4, 4> float4x4;
typedef matrix<half,  2, 4> half2x4;
typedef matrix<float, 2, 4> float2x4;

//
// functions of scalars, and of vectors element by element
//

template <typename T, typename U> T as_type(U value) {
    static_assert(sizeof(T) == sizeof(U), "as_type keeps the size");
    T res;
    memcpy(&res, &value, sizeof(res));
    return res;
}

#define MSL_FUNCTION_1(name) \
    inline float name(float x) { return std::name(x); } \
    inline half  name(half x)  { return (half) std::name((float) x); } \
    template <typename T, int N> vec<T, N> name(const vec<T, N> & x) { \
        vec<T, N> res; \
        for (int i = 0; i < N; ++i) { res[i] = T(std::name((float) x[i])); } \
        return res; \
    }

MSL_FUNCTION_1(exp)
MSL_FUNCTION_1(log)
MSL_FUNCTION_1(sqrt)
MSL_FUNCTION_1(sin)
MSL_FUNCTION_1(cos)
MSL_FUNCTION_1(tanh)
MSL_FUNCTION_1(fabs)
MSL_FUNCTION_1(rint)
MSL_FUNCTION_1(round)
MSL_FUNCTION_1(floor)
MSL_FUNCTION_1(ceil)

namespace precise { MSL_FUNCTION_1(tanh) MSL_FUNCTION_1(exp) MSL_FUNCTION_1(sqrt) MSL_FUNCTION_1(log) MSL_FUNCTION_1(sin) MSL_FUNCTION_1(cos) }

#undef MSL_FUNCTION_1

inline float pow(float x, float y)          { return std::pow(x, y); }
inline float fma(float a, float b, float c) { return std::fma(a, b, c); }
inline bool  isfinite(float x)              { return std::isfinite(x); }
inline bool  isinf(float x)                 { return std::isinf(x); }
inline bool  isnan(float x)                 { return std::isnan(x); }
inline float sign(float x)                  { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f; }

template <typename T> enable_if_t<is_scalar<T>::value, T> min(T a, T b) { return b < a ? b : a; }
template <typename T> enable_if_t<is_scalar<T>::value, T> max(T a, T b) { return a < b ? b : a; }
template <typename T> T clamp(T x, T lo, T hi)                          { return min(max(x, lo), hi); }
template <typename T> T select(T a, T b, bool c)                        { return c ? b : a; }

#define MSL_FUNCTION_2(name, scalar) \
    template <typename T, int N> vec<T, N> name(const vec<T, N> & a, const vec<T, N> & b) { \
        vec<T, N> res; \
        for (int i = 0; i < N; ++i) { res[i] = scalar(a[i], b[i]); } \
        return res; \
    }

MSL_FUNCTION_2(min,  min)
MSL_FUNCTION_2(max,  max)
MSL_FUNCTION_2(fmin, min)
MSL_FUNCTION_2(fmax, max)

#undef MSL_FUNCTION_2

inline float fmin(float a, float b) { return std::fmin(a, b); }
inline float fmax(float a, float b) { return std::fmax(a, b); }

template <typename T, int N> T dot(const vec<T, N> & a, const vec<T, N> & b) {
    T res = 0;
    for (int i = 0; i < N; ++i) {
        res += a[i]*b[i];
    }
    return res;
}

} // namespace metal

#define MAXHALF ((_Float16) 65504.0f)

// keywords in Metal, outside of its namespace, too
using metal::as_type;

#include "msl-simd.h"
