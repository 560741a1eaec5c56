#pragma once

// the words that C++14, CUDA C++ and the Metal Shading Language have for the same things. The kernels of compression are
// written once in their common subset (asymkv-dev-*.h), and compiled by nvcc, by Metal, and by any C++ compiler against
// asymkv-dev-shim.h, which runs a block's threads as fibers.
//
//   AKV_FUNC     in front of a device function
//   AKV_GLOBAL   a pointer to memory of the device       AKV_LOCAL   to memory that a block of threads shares
//   AKV_PARAMS   a reference to the parameters           AKV_BARRIER all threads of the block meet, and see each other's writes
//
// no double, no infinities and no NaNs: Metal has not the first, and fast mathematics not the others

#if defined(__METAL_VERSION__)

#include <metal_stdlib>

#define thread thread_ // akv_place's; a keyword here, which the kernels do not need

#define AKV_FUNC      static inline
#define AKV_SHARED    static inline // for the host, too
#define AKV_GLOBAL    device
#define AKV_LOCAL     threadgroup
#define AKV_PARAMS    constant akv_params &
#define AKV_BARRIER() metal::threadgroup_barrier(metal::mem_flags::mem_device | metal::mem_flags::mem_threadgroup)

AKV_FUNC float akv_exp  (float x)          { return metal::precise::exp(x); }
AKV_FUNC float akv_log  (float x)          { return metal::precise::log(x); }
AKV_FUNC float akv_sqrt (float x)          { return metal::precise::sqrt(x); }
AKV_FUNC float akv_tanh (float x)          { return metal::precise::tanh(x); }
AKV_FUNC float akv_cos  (float x)          { return metal::precise::cos(x); }
AKV_FUNC float akv_sin  (float x)          { return metal::precise::sin(x); }
AKV_FUNC float akv_abs  (float x)          { return metal::fabs(x); }
AKV_FUNC float akv_floor(float x)          { return metal::floor(x); }
AKV_FUNC float akv_round(float x)          { return metal::round(x); }
AKV_FUNC float akv_fma  (float x, float y, float z) { return metal::fma(x, y, z); }

AKV_FUNC float    akv_from_bits(uint32_t x) { return as_type<float>(x); }
AKV_FUNC uint32_t akv_to_bits  (float x)    { return as_type<uint32_t>(x); }
AKV_FUNC float    akv_from_half(uint16_t x) { return (float) as_type<half>(x); }
AKV_FUNC uint16_t akv_to_half  (float x)    { return as_type<uint16_t>((half) x); }

#elif defined(__CUDACC__) || defined(__HIPCC__)

#include <cuda_fp16.h>
#include <stdint.h>

#define AKV_FUNC      static __device__ __forceinline__
#define AKV_SHARED    static __host__ __device__ __forceinline__
#define AKV_GLOBAL
#define AKV_LOCAL
#define AKV_PARAMS    const akv_params &
#define AKV_BARRIER() __syncthreads()

AKV_FUNC float akv_exp  (float x)          { return expf(x); }
AKV_FUNC float akv_log  (float x)          { return logf(x); }
AKV_FUNC float akv_sqrt (float x)          { return sqrtf(x); }
// ggml-cuda is built with fast mathematics, whose cosf, sinf and tanhf are too coarse
AKV_FUNC float akv_cos  (float x)          { return cospif(x*0.318309886f); }
AKV_FUNC float akv_sin  (float x)          { return sinpif(x*0.318309886f); }
AKV_FUNC float akv_abs  (float x)          { return fabsf(x); }
AKV_FUNC float akv_floor(float x)          { return floorf(x); }
AKV_FUNC float akv_round(float x)          { return roundf(x); }
AKV_FUNC float akv_fma  (float x, float y, float z) { return fmaf(x, y, z); }

AKV_FUNC float akv_tanh(float x) {
    const float e = expf(-2.0f*fabsf(x));
    return copysignf((1.0f - e)/(1.0f + e), x);
}

AKV_FUNC float    akv_from_bits(uint32_t x) { return __uint_as_float(x); }
AKV_FUNC uint32_t akv_to_bits  (float x)    { return __float_as_uint(x); }
AKV_FUNC float    akv_from_half(uint16_t x) { return __half2float(__ushort_as_half(x)); }
AKV_FUNC uint16_t akv_to_half  (float x)    { return __half_as_ushort(__float2half_rn(x)); }

#else

#include <cmath>
#include <cstdint>
#include <cstring>

#define AKV_FUNC      static inline
#define AKV_SHARED    static inline
#define AKV_GLOBAL
#define AKV_LOCAL
#define AKV_PARAMS    const akv_params &
#define AKV_BARRIER() akv_shim_barrier()

void akv_shim_barrier(); // asymkv-dev-shim.h

AKV_FUNC float akv_exp  (float x)          { return std::exp(x); }
AKV_FUNC float akv_log  (float x)          { return std::log(x); }
AKV_FUNC float akv_sqrt (float x)          { return std::sqrt(x); }
AKV_FUNC float akv_tanh (float x)          { return std::tanh(x); }
AKV_FUNC float akv_cos  (float x)          { return std::cos(x); }
AKV_FUNC float akv_sin  (float x)          { return std::sin(x); }
AKV_FUNC float akv_abs  (float x)          { return std::fabs(x); }
AKV_FUNC float akv_floor(float x)          { return std::floor(x); }
AKV_FUNC float akv_round(float x)          { return std::round(x); }
AKV_FUNC float akv_fma  (float x, float y, float z) { return std::fma(x, y, z); }

AKV_FUNC float akv_from_bits(uint32_t x) {
    float y;
    std::memcpy(&y, &x, sizeof(y));
    return y;
}

AKV_FUNC uint32_t akv_to_bits(float x) {
    uint32_t y;
    std::memcpy(&y, &x, sizeof(y));
    return y;
}

// IEEE half precision: both exact up to the rounding to nearest even

AKV_FUNC float akv_from_half(uint16_t x) {
    const uint32_t sign = (x & 0x8000u) << 16;
    const float    size = akv_from_bits((x & 0x7fffu) << 13)*akv_from_bits(0x77800000u); // 2^112: the exponents' biases differ
    return akv_from_bits(sign | akv_to_bits(size) | ((x & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u));
}

AKV_FUNC uint16_t akv_to_half(float x) {
    const uint32_t bits = akv_to_bits(x);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t size = bits & 0x7fffffffu;

    if (size > 0x7f800000u) {
        return (uint16_t) (sign | 0x7e00u);
    }
    if (size >= 0x477ff000u) { // 65520, and more
        return (uint16_t) (sign | 0x7c00u);
    }
    if (size < 0x38800000u) { // below 2^-14: a multiple of 2^-24, which adding 0.5 rounds to
        return (uint16_t) (sign | (akv_to_bits(akv_from_bits(size) + 0.5f) - 0x3f000000u));
    }
    return (uint16_t) (sign | ((size - 0x38000000u + 0x0fffu + ((size >> 13) & 1u)) >> 13));
}

#endif
