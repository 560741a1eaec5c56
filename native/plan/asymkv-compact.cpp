#include "asymkv-compact.h"

#include "asymkv-rope.h"

#include <algorithm>

namespace asymkv {

namespace {

// of the span, what slots may take when they have moved: the rest is filled by text before they move again
constexpr double FILLED = 0.75;

// the width w for which sum of min(c_i, w) is `available`; every slot gets as much where there are too many of them
double widest(std::vector<double> cards, double available) {
    std::sort(cards.begin(), cards.end());

    double below = 0.0; // of the cardinalities that fit
    for (size_t i = 0; i < cards.size(); ++i) {
        const double n_above = (double) (cards.size() - i);
        if (below + n_above*cards[i] > available) {
            return (available - below)/n_above;
        }
        below += cards[i];
    }
    return cards.back();
}

} // namespace

bool compact_positions(group_state & st, const std::vector<uint32_t> & kept) {
    const auto & p = st.params;

    if (p.span == 0 || st.positions[kept.back()] + p.room - st.positions[kept.front()] < p.span) {
        return false;
    }

    size_t n_moved = kept.size();
    while (n_moved > 0 && st.is_protected(kept[n_moved - 1])) {
        --n_moved;
    }
    if (n_moved == 0 || n_moved == kept.size()) {
        return false;
    }

    std::vector<double> cards(n_moved);
    for (size_t s = 0; s < n_moved; ++s) {
        cards[s] = st.cards[kept[s]];
    }
    const double first_recent = st.positions[kept[n_moved]];
    const double available    = FILLED*p.span - p.room - (st.positions[kept.back()] - first_recent);
    const double width        = widest(cards, std::max(available, 1.0));

    std::vector<float> scratch;

    double edge = first_recent - 0.5; // between two tokens
    for (size_t s = n_moved; s-- > 0; ) {
        const uint32_t i = kept[s];
        const double   w = std::min(cards[s], width);

        const double position = edge - 0.5*w;
        edge -= w;

        rope_move(st.key(i, 0), st.n_heads, st.head_k, position - st.positions[i], st.group.rope_freqs, st.group.n_rot, st.group.rope_neox != 0, scratch);
        st.positions[i] = position;
        st.touched  [i] = 1;
    }
    return true;
}

} // namespace asymkv
