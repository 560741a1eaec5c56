#pragma once

#include "ggml.h"

#include <cstdint>

namespace asymkv {

// rows of a cache as floats, and back

void rows_to_float  (ggml_type type, const uint8_t * src, float * dst, int64_t n);
void rows_from_float(ggml_type type, const float * src, uint8_t * dst, int64_t n);

// orthonormal Walsh-Hadamard transform of each block of n channels; its own inverse
void hadamard(float * x, uint32_t n_channels, uint32_t n);

} // namespace asymkv
