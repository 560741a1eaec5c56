#include "asymkv-params.h"

#include "asymkv-score.h"

#include <cmath>

namespace asymkv {

asymkv_params params_default() {
    asymkv_params p = {};
    p.size            = sizeof(asymkv_params);
    p.budget          = 2048;
    p.room            = 512;
    p.sinks           = 4;
    p.recent          = 64;
    p.observe         = 32;
    p.score           = ASYMKV_SCORE_EXACT;
    p.key_weights     = ASYMKV_KEYS_MASS;
    p.per_head        = 1;
    p.evict           = 1;
    p.max_cardinality = 0;
    p.decay           = 0.0f;
    p.accumulate      = 1.0f;
    p.seed            = 0;
    return p;
}

std::string params_problem(const asymkv_params & p) {
    const auto num = [](uint64_t x) { return std::to_string(x); };

    if (p.size != sizeof(asymkv_params)) {
        return "asymkv_params has " + num(p.size) + " bytes, this library expects " + num(sizeof(asymkv_params)) +
            ": header and library are of different versions";
    }
    if (!score_find(p.score)) {
        return "unknown score " + std::to_string(p.score) + ": use mass (0), output (1), exact (2) or random (3)";
    }
    if (p.key_weights < ASYMKV_KEYS_MEAN || p.key_weights > ASYMKV_KEYS_FISHER) {
        return "unknown key weights " + std::to_string(p.key_weights) + ": use mean (0), mass (1), slimmer (2) or fisher (3)";
    }
    if (p.budget == 0 || p.budget > (1u << 24)) {
        return "a budget of " + num(p.budget) + " slots is out of range: use 1 to 16777216";
    }
    if (p.room == 0 || p.room > (1u << 24)) {
        return "a room of " + num(p.room) + " slots is out of range: use the longest batch";
    }
    if ((uint64_t) p.sinks + p.recent + 1 > p.budget) {
        return "a budget of " + num(p.budget) + " slots is too small for " + num(p.sinks) + " sinks and " + num(p.recent) +
            " recent tokens: use at least " + num((uint64_t) p.sinks + p.recent + 1);
    }
    if (p.observe > p.recent) {
        return "observe = " + num(p.observe) + " is more than the " + num(p.recent) +
            " recent tokens: queries can only judge slots that they all see; raise recent or lower observe";
    }
    if (p.observe == 0 && p.score != ASYMKV_SCORE_RANDOM) {
        return "observe = 0 leaves nothing to score with: use at least 1";
    }
    if (!(p.decay >= 0.0f) || !std::isfinite(p.decay)) {
        return "decay has to be a finite number of slots, 0 (none) or more";
    }
    if (!(p.accumulate >= 0.0f && p.accumulate <= 1.0f)) {
        return "accumulate has to lie in [0, 1]";
    }
    return "";
}

std::string group_problem(const asymkv_group & g) {
    if (g.size != sizeof(asymkv_group)) {
        return "asymkv_group has " + std::to_string(g.size) + " bytes, this library expects " + std::to_string(sizeof(asymkv_group)) +
            ": header and library are of different versions";
    }
    if (g.n_slots == 0 || g.n_heads == 0 || g.head_k == 0 || g.head_v == 0) {
        return "a group needs at least one slot, head and channel";
    }
    if (g.n_rot % 2 != 0 || g.n_rot > g.head_k) {
        return "n_rot = " + std::to_string(g.n_rot) + " has to be even and at most head_k = " + std::to_string(g.head_k);
    }
    if (!g.keys || !g.values || !g.positions || !g.cardinalities || !g.scores || !g.is_protected || (g.n_rot > 0 && !g.rope_freqs) ||
            (g.n_queries > 0 && (!g.queries || !g.query_positions))) {
        return "an array of the group is missing";
    }
    for (uint32_t i = 0; i < g.n_slots; ++i) {
        if (g.cardinalities[i] == 0) {
            return "slot " + std::to_string(i) + " has cardinality 0: a slot stands for at least one token";
        }
        if (!std::isfinite(g.positions[i]) || !std::isfinite(g.scores[i])) {
            return "slot " + std::to_string(i) + " has a position or a score that is not a finite number";
        }
        if (i > 0 && g.positions[i] < g.positions[i - 1]) {
            return "positions have to ascend, but slot " + std::to_string(i) + " stands before its left neighbour";
        }
    }
    const auto all_finite = [](const float * x, size_t n) {
        for (size_t i = 0; i < n; ++i) {
            if (!std::isfinite(x[i])) {
                return false;
            }
        }
        return true;
    };
    if (!all_finite(g.keys,    (size_t) g.n_slots*g.n_heads*g.head_k) ||
        !all_finite(g.values,  (size_t) g.n_slots*g.n_heads*g.head_v) ||
        !all_finite(g.queries, (size_t) g.n_heads*g.n_queries*g.head_k)) {
        return "keys, values and queries have to be finite numbers";
    }
    return "";
}

} // namespace asymkv
