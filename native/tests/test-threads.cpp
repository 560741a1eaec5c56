// two threads that plan groups at once, as two contexts do: each gets what one thread alone gets. ThreadSanitizer sees what
// they share (scripts/sanitize.sh thread)

#include "asymkv-compress.h"
#include "asymkv-params.h"

#include <cstdio>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

using namespace asymkv;

namespace {

constexpr uint32_t N_SLOTS   = 60;
constexpr uint32_t N_HEADS   = 2;
constexpr uint32_t N_QUERIES = 8;
constexpr uint32_t N_DIM     = 32;
constexpr uint32_t N_KEEP    = 20;
constexpr uint32_t N_SCORES  = 9;

struct random_group {
    std::vector<float>    keys, values, queries, scores, freqs;
    std::vector<int32_t>  query_positions;
    std::vector<double>   positions;
    std::vector<uint32_t> cards;
    std::vector<uint8_t>  is_protected;

    asymkv_group group = {};

    explicit random_group(uint32_t seed) {
        std::mt19937 rng(seed);
        std::normal_distribution<float> normal;

        for (auto * x : { &keys, &values }) {
            x->resize((size_t) N_SLOTS*N_HEADS*N_DIM);
        }
        queries.resize((size_t) N_HEADS*N_QUERIES*N_DIM);
        for (auto * x : { &keys, &values, &queries }) {
            for (float & v : *x) {
                v = normal(rng);
            }
        }
        scores.assign(N_SLOTS, 0.5f);
        freqs.assign(N_DIM/2, 0.1f);
        query_positions.assign(N_QUERIES, N_SLOTS);
        cards.assign(N_SLOTS, 1);
        for (uint32_t i = 0; i < N_SLOTS; ++i) {
            positions.push_back(i);
            is_protected.push_back(i < 2 || i >= N_SLOTS - 8);
        }
        group = {
            sizeof(group), N_SLOTS, N_HEADS, N_QUERIES, N_DIM, N_DIM, N_DIM, 1, 0.2f, 0.0f, keys.data(), values.data(), queries.data(),
            query_positions.data(), positions.data(), cards.data(), scores.data(), is_protected.data(), freqs.data(),
        };
    }
};

struct outcome {
    std::vector<uint32_t> kept;
    std::vector<float>    keys;

    bool operator==(const outcome & o) const { return kept == o.kept && keys == o.keys; }
};

// every score on the same group, with a state of the thread's own
void plan_all(const asymkv_group & group, std::vector<outcome> & out) {
    group_compression comp;
    for (uint32_t s = 0; s < N_SCORES; ++s) {
        for (int32_t weights = ASYMKV_KEYS_MEAN; weights <= ASYMKV_KEYS_FISHER; ++weights) {
            asymkv_params p = params_default();
            p.score       = (int32_t) s;
            p.key_weights = weights;
            if (!params_problem(p).empty() || !group_problem(group).empty()) {
                return; // the outcomes that are missing are counted
            }
            compress_group(p, group, N_KEEP, comp);
            out.push_back({ comp.plan.kept, comp.state.keys });
        }
    }
}

} // namespace

int main() {
    const random_group rg(1);

    std::vector<outcome> first, second, alone;

    // before anything else has run: what is made at the first use is made here
    std::thread a(plan_all, std::cref(rg.group), std::ref(first));
    std::thread b(plan_all, std::cref(rg.group), std::ref(second));
    a.join();
    b.join();

    plan_all(rg.group, alone);

    if (alone.size() != 4*N_SCORES || !(first == alone) || !(second == alone)) {
        fprintf(stderr, "FAIL two threads plan otherwise than one\n");
        return 1;
    }
    printf("ok two threads plan as one does\n");
    return 0;
}
