#pragma once

#include <cstdint>

namespace asymkv {

// one step of splitmix64, as a number in [0, 1)
inline double hash_uniform(uint64_t x) {
    x += 0x9E3779B97F4A7C15ull;
    x  = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x  = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    x ^= x >> 31;
    return (double) (x >> 11) * 0x1.0p-53;
}

} // namespace asymkv
