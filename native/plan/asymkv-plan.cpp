#include "asymkv-plan.h"

#include "asymkv-rope.h"
#include "asymkv-score.h"
#include "asymkv-weights.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <queue>
#include <stdexcept>
#include <string>

namespace asymkv {

namespace {

enum op_kind : uint8_t { OP_MERGE = 0, OP_EVICT = 1 };

struct candidate {
    double   cost;
    op_kind  kind;
    uint32_t i;
    uint32_t version; // of slot i's operation of this kind when it was scored

    // of std::priority_queue: the largest is on top
    bool operator<(const candidate & o) const {
        if (cost != o.cost) { return cost > o.cost; }
        if (kind != o.kind) { return kind > o.kind; }
        return i > o.i;
    }
};

// what overflowed on its way is done last: a NaN has no place in an order
double priced(double cost) {
    return std::isnan(cost) ? std::numeric_limits<double>::infinity() : cost;
}

struct merge_scratch {
    std::vector<double> weights; // [n_heads][head_k]
    std::vector<float>  key;     // "
    std::vector<float>  cos_sin;
};

// k* = w R(p* - p_i) k_i + (1 - w) R(p* - p_j) k_j, v* and p* by cardinality (algorithm of arXiv 2506.05410, section 4)
void merge_rows(group_state & st, uint32_t i, uint32_t j, merge_scratch & scratch) {
    const auto & g = st.group;

    const double ci = st.cards[i];
    const double cj = st.cards[j];
    const double f  = ci/(ci + cj);
    const double p  = st.positions[i] + (1.0 - f)*(st.positions[j] - st.positions[i]); // never outside of the two

    const size_t n_key = (size_t) st.n_heads*st.head_k;

    weights_per_channel(st, i, j, scratch.weights.data());

    float * ki = st.key(i, 0);
    float * kj = scratch.key.data();
    std::copy(st.key(j, 0), st.key(j, 0) + n_key, kj);

    rope_move(ki, st.n_heads, st.head_k, p - st.positions[i], g.rope_freqs, g.n_rot, g.rope_neox != 0, scratch.cos_sin);
    rope_move(kj, st.n_heads, st.head_k, p - st.positions[j], g.rope_freqs, g.n_rot, g.rope_neox != 0, scratch.cos_sin);

    for (size_t c = 0; c < n_key; ++c) {
        ki[c] = (float) (scratch.weights[c]*ki[c] + (1.0 - scratch.weights[c])*kj[c]);
    }

    float       * vi = st.value(i, 0);
    const float * vj = st.value(j, 0);
    for (size_t c = 0; c < (size_t) st.n_heads*st.head_v; ++c) {
        vi[c] = (float) (f*vi[c] + (1.0 - f)*vj[c]);
    }

    st.positions[i] = p;
}

} // namespace

group_plan plan_group(group_state & st, uint32_t n_keep) {
    const score_type * score = score_find(st.params.score);
    if (!score) {
        throw std::invalid_argument("unknown score " + std::to_string(st.params.score));
    }
    // without queries all output changes are 0, and the leftmost slot would take in all others, or leave
    if (score->keeps_rows && score->merge_cost && st.group.n_queries == 0) {
        score = score_find(st.params.evict == ASYMKV_EVICT_ONLY ? ASYMKV_SCORE_H2O : ASYMKV_SCORE_MASS);
    }
    const bool merges = score->merge_cost != nullptr && st.params.evict != ASYMKV_EVICT_ONLY;
    const bool evicts = score->evict_cost != nullptr && (st.params.evict == ASYMKV_EVICT_ONLY || !score->merge_cost ||
            (score->evict_apply && st.params.evict == ASYMKV_EVICT_TOO));
    const bool rows   = score->keeps_rows;

    if (n_keep == 0) {
        throw std::invalid_argument("cannot keep no slot at all: keep at least 1");
    }

    weights_prepare(st);
    if (score->prepare) {
        score->prepare(st);
    }

    const double inf = std::numeric_limits<double>::infinity();

    group_plan res;
    res.first.merge.assign(st.n_slots, inf);
    res.first.evict.assign(st.n_slots, inf);

    std::vector<candidate> initial;
    initial.reserve(2*(size_t) st.n_slots);
    std::vector<uint32_t> version[2] = {
        std::vector<uint32_t>(st.n_slots, 0),
        std::vector<uint32_t>(st.n_slots, 0),
    };

    for (uint32_t i = 0; i < st.n_slots; ++i) {
        if (merges && st.can_merge(i)) {
            res.first.merge[i] = priced(score->merge_cost(st, i, st.next[i]));
            initial.push_back({ res.first.merge[i], OP_MERGE, i, 0 });
        }
        if (evicts && !st.is_protected(i)) {
            // what is expired leaves before anything is merged, the oldest first
            res.first.evict[i] = st.is_expired(i) ? -1.0 : priced(score->evict_cost(st, i));
            initial.push_back({ res.first.evict[i], OP_EVICT, i, 0 });
        }
    }

    std::priority_queue<candidate> heap(std::less<candidate>(), std::move(initial));

    const auto rescore_merge = [&](uint32_t i) {
        if (i == NO_SLOT) {
            return;
        }
        const uint32_t v = ++version[OP_MERGE][i];
        if (merges && st.can_merge(i)) {
            heap.push({ priced(score->merge_cost(st, i, st.next[i])), OP_MERGE, i, v });
        }
    };
    const auto rescore_evict = [&](uint32_t i) {
        const uint32_t v = ++version[OP_EVICT][i];
        if (evicts) {
            heap.push({ priced(score->evict_cost(st, i)), OP_EVICT, i, v });
        }
    };

    merge_scratch scratch;
    scratch.weights.resize((size_t) st.n_heads*st.head_k);
    scratch.key    .resize((size_t) st.n_heads*st.head_k);

    uint32_t n_live = st.n_slots;

    while (n_live > n_keep) {
        if (heap.empty()) {
            throw std::invalid_argument("cannot keep only " + std::to_string(n_keep) + " slots: " + std::to_string(n_live) +
                    " are protected or have no neighbour to merge with");
        }

        const candidate top = heap.top();
        heap.pop();

        const uint32_t i = top.i;
        if (!st.live[i] || version[top.kind][i] != top.version) {
            continue; // stale
        }

        if (top.kind == OP_MERGE) {
            const uint32_t j = st.next[i];

            weights_see(st, i);
            weights_see(st, j);

            // the probabilities first: the key weights are read from values and scores before the merge
            if (score->merge_apply) {
                score->merge_apply(st, i, j);
            }
            merge_rows   (st, i, j, scratch);
            weights_merge(st, i, j);

            const uint32_t c = st.merged_cardinality(i, j);
            res.n_lost += (uint64_t) st.cards[i] + st.cards[j] - c;
            st.cards [i]  = c;
            st.scores [i] += st.scores [j];
            st.history[i] += st.history[j];
            st.touched[i] = true;
            if (rows) {
                st.update_value_norm(i);
            }
            st.unlink(j);

            res.ops.push_back({ i, j, top.cost });
            res.n_merges++;

            rescore_merge(st.prev[i]);
            rescore_merge(i);
            rescore_evict(i);
        } else {
            if (score->evict_apply) {
                score->evict_apply(st, i);
            }
            res.n_lost += st.cards[i];

            const uint32_t left = st.prev[i];
            st.unlink(i);

            res.ops.push_back({ i, NO_SLOT, top.cost });
            res.n_evictions++;

            rescore_merge(left);
        }

        --n_live;
    }

    res.kept.reserve(n_live);
    for (uint32_t i = 0; i < st.n_slots; ++i) {
        if (st.live[i]) {
            res.kept.push_back(i);
        }
    }

    return res;
}

} // namespace asymkv
