#pragma once

#include <cstdint>
#include <vector>

namespace asymkv {

// moves keys by `delta` positions, in place. RoPE's angle is linear in position (NORM, NEOX, partial, YaRN, frequency
// factors), so a key that was rotated to p and is moved by delta stands at p + delta exactly.
//   x      [n_heads][head_k]
//   freqs  [n_rot/2] radians per position; channels from n_rot on stay
//   neox   channel c pairs with c + n_rot/2; else 2c with 2c + 1
void rope_move(float * x, uint32_t n_heads, uint32_t head_k, double delta, const float * freqs, uint32_t n_rot, bool neox, std::vector<float> & scratch);

} // namespace asymkv
