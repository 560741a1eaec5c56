#pragma once

#include <cstdint>
#include <cstring>

// small vector kernels of the planner. they are written so that compilers vectorize them without relaxed floating-point
// rules: every loop runs over independent lanes, none is a reduction.

// libllama is built for the oldest CPU of its platform; these functions are compiled again for newer ones
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#    define ASYMKV_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#    define ASYMKV_CLONES
#endif

// what those functions call has to be compiled with them
#if defined(__GNUC__)
#    define ASYMKV_INLINE        inline __attribute__((always_inline))
#    define ASYMKV_INLINE_LAMBDA __attribute__((always_inline))
#else
#    define ASYMKV_INLINE        inline
#    define ASYMKV_INLINE_LAMBDA
#endif

namespace asymkv {

// e^x to about 1 ulp for x in [-700, 700], clamped outside. branch-free, so that loops over it vectorize
ASYMKV_INLINE double fast_exp(double x) {
    x = x < -700.0 ? -700.0 : x;
    x = x >  700.0 ?  700.0 : x;

    // x = k ln 2 + r, |r| <= ln 2 / 2; adding 1.5 * 2^52 rounds to the nearest integer and leaves it in the low bits
    const double magic  = 6755399441055744.0;
    const double k_bits = x * 1.4426950408889634074 + magic;
    const double k      = k_bits - magic;
    const double r      = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10;

    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;

    int64_t k_int;
    std::memcpy(&k_int, &k_bits, sizeof(k_int));

    const int64_t scale_bits = (int64_t) ((uint64_t) (k_int + 1023) << 52);

    double scale;
    std::memcpy(&scale, &scale_bits, sizeof(scale));

    return p * scale;
}

// one step of splitmix64, as a number in [0, 1)
inline double hash_uniform(uint64_t x) {
    x += 0x9E3779B97F4A7C15ull;
    x  = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x  = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    x ^= x >> 31;
    return (double) (x >> 11) * 0x1.0p-53;
}

inline double dot(const float * x, const float * y, uint32_t n) {
    double lanes[8] = { 0 };
    uint32_t c = 0;
    for (; c + 8 <= n; c += 8) {
        for (uint32_t t = 0; t < 8; ++t) {
            lanes[t] += (double) x[c + t] * y[c + t];
        }
    }
    double sum = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
    for (; c < n; ++c) {
        sum += (double) x[c] * y[c];
    }
    return sum;
}

} // namespace asymkv
