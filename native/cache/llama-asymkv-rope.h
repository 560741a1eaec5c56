#pragma once

#include <string>
#include <vector>

struct ggml_tensor;

// how the keys of one layer were rotated, read from the layer's own graph: right for every architecture, without a table
struct llama_asymkv_rope {
    uint32_t n_rot = 0;       // rotated channels; 0: the layer has no RoPE
    bool     neox  = false;
    std::vector<float> freqs; // [n_rot/2] radians per position

    // walks from the stored keys back to their ROPE node. returns one sentence if the keys cannot be moved, else empty
    std::string capture(const ggml_tensor * k_cur);
};
