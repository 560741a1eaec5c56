// unit tests of the planner: no ggml, no model. prints one line per property, exits 1 at the first that fails

#include "asymkv-compress.h"
#include "asymkv-params.h"
#include "asymkv-rope.h"
#include "asymkv-score.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

using namespace asymkv;

static const char * current = "";

#define CHECK(x)                                                                        \
    do {                                                                                \
        if (!(x)) {                                                                     \
            fprintf(stderr, "FAIL %s: %s (%s:%d)\n", current, #x, __FILE__, __LINE__);  \
            exit(1);                                                                    \
        }                                                                               \
    } while (0)

// a random group whose arrays live as long as it does
struct random_group {
    std::vector<float>    keys, values, queries, scores, freqs;
    std::vector<int32_t>  query_positions;
    std::vector<double>   positions;
    std::vector<uint32_t> cards;
    std::vector<uint8_t>  is_protected;

    asymkv_group group = {};

    random_group(uint32_t n, uint32_t n_heads, uint32_t n_queries, uint32_t n_sinks, uint32_t n_recent, uint32_t seed) {
        std::mt19937 rng(seed);
        std::normal_distribution<float> normal;

        const uint32_t d = 32;

        const auto fill = [&](std::vector<float> & x, size_t size) {
            x.resize(size);
            for (auto & v : x) {
                v = normal(rng);
            }
        };
        fill(keys,    (size_t) n*n_heads*d);
        fill(values,  (size_t) n*n_heads*d);
        fill(queries, (size_t) n_heads*n_queries*d);
        scores.assign(n, 0.0f);
        freqs.resize(d/2);
        for (uint32_t t = 0; t < d/2; ++t) {
            freqs[t] = std::pow(10000.0f, -2.0f*t/d);
        }
        positions.resize(n);
        for (uint32_t i = 0; i < n; ++i) {
            positions[i] = i;
        }
        cards.assign(n, 1);
        query_positions.assign(n_queries, (int32_t) n);
        is_protected.assign(n, 0);
        for (uint32_t i = 0; i < n_sinks; ++i) {
            is_protected[i] = 1;
        }
        for (uint32_t i = n - n_recent; i < n; ++i) {
            is_protected[i] = 1;
        }

        group.size      = sizeof(group);
        group.n_slots   = n;
        group.n_heads   = n_heads;
        group.n_queries = n_queries;
        group.head_k    = d;
        group.head_v    = d;
        group.n_rot     = d;
        group.rope_neox = 1;
        group.scale     = 1.0f/std::sqrt((float) d);
        point();
    }

    void point() {
        group.keys            = keys.data();
        group.values          = values.data();
        group.queries         = queries.data();
        group.query_positions = query_positions.data();
        group.positions       = positions.data();
        group.cardinalities   = cards.data();
        group.scores          = scores.data();
        group.is_protected    = is_protected.data();
        group.rope_freqs      = freqs.data();
    }
};

// outputs of locally merged attention, [n_rows][head_v], for the live slots of a state
static std::vector<double> attention(const group_state & st) {
    const auto & g = st.group;
    std::vector<double> out(st.n_rows*st.head_v, 0.0);

    for (uint32_t h = 0; h < st.n_heads; ++h) {
        for (uint32_t r = 0; r < g.n_queries; ++r) {
            const size_t x = (size_t) h*g.n_queries + r;
            double sum = 0.0;
            for (uint32_t i = 0; i < st.n_slots; ++i) {
                if (!st.live[i]) {
                    continue;
                }
                double s = 0.0;
                for (uint32_t c = 0; c < st.head_k; ++c) {
                    s += (double) g.queries[x*st.head_k + c]*st.keys[((size_t) i*st.n_heads + h)*st.head_k + c];
                }
                const double a = st.cards[i]*std::exp(g.scale*s);
                sum += a;
                for (uint32_t c = 0; c < st.head_v; ++c) {
                    out[x*st.head_v + c] += a*st.value(i, h)[c];
                }
            }
            for (uint32_t c = 0; c < st.head_v; ++c) {
                out[x*st.head_v + c] /= sum;
            }
        }
    }
    return out;
}

static asymkv_params make_params(int32_t score, int32_t weights) {
    asymkv_params p = params_default();
    p.score       = score;
    p.key_weights = weights;
    return p;
}

static const int32_t ALL_SCORES [] = { ASYMKV_SCORE_MASS, ASYMKV_SCORE_OUTPUT, ASYMKV_SCORE_EXACT, ASYMKV_SCORE_RANDOM };
static const int32_t ALL_WEIGHTS[] = { ASYMKV_KEYS_MEAN, ASYMKV_KEYS_MASS, ASYMKV_KEYS_SLIMMER, ASYMKV_KEYS_FISHER };

static void rotations_add_up() {
    random_group rg(1, 1, 1, 0, 0, 1);
    for (bool neox : { false, true }) {
        std::vector<float> a = rg.keys, b = rg.keys;
        std::vector<float> scratch;
        rope_move(a.data(), 1, 32, 5.5,  rg.freqs.data(), 32, neox, scratch);
        rope_move(a.data(), 1, 32, -2.0, rg.freqs.data(), 32, neox, scratch);
        rope_move(b.data(), 1, 32, 3.5,  rg.freqs.data(), 32, neox, scratch);
        for (int c = 0; c < 32; ++c) {
            CHECK(std::fabs(a[c] - b[c]) < 1e-5f);
        }
    }
}

static void merging_equal_keys_loses_nothing() {
    for (int32_t score : ALL_SCORES) {
        for (int32_t weights : ALL_WEIGHTS) {
            random_group rg(24, 2, 8, 2, 4, 7);
            // all keys between sinks and recents equal, at one position
            for (uint32_t i = 2; i < 20; ++i) {
                std::copy_n(rg.keys.begin() + 2*64, 64, rg.keys.begin() + i*64);
                rg.positions[i] = 2;
            }
            asymkv_params p = make_params(score, weights);
            p.evict = 0;

            group_compression whole, merged;
            compress_group(p, rg.group, 24, whole);
            compress_group(p, rg.group, 8, merged);
            CHECK(merged.plan.n_merges == 16);

            const auto a = attention(whole.state);
            const auto b = attention(merged.state);
            for (size_t c = 0; c < a.size(); ++c) {
                CHECK(std::fabs(a[c] - b[c]) < 1e-5);
            }
        }
    }
}

static void cardinality_is_conserved_and_protected_slots_are_untouched() {
    for (int32_t score : ALL_SCORES) {
        for (int32_t weights : ALL_WEIGHTS) {
            for (uint32_t max_card : { 0u, 5u }) {
                random_group rg(120, 2, 16, 4, 10, 11);
                asymkv_params p = make_params(score, weights);
                p.max_cardinality = max_card;

                group_compression comp;
                compress_group(p, rg.group, 40, comp);
                const auto & st = comp.state;

                CHECK(comp.plan.kept.size() == 40);
                CHECK(comp.plan.ops.size() == 80);

                uint64_t n_tokens = comp.plan.n_lost;
                double last = -1.0;
                for (uint32_t i : comp.plan.kept) {
                    n_tokens += st.cards[i];
                    CHECK(max_card == 0 || st.cards[i] <= max_card);
                    CHECK(st.positions[i] > last);
                    last = st.positions[i];
                }
                CHECK(n_tokens == 120);

                for (uint32_t i = 0; i < 120; ++i) {
                    if (rg.is_protected[i]) {
                        CHECK(st.live[i] && !st.touched[i] && st.cards[i] == 1);
                    }
                }
            }
        }
    }
}

static void no_value_is_lost_when_only_merging() {
    random_group rg(60, 1, 8, 2, 8, 3);
    asymkv_params p = make_params(ASYMKV_SCORE_OUTPUT, ASYMKV_KEYS_MASS);

    group_compression comp;
    compress_group(p, rg.group, 20, comp);

    for (uint32_t c = 0; c < 32; ++c) {
        double before = 0.0, after = 0.0;
        for (uint32_t i = 0; i < 60; ++i) {
            before += rg.values[i*32 + c];
            after  += comp.state.live[i] ? comp.state.cards[i]*comp.state.value(i, 0)[c] : 0.0;
        }
        CHECK(std::fabs(before - after) < 1e-3);
    }
}

static void a_slot_that_nobody_sees_is_evicted_for_free() {
    random_group rg(30, 1, 8, 2, 8, 5);
    // far along the opposite of every query: the queries share a direction, and the key points away from it
    for (uint32_t r = 0; r < 8; ++r) {
        rg.queries[r*32] = 40.0f;
    }
    rg.keys[10*32] = -400.0f;

    group_compression comp;
    compress_group(make_params(ASYMKV_SCORE_EXACT, ASYMKV_KEYS_MASS), rg.group, 29, comp);

    CHECK(comp.plan.ops.size() == 1);
    CHECK(comp.plan.ops[0].cost < 1e-12);
    CHECK(!comp.state.live[10] || comp.plan.ops[0].i == 10 || comp.plan.ops[0].j == 10);
}

static void exact_costs_are_the_change_of_the_output() {
    random_group rg(20, 2, 6, 2, 4, 9);
    const asymkv_params p = make_params(ASYMKV_SCORE_EXACT, ASYMKV_KEYS_MEAN);

    group_compression whole;
    compress_group(p, rg.group, 20, whole);
    const auto before = attention(whole.state);

    for (uint32_t i = 2; i < 16; ++i) {
        // drop slot i, by hand
        group_state st;
        st.reset(p, rg.group);
        st.live[i] = false;
        const auto after = attention(st);

        double change = 0.0;
        for (size_t x = 0; x < st.n_rows; ++x) {
            double d2 = 0.0;
            for (uint32_t c = 0; c < 32; ++c) {
                const double d = after[x*32 + c] - before[x*32 + c];
                d2 += d*d;
            }
            change += std::sqrt(d2);
        }
        CHECK(std::fabs(change - whole.plan.first.evict[i]) < 1e-5*(1.0 + change));
    }
}

static void the_cheapest_operation_comes_first() {
    for (int32_t score : ALL_SCORES) {
        random_group rg(50, 1, 8, 2, 8, 13);
        group_compression comp;
        compress_group(make_params(score, ASYMKV_KEYS_MASS), rg.group, 49, comp);

        double cheapest = std::numeric_limits<double>::infinity();
        for (uint32_t i = 0; i < 50; ++i) {
            cheapest = std::min({ cheapest, comp.plan.first.merge[i], comp.plan.first.evict[i] });
        }
        CHECK(comp.plan.ops.size() == 1);
        CHECK(comp.plan.ops[0].cost == cheapest);
    }
}

static void an_impossible_plan_is_refused() {
    random_group rg(20, 1, 4, 4, 8, 17);
    bool refused = false;
    try {
        group_compression comp;
        compress_group(make_params(ASYMKV_SCORE_MASS, ASYMKV_KEYS_MEAN), rg.group, 12, comp);
    } catch (const std::invalid_argument &) {
        refused = true;
    }
    CHECK(refused);
}

static void no_queries_are_no_error() {
    random_group rg(20, 1, 0, 2, 4, 19);
    for (int32_t score : ALL_SCORES) {
        for (int32_t weights : ALL_WEIGHTS) {
            group_compression comp;
            compress_group(make_params(score, weights), rg.group, 10, comp);
            CHECK(comp.plan.kept.size() == 10);
        }
    }
}

static void without_queries_least_attention_so_far_is_evicted() {
    random_group rg(20, 1, 0, 2, 4, 19);
    for (uint32_t i = 0; i < 20; ++i) {
        rg.scores[i] = i % 2 == 0 ? 1.0f : 2.0f + i;
    }
    asymkv_params params = make_params(ASYMKV_SCORE_EXACT, ASYMKV_KEYS_MASS);
    params.evict = ASYMKV_EVICT_ONLY;

    group_compression comp;
    compress_group(params, rg.group, 13, comp);
    CHECK(comp.plan.n_merges == 0);
    CHECK(comp.plan.n_evictions == 7);
    CHECK((comp.plan.kept == std::vector<uint32_t>{ 0, 1, 3, 5, 7, 9, 11, 13, 15, 16, 17, 18, 19 }));
}

static void bad_parameters_are_named() {
    asymkv_params p = params_default();
    CHECK(params_problem(p).empty());

    p = params_default(); p.budget = 0;                   CHECK(params_problem(p).find("budget") != std::string::npos);
    p = params_default(); p.budget = 20;                  CHECK(params_problem(p).find("at least 69") != std::string::npos);
    p = params_default(); p.room = 0;                     CHECK(params_problem(p).find("room") != std::string::npos);
    p = params_default(); p.score = 9;                    CHECK(params_problem(p).find("score 9") != std::string::npos);
    p = params_default(); p.key_weights = -1;             CHECK(params_problem(p).find("weights -1") != std::string::npos);
    p = params_default(); p.observe = 65;                 CHECK(params_problem(p).find("observe") != std::string::npos);
    p = params_default(); p.observe = 0;                  CHECK(params_problem(p).find("observe") != std::string::npos);
    p = params_default(); p.decay = NAN;                  CHECK(params_problem(p).find("decay") != std::string::npos);
    p = params_default(); p.accumulate = 1.5f;            CHECK(params_problem(p).find("accumulate") != std::string::npos);
    p = params_default(); p.size = 8;                     CHECK(params_problem(p).find("versions") != std::string::npos);
}

static void bad_groups_are_named() {
    const auto names = [](auto change, const char * what) {
        random_group rg(20, 1, 4, 2, 4, 1);
        change(rg);
        return group_problem(rg.group).find(what) != std::string::npos;
    };
    CHECK(names([](random_group & x) { x.group.n_slots   = 1u << 30; },  "too large"));
    CHECK(names([](random_group & x) { x.group.n_queries = UINT32_MAX; }, "too large"));
    CHECK(names([](random_group & x) { x.group.head_v = x.group.n_heads = 1u << 20; }, "one of its counts is wrong"));
    CHECK(names([](random_group & x) { x.group.scale   = 0.0f; },  "scale"));
    CHECK(names([](random_group & x) { x.group.softcap = NAN; },   "softcap"));
    CHECK(names([](random_group & x) { x.freqs[0]      = NAN; },   "rope_freqs"));
    CHECK(names([](random_group & x) { x.positions[19] = 1e300; }, "position"));
    CHECK(names([](random_group & x) { x.scores[3]     = -1.0f; }, "score"));
    CHECK(names([](random_group & x) { x.keys[3]       = 1e30f; }, "keys"));
    CHECK(group_problem(random_group(20, 1, 4, 2, 4, 1).group).empty());
}

#define RUN(test)                 \
    do {                          \
        current = #test;          \
        test();                   \
        printf("ok %s\n", #test); \
    } while (0)

int main() {
    RUN(rotations_add_up);
    RUN(merging_equal_keys_loses_nothing);
    RUN(cardinality_is_conserved_and_protected_slots_are_untouched);
    RUN(no_value_is_lost_when_only_merging);
    RUN(a_slot_that_nobody_sees_is_evicted_for_free);
    RUN(exact_costs_are_the_change_of_the_output);
    RUN(the_cheapest_operation_comes_first);
    RUN(an_impossible_plan_is_refused);
    RUN(no_queries_are_no_error);
    RUN(without_queries_least_attention_so_far_is_evicted);
    RUN(bad_parameters_are_named);
    RUN(bad_groups_are_named);
    return 0;
}
