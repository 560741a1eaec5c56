// fuzzes the planner: bytes become parameters and a group, right ones and wrong ones, which go through the checks of the C API
// (asymkv_compress_group) and, where these have no objection, through compress_group. what has to hold afterwards is asserted.
//
//     fuzz-plan [SEED [COUNT]]     COUNT inputs of the seeds from SEED on; a failure names its seed: fuzz-plan SEED 1 repeats it
//
// the same with libFuzzer: clang++ -DASYMKV_LIBFUZZER -fsanitize=fuzzer,address,undefined (scripts/sanitize.sh fuzz)

#include "asymkv-compress.h"
#include "asymkv-params.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

using namespace asymkv;

#define CHECK(x)                                                       \
    do {                                                               \
        if (!(x)) {                                                    \
            fprintf(stderr, "FAIL %s (%s:%d)\n", #x, __FILE__, __LINE__); \
            abort();                                                   \
        }                                                              \
    } while (0)

namespace {

// the input, read from its front; zeros when it has ended
struct reader {
    const uint8_t * data;
    size_t          size;

    uint8_t byte() {
        if (size == 0) {
            return 0;
        }
        --size;
        return *data++;
    }
    uint32_t word() {
        uint32_t x = 0;
        for (int i = 0; i < 4; ++i) {
            x = x << 8 | byte();
        }
        return x;
    }
    uint32_t below(uint32_t n) { return byte() % n; }

    // one in n; never where the input has ended
    bool rarely(uint32_t n) { return below(n) == n - 1; }

    float unit() { return ((float) byte() - 127.5f)/64.0f; }

    // any float at all: its bits, or one of those that break things
    float any_float() {
        static const float odd[] = {
            0.0f, -0.0f, 1.0f, -1.0f, 1e-45f, 1e-38f, 1e-20f, 65504.0f, 1e7f, 1e20f, std::numeric_limits<float>::max(), std::numeric_limits<float>::lowest(),
            std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(),
        };
        const uint32_t which = below(sizeof(odd)/sizeof(odd[0]) + 1);
        if (which < sizeof(odd)/sizeof(odd[0])) {
            return odd[which];
        }
        const uint32_t bits = word();
        float x;
        std::memcpy(&x, &bits, sizeof(x));
        return x;
    }
    uint32_t any_count() {
        static const uint32_t odd[] = { 0, 1, 2, 3, 255, 65536, 1u << 24, (1u << 24) + 1, 1u << 31, 0x7fffffff, UINT32_MAX - 1, UINT32_MAX };
        const uint32_t which = below(sizeof(odd)/sizeof(odd[0]) + 1);
        return which < sizeof(odd)/sizeof(odd[0]) ? odd[which] : word();
    }
};

asymkv_params read_params(reader & in) {
    asymkv_params p = params_default();
    p.score       = in.below(9);
    p.key_weights = in.below(4);
    p.per_head    = in.below(2);
    p.evict       = in.below(3);
    p.observe     = 1 + in.below(64);
    p.room        = 1 + in.below(64);
    p.accumulate  = (float) in.below(21)/20.0f;
    p.history     = in.rarely(4) ? std::min(std::fabs(in.any_float()), 1000.0f) : (float) in.below(21)/20.0f;
    p.decay       = in.rarely(4) ? std::min(std::max(std::fabs(in.any_float()), 1.0f), 16777216.0f) : (float) in.below(4);
    p.seed        = (uint64_t) in.word() << 32 | in.word();
    p.span        = in.below(2) ? 2*(p.recent + p.room) + in.below(256) : 0;
    p.max_cardinality = in.below(2) ? in.any_count() : in.below(8);

    if (in.rarely(16)) { // whatever
        uint32_t * counts[] = { &p.budget, &p.room, &p.sinks, &p.recent, &p.observe, &p.max_cardinality, &p.span };
        float    * floats[] = { &p.decay, &p.accumulate, &p.history };
        int32_t  * names [] = { &p.score, &p.key_weights, &p.per_head, &p.evict };
        *counts[in.below(7)] = in.any_count();
        *floats[in.below(3)] = in.any_float();
        if (in.below(2)) {
            *names[in.below(4)] = (int32_t) in.any_count();
        }
        p.size = in.rarely(8) ? in.any_count() : p.size;
    }
    return p;
}

// a group whose arrays live as long as it does. every array has exactly the size that the counts say, so that
// AddressSanitizer sees what is read beyond it
struct fuzz_group {
    std::vector<float>    keys, values, queries, scores, freqs, sinks;
    std::vector<int32_t>  query_positions;
    std::vector<double>   positions;
    std::vector<uint32_t> cards;
    std::vector<uint8_t>  is_protected;
    std::vector<uint8_t>  is_expired;

    asymkv_group group = {};

    explicit fuzz_group(reader & in) {
        asymkv_group & g = group;
        g.size      = sizeof(g);
        g.n_slots   = 1 + in.below(in.rarely(8) ? 200 : 40); // more than a block of 64, too
        g.n_heads   = 1 + in.below(3);
        g.n_queries = in.below(in.rarely(8) ? 70 : 12);
        g.head_k    = 1 + in.below(20);
        g.head_v    = 1 + in.below(20);
        g.n_rot     = 2*in.below(g.head_k/2 + 1);
        g.rope_neox = in.below(2);
        g.scale     = 0.05f + 0.01f*in.below(100);
        g.softcap   = in.rarely(4) ? 1.0f + in.below(50) : 0.0f;

        read_floats(in, keys,    (size_t) g.n_slots*g.n_heads*g.head_k);
        read_floats(in, values,  (size_t) g.n_slots*g.n_heads*g.head_v);
        read_floats(in, queries, (size_t) g.n_heads*g.n_queries*g.head_k);

        const bool large_cards = in.rarely(4);
        const bool islands     = in.rarely(4);
        const uint32_t n_first = in.below(4);
        const uint32_t n_last  = in.below(8);

        double position = in.rarely(8) ? -1.0*in.below(200) : in.below(8);
        for (uint32_t i = 0; i < g.n_slots; ++i) {
            position += in.rarely(16) ? in.below(256)*(in.rarely(8) ? 100000.0 : 1.0) : 0.25*in.below(8);
            positions   .push_back(position);
            cards       .push_back(large_cards ? std::max(in.any_count(), 1u) : 1 + in.below(5));
            scores      .push_back(0.1f*in.below(100));
            is_protected.push_back(i < n_first || i + n_last >= g.n_slots || (islands && in.rarely(4)) ? 1 + in.below(255) : 0);
            is_expired  .push_back(in.below(8) == 0);
        }
        for (uint32_t r = 0; r < g.n_queries; ++r) { // some see nothing, some all
            query_positions.push_back(in.rarely(8) ? (int32_t) in.any_count() : (int32_t) position + (int32_t) in.below(16) - 8);
        }
        for (uint32_t t = 0; t < g.n_rot/2; ++t) {
            freqs.push_back(std::pow(10000.0f, -2.0f*t/g.n_rot));
        }

        if (in.rarely(3)) {
            read_floats(in, sinks, (size_t) g.n_heads*g.n_queries);
            if (!sinks.empty() && in.rarely(4)) {
                sinks[in.below((uint32_t) sinks.size())] = -INFINITY;
            }
        }

        for (uint32_t n = in.rarely(3) ? 1 + in.below(3) : 0; n > 0; --n) {
            spoil(in);
        }

        g.keys            = keys.data();
        g.values          = values.data();
        g.queries         = queries.data();
        g.query_positions = query_positions.data();
        g.positions       = positions.data();
        g.cardinalities   = cards.data();
        g.scores          = scores.data();
        g.is_protected    = is_protected.data();
        g.rope_freqs      = freqs.data();
        g.is_expired      = in.below(2) ? is_expired.data() : nullptr;
        g.sink_logits     = sinks.empty() ? nullptr : sinks.data();

        if (in.rarely(32)) { // a missing array
            const void ** const arrays[] = {
                (const void **) &g.keys, (const void **) &g.values, (const void **) &g.queries, (const void **) &g.query_positions, (const void **) &g.positions,
                (const void **) &g.cardinalities, (const void **) &g.scores, (const void **) &g.is_protected, (const void **) &g.rope_freqs,
            };
            *arrays[in.below(9)] = nullptr;
        }
    }

    static void read_floats(reader & in, std::vector<float> & x, size_t n) {
        const bool  same  = in.rarely(8); // ties
        const float large = in.rarely(8) ? std::pow(10.0f, (float) in.below(10) - 2.0f) : 1.0f;
        const float first = in.unit();

        x.resize(n);
        for (float & v : x) {
            v = large*(same ? first : in.unit());
        }
    }

    // one thing that may be wrong. counts that are wrong are so large that no array can have them: what an array holds
    // in truth is not to be seen from a pointer
    void spoil(reader & in) {
        static const uint32_t wrong[] = { 0, 1u << 30, 1u << 31, UINT32_MAX - 1, UINT32_MAX };

        std::vector<float> * const arrays[] = { &keys, &values, &queries, &scores, &freqs, &sinks };
        const uint32_t i = in.word();

        switch (in.below(13)) {
            case 0: case 1: case 2: case 3: case 4:
                {
                    auto & x = *arrays[in.below(6)];
                    if (!x.empty()) {
                        x[i % x.size()] = in.any_float();
                    }
                } break;
            case 5:  group.scale   = in.any_float(); break;
            case 6:  group.softcap = in.any_float(); break;
            case 7:  positions[i % positions.size()] = in.rarely(2) ? in.any_float() : 1e300*in.unit(); break;
            case 8:  cards[i % cards.size()] = in.any_count(); break;
            case 9:  group.n_rot = in.any_count() | 1; break;
            case 10:
                {
                    uint32_t * const counts[] = { &group.n_slots, &group.n_heads, &group.head_k, &group.head_v, &group.n_queries };
                    const uint32_t which = in.below(5);
                    *counts[which] = wrong[which < 4 ? in.below(5) : 1 + in.below(4)];
                } break;
            case 11: group.size = in.any_count(); break;
            default: scores[i % scores.size()] = -1.0f; break;
        }
    }
};

bool is_sentence(const std::string & s) {
    return s.size() > 10 && s.size() < 400 && s.find('\n') == std::string::npos;
}

bool all_finite(const std::vector<float> & x) {
    for (const float v : x) {
        if (!std::isfinite(v)) {
            return false;
        }
    }
    return true;
}

uint64_t n_planned = 0;
uint64_t n_refused = 0;

void check_compressed(const asymkv_params & p, const fuzz_group & fg, uint32_t n_keep, const group_compression & comp) {
    const auto & g    = fg.group;
    const auto & st   = comp.state;
    const auto & plan = comp.plan;

    const size_t n_left = std::min(n_keep, g.n_slots);

    CHECK(plan.kept.size() == n_left);
    CHECK(plan.ops.size() == g.n_slots - n_left);
    CHECK(plan.n_merges + plan.n_evictions == plan.ops.size());
    CHECK(p.evict != ASYMKV_EVICT_NEVER || plan.n_evictions == 0);
    CHECK(p.evict != ASYMKV_EVICT_ONLY  || plan.n_merges    == 0);
    for (const auto & op : plan.ops) {
        CHECK(!std::isnan(op.cost));
        CHECK(op.i < g.n_slots && (op.j == NO_SLOT || (op.j > op.i && op.j < g.n_slots)));
    }

    uint64_t n_before = 0, n_after = plan.n_lost;
    for (const uint32_t c : fg.cards) {
        n_before += c;
    }
    for (size_t s = 0; s < plan.kept.size(); ++s) {
        const uint32_t i = plan.kept[s];
        CHECK(st.live[i]);
        CHECK(st.cards[i] > 0);
        CHECK(std::isfinite(st.positions[i]) && std::isfinite(st.scores[i]) && st.scores[i] >= 0.0);
        if (s > 0) {
            CHECK(plan.kept[s - 1] < i);
            CHECK(st.positions[plan.kept[s - 1]] <= st.positions[i]);
        }
        n_after += st.cards[i];
    }
    CHECK(n_before == n_after);

    CHECK(all_finite(st.keys));
    CHECK(all_finite(st.values));

    for (uint32_t i = 0; i < g.n_slots; ++i) {
        if (!fg.is_protected[i]) {
            continue;
        }
        CHECK(st.live[i] && st.cards[i] == fg.cards[i]);
        CHECK(comp.moved || st.positions[i] == fg.positions[i]);
        for (size_t c = (size_t) i*g.n_heads*g.head_v; c < (size_t) (i + 1)*g.n_heads*g.head_v; ++c) {
            CHECK(st.values[c] == fg.values[c]);
        }
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    static group_compression comp; // used again, as the cache does

    reader in { data, size };

    const asymkv_params p = read_params(in);
    std::string problem = params_problem(p);
    if (!problem.empty()) {
        CHECK(is_sentence(problem));
        ++n_refused;
        return 0;
    }
    const uint32_t   keep = in.byte();
    const bool       any  = in.rarely(16);
    const fuzz_group fg(in);

    problem = group_problem(fg.group);
    if (!problem.empty()) {
        CHECK(is_sentence(problem));
        ++n_refused;
        return 0;
    }
    const uint32_t n_keep = any ? in.any_count() : 1 + keep % fg.group.n_slots;

    try {
        compress_group(p, fg.group, n_keep, comp);
    } catch (const std::invalid_argument & err) { // too many are protected
        CHECK(is_sentence(err.what()));
        ++n_refused;
        return 0;
    }
    check_compressed(p, fg, n_keep, comp);
    ++n_planned;
    return 0;
}

#ifndef ASYMKV_LIBFUZZER

static uint64_t running = 0;

#include <csignal>

static void name_seed(int) {
    fprintf(stderr, "while running: fuzz-plan %llu 1\n", (unsigned long long) running);
    signal(SIGABRT, SIG_DFL);
    abort();
}

int main(int argc, char ** argv) {
    const uint64_t seed  = argc > 1 ? strtoull(argv[1], nullptr, 10) : 1;
    const uint64_t count = argc > 2 ? strtoull(argv[2], nullptr, 10) : 2000;

    signal(SIGABRT, name_seed); // of CHECK, and of the sanitizers with abort_on_error=1

    std::vector<uint8_t> data(1 << 15);
    for (running = seed; running < seed + count; ++running) {
        std::mt19937_64 rng(running);
        for (size_t i = 0; i < data.size(); i += 8) {
            const uint64_t x = rng();
            std::memcpy(data.data() + i, &x, 8);
        }
        LLVMFuzzerTestOneInput(data.data(), data.size());
    }
    printf("ok fuzz-plan: %llu planned, %llu refused\n", (unsigned long long) n_planned, (unsigned long long) n_refused);

    // an input that is always refused, or never, tests nothing
    return count < 1000 || (n_planned > count/4 && n_refused > count/20) ? 0 : 1;
}

#endif
