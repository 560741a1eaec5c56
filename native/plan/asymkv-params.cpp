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
    p.key_weights     = ASYMKV_KEYS_FISHER;
    p.per_head        = 1;
    p.evict           = 1;
    p.max_cardinality = 0;
    p.decay           = 0.0f;
    p.accumulate      = 0.95f;
    p.seed            = 0;
    p.history         = 0.15f;
    return p;
}

std::string params_problem(const asymkv_params & p) {
    const auto num = [](uint64_t x) { return std::to_string(x); };

    if (p.size != sizeof(asymkv_params)) {
        return "asymkv_params has " + num(p.size) + " bytes, this library expects " + num(sizeof(asymkv_params)) +
            ": header and library are of different versions";
    }
    if (!score_find(p.score)) {
        return "unknown score " + std::to_string(p.score) + ": use one of " + score_names();
    }
    if (p.key_weights < ASYMKV_KEYS_MEAN || p.key_weights > ASYMKV_KEYS_FISHER) {
        return "unknown key weights " + std::to_string(p.key_weights) + ": use mean (0), mass (1), slimmer (2) or fisher (3)";
    }
    if (p.evict < ASYMKV_EVICT_NEVER || p.evict > ASYMKV_EVICT_ONLY) {
        return "unknown evict " + std::to_string(p.evict) + ": use never (0), too (1) or only (2)";
    }
    if (p.evict == ASYMKV_EVICT_NEVER && !score_find(p.score)->merge_cost) {
        return std::string("the score ") + score_find(p.score)->name + " only evicts: leave evict at 1";
    }
    if (p.evict == ASYMKV_EVICT_ONLY && !score_find(p.score)->evict_cost) {
        return std::string("the score ") + score_find(p.score)->name + " cannot evict: leave evict at 1";
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
    if (p.span != 0 && p.span < 2*((uint64_t) p.recent + p.room)) {
        return "a span of " + num(p.span) + " positions is too short for " + num(p.recent) + " recent tokens and batches of " + num(p.room) +
            ": use at least " + num(2*((uint64_t) p.recent + p.room));
    }
    if (!(p.decay == 0.0f || (p.decay >= 1.0f && p.decay <= 16777216.0f))) {
        return "decay has to be 0 (none) or a number of slots, 1 to 16777216";
    }
    if (!(p.accumulate >= 0.0f && p.accumulate <= 1.0f)) {
        return "accumulate has to lie in [0, 1]";
    }
    if (!(p.history >= 0.0f && p.history <= 1000.0f)) {
        return "history has to lie in [0, 1000]";
    }
    if (p.horizon != 0 && p.horizon < p.recent) {
        return "a horizon of " + num(p.horizon) + " tokens is less than the " + num(p.recent) + " recent tokens, which stay: use at least that, or 0 (none)";
    }
    const score_type * score = score_find(p.score);
    if (p.horizon != 0 && (p.evict == ASYMKV_EVICT_NEVER || !score->evict_cost)) {
        return std::string("beyond a horizon slots leave, but ") + (score->evict_cost ? "evict is never (0)" : std::string("the score ") + score->name + " cannot evict") +
            ": use a horizon of 0 (none)";
    }
    return "";
}

// bounds of a group, far beyond any model: within them no sum of single precision overflows, and angles keep their precision
static constexpr uint32_t MAX_COUNT    = 1u << 24;
static constexpr uint64_t MAX_NUMBERS  = 1ull << 36; // in one array
static constexpr float    MAX_NUMBER   = 16777216.0f;
static constexpr float    MAX_SCALE    = 1048576.0f;
static constexpr float    MAX_FREQ     = 1024.0f;
static constexpr float    MAX_MASS     = 1e30f;
static constexpr double   MAX_POSITION = 2147483648.0;

std::string group_problem(const asymkv_group & g) {
    if (g.size != sizeof(asymkv_group)) {
        return "asymkv_group has " + std::to_string(g.size) + " bytes, this library expects " + std::to_string(sizeof(asymkv_group)) +
            ": header and library are of different versions";
    }
    if (g.n_slots == 0 || g.n_heads == 0 || g.head_k == 0 || g.head_v == 0) {
        return "a group needs at least one slot, head and channel";
    }
    for (const uint32_t count : { g.n_slots, g.n_heads, g.n_queries, g.head_k, g.head_v }) {
        if (count > MAX_COUNT) {
            return "a group with " + std::to_string(count) + " slots, heads, queries or channels is too large: use at most " + std::to_string(MAX_COUNT);
        }
    }
    // of each pair of counts the product fits 64 bits, and so do three of them after the first two are known to be few
    const auto too_many = [](uint64_t a, uint64_t b, uint64_t c) { return a*b > MAX_NUMBERS || a*b*c > MAX_NUMBERS; };
    if (too_many(g.n_slots, g.n_heads, g.head_k) || too_many(g.n_slots, g.n_heads, g.head_v) || too_many(g.n_heads, g.n_queries, g.head_k) ||
            too_many(g.n_slots, g.n_heads, g.n_queries)) {
        return "the arrays of a group have more than " + std::to_string(MAX_NUMBERS) + " numbers: one of its counts is wrong";
    }
    if (!(g.scale >= 1.0f/MAX_SCALE && g.scale <= MAX_SCALE)) {
        return "scale has to be a positive number, 2^-20 to 2^20";
    }
    if (!(g.softcap >= 0.0f && g.softcap <= MAX_SCALE)) {
        return "softcap has to be 0 (none) or a positive number, at most 2^20";
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
        if (!(std::fabs(g.positions[i]) <= MAX_POSITION)) {
            return "slot " + std::to_string(i) + " has a position that is not a finite number, at most 2^31 from 0";
        }
        if (!(g.scores[i] >= 0.0f && g.scores[i] <= MAX_MASS)) {
            return "slot " + std::to_string(i) + " has a score that is not a finite number, 0 to 1e30";
        }
        if (i > 0 && g.positions[i] < g.positions[i - 1]) {
            return "positions have to ascend, but slot " + std::to_string(i) + " stands before its left neighbour";
        }
    }
    const auto all_within = [](const float * x, size_t n, float most) {
        for (size_t i = 0; i < n; ++i) {
            if (!(std::fabs(x[i]) <= most)) {
                return false;
            }
        }
        return true;
    };
    if (!all_within(g.rope_freqs, g.n_rot/2, MAX_FREQ)) {
        return "rope_freqs have to be finite numbers, at most 1024 radians per position";
    }
    if (!all_within(g.keys,    (size_t) g.n_slots*g.n_heads*g.head_k,   MAX_NUMBER) ||
        !all_within(g.values,  (size_t) g.n_slots*g.n_heads*g.head_v,   MAX_NUMBER) ||
        !all_within(g.queries, (size_t) g.n_heads*g.n_queries*g.head_k, MAX_NUMBER)) {
        return "keys, values and queries have to be finite numbers, at most 2^24";
    }
    // -infinity: none
    for (size_t x = 0; g.sink_logits && x < (size_t) g.n_heads*g.n_queries; ++x) {
        if (!(g.sink_logits[x] <= MAX_NUMBER && (g.sink_logits[x] >= -MAX_NUMBER || std::isinf(g.sink_logits[x])))) {
            return "sink_logits have to be numbers, at most 2^24 from 0, or -infinity";
        }
    }
    return "";
}

} // namespace asymkv
