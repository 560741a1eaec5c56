#include "llama-asymkv-rope.h"

#include "ggml.h"
#include "ggml-backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>

static float op_param_f32(const ggml_tensor * t, int i) {
    float res;
    memcpy(&res, t->op_params + i, sizeof(res));
    return res;
}

// a pair whose angle follows the fourth component of a position (M-RoPE), which is 0 for all text. the other three are equal
// there, so that the remaining pairs turn as in plain RoPE. ggml_mrope_cache_init decides alike
static bool stands_still(const ggml_tensor * rope, int i) {
    const int mode = rope->op_params[2];
    if (mode != GGML_ROPE_TYPE_MROPE && mode != GGML_ROPE_TYPE_IMROPE) {
        return false;
    }
    const int32_t * sections = rope->op_params + 11;
    const int n_moving = sections[0] + sections[1] + sections[2];
    const int sector   = i % std::max(1, n_moving + sections[3]);
    return mode == GGML_ROPE_TYPE_IMROPE ? sector >= 3*sections[sector % 3] : sector >= n_moving;
}

// radians per position of every rotated pair. the angle is linear in position: ggml's YaRN mixes two linear angles
static std::string rope_freqs(const ggml_tensor * rope, std::vector<float> & freqs) {
    const int   n_dims      = rope->op_params[1];
    const int   n_ctx_orig  = rope->op_params[4];
    const float freq_base   = op_param_f32(rope, 5);
    const float freq_scale  = op_param_f32(rope, 6);
    const float ext_factor  = op_param_f32(rope, 7);
    const float beta_fast   = op_param_f32(rope, 9);
    const float beta_slow   = op_param_f32(rope, 10);

    std::vector<float> factors(n_dims/2, 1.0f);
    if (const ggml_tensor * t = rope->src[2]) {
        if (!t->buffer || !t->data) {
            return ""; // a dry run: the weights are not loaded, and nothing will be merged
        }
        ggml_backend_tensor_get(t, factors.data(), 0, factors.size()*sizeof(float));
    }

    float corr[2];
    ggml_rope_yarn_corr_dims(n_dims, n_ctx_orig, freq_base, beta_fast, beta_slow, corr);

    freqs.resize(n_dims/2);
    for (int i = 0; i < n_dims/2; ++i) {
        const double extrap = std::pow((double) freq_base, -2.0*i/n_dims)/factors[i];
        const double interp = (double) freq_scale*extrap;

        double mix = 0.0;
        if (ext_factor != 0.0f) {
            const double y = (i - corr[0])/std::max(0.001f, corr[1] - corr[0]);
            mix = (1.0 - std::min(1.0, std::max(0.0, y)))*ext_factor;
        }
        freqs[i] = stands_still(rope, i) ? 0.0f : (float) (interp*(1.0 - mix) + extrap*mix);
    }
    return "";
}

std::string llama_asymkv_rope::capture(const ggml_tensor * k_cur) {
    n_rot = 0;
    freqs.clear();

    bool scaled_per_channel = false;
    bool added_to           = false;

    for (const ggml_tensor * t = k_cur; t; ) {
        switch (t->op) {
            case GGML_OP_RESHAPE:
            case GGML_OP_VIEW:
            case GGML_OP_CONT:
            case GGML_OP_PERMUTE:
            case GGML_OP_TRANSPOSE:
            case GGML_OP_DUP:
            case GGML_OP_CPY:
            case GGML_OP_SCALE:
            case GGML_OP_CLAMP:
            case GGML_OP_RMS_NORM: // without its weight it is one factor per head, and commutes with the rotation
            case GGML_OP_L2_NORM:
                t = t->src[0];
                continue;

            case GGML_OP_MUL:
                scaled_per_channel = true;
                t = t->src[0];
                continue;

            case GGML_OP_MUL_MAT:
                if (t->op_params[1] == GGML_HINT_SRC0_IS_HADAMARD) {
                    t = t->src[1]; // undone before keys are moved
                    continue;
                }
                return ""; // the projection: no RoPE in this layer

            case GGML_OP_ROPE:
                {
                    if (scaled_per_channel || added_to) {
                        return "its keys are scaled or shifted channel by channel after RoPE, so that they cannot be moved";
                    }
                    const int mode   = t->op_params[2];
                    const int n_offs = t->op_params[15];
                    const bool is_pairwise = mode == GGML_ROPE_TYPE_NORMAL;
                    const bool is_halved   = mode == GGML_ROPE_TYPE_NEOX || mode == GGML_ROPE_TYPE_MROPE || mode == GGML_ROPE_TYPE_IMROPE;
                    if ((!is_pairwise && !is_halved) || n_offs != 0) {
                        return "its kind of RoPE (mode " + std::to_string(mode) + ", offset " + std::to_string(n_offs) + ") is not supported yet";
                    }
                    n_rot = (uint32_t) t->op_params[1];
                    neox  = is_halved;
                    return rope_freqs(t, freqs);
                }

            case GGML_OP_ADD: // a bias or a low-rank adapter
                added_to = true;
                t = t->src[0];
                continue;

            default:
                return std::string("its keys come out of an operation (") + ggml_op_name(t->op) + ") that cannot be moved";
        }
    }

    return "";
}
