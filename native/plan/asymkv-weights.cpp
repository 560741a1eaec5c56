#include "asymkv-weights.h"

#include <algorithm>
#include <cmath>

namespace asymkv {

namespace {

constexpr double TINY = 1e-30;

double weight_mean(const group_state & st, uint32_t i, uint32_t j) {
    return (double) st.cards[i]/((double) st.cards[i] + st.cards[j]);
}

double weight_mass(const group_state & st, uint32_t i, uint32_t j) {
    const double sum = st.scores[i] + st.scores[j];
    return sum < TINY ? weight_mean(st, i, j) : st.scores[i]/sum;
}

// |v_i - mean value|_1, over all heads of the group
double value_distance(const group_state & st, uint32_t i) {
    const float * v = st.value(i, 0);
    double sum = 0.0;
    for (size_t c = 0; c < (size_t) st.n_heads*st.head_v; ++c) {
        sum += std::fabs(v[c] - st.value_mean[c]);
    }
    return sum;
}

// KVSlimmer, eq. of its released code: second derivatives of o = sum alpha v with respect to the logits
double weight_slimmer(const group_state & st, uint32_t i, uint32_t j) {
    if (st.score_sum < TINY) {
        return weight_mass(st, i, j);
    }
    const double ai = st.scores[i]/st.score_sum;
    const double aj = st.scores[j]/st.score_sum;
    const double di = value_distance(st, i);
    const double dj = value_distance(st, j);

    const double hii = ai*(1.0 - 2.0*ai)*di;
    const double hjj = aj*(1.0 - 2.0*aj)*dj;
    const double hij = ai*aj*(di + dj);

    const double den = hii + hjj - 2.0*hij;
    if (std::fabs(den) < TINY) {
        return weight_mass(st, i, j);
    }
    const double w = (hii - hij)/den;

    return w >= 0.0 && w <= 1.0 ? w : weight_mass(st, i, j);
}

// local Fisher diagonal: with an isotropic upstream gradient, E[(dL/dk[ch])^2] ~ sum over q of a^2 |v - o|^2 q[ch]^2.
// the two channels that RoPE rotates together share their mean, so that the weights commute with the rotation
void prepare_fisher(group_state & st) {
    const auto & g = st.group;

    st.query_sq  .resize(st.n_rows*st.head_k);
    st.query_norm.resize(st.n_rows);
    for (size_t x = 0; x < st.n_rows; ++x) {
        const float * q = g.queries + x*st.head_k;
        float       * s = st.query_sq.data() + x*st.head_k;

        double sum = 0.0;
        for (uint32_t c = 0; c < st.head_k; ++c) {
            s[c] = q[c]*q[c];
            sum += s[c];
        }
        for (uint32_t t = 0; t < g.n_rot/2; ++t) {
            float & s0 = g.rope_neox ? s[t]             : s[2*t];
            float & s1 = g.rope_neox ? s[t + g.n_rot/2] : s[2*t + 1];
            s0 = s1 = 0.5f*(s0 + s1);
        }
        st.query_norm[x] = (float) sum;
    }

    st.fisher     .resize((size_t) st.n_slots*st.n_heads*st.head_k);
    st.information.resize(st.n_slots);
    st.has_fisher .assign(st.n_slots, 0);

    std::vector<float> per_row(st.n_rows);
    for (uint32_t i = 0; i < st.n_slots; ++i) {
        st.information[i] = st.is_protected(i) ? 0.0 : kernels().information(st.seen.prob.data() + i*st.n_rows,
                st.seen.dist_sq.data() + i*st.n_rows, st.query_norm.data(), per_row.data(), st.n_rows);
    }
}

void prepare_slimmer(group_state & st) {
    const size_t n_channels = (size_t) st.n_heads*st.head_v;

    st.value_mean.assign(n_channels, 0.0);
    if (st.score_sum < TINY) {
        return;
    }
    for (uint32_t i = 0; i < st.n_slots; ++i) {
        const double alpha = st.scores[i]/st.score_sum;
        const float * v = st.value(i, 0);
        for (size_t c = 0; c < n_channels; ++c) {
            st.value_mean[c] += alpha*v[c];
        }
    }
}

} // namespace

void weights_prepare(group_state & st) {
    switch (st.params.key_weights) {
        case ASYMKV_KEYS_SLIMMER: prepare_slimmer(st); break;
        case ASYMKV_KEYS_FISHER:
            if (!st.seen.dist_sq.empty() || st.n_rows == 0) { // nothing is merged otherwise
                prepare_fisher(st);
            }
            break;
        default: break;
    }
}

double weight_scalar(const group_state & st, uint32_t i, uint32_t j) {
    switch (st.params.key_weights) {
        case ASYMKV_KEYS_MEAN:    return weight_mean   (st, i, j);
        case ASYMKV_KEYS_SLIMMER: return weight_slimmer(st, i, j);
        case ASYMKV_KEYS_FISHER:
            {
                const double hi = st.information[i];
                const double hj = st.information[j];
                return hi + hj < TINY ? weight_mass(st, i, j) : hi/(hi + hj);
            }
        default: return weight_mass(st, i, j);
    }
}

void weights_per_channel(const group_state & st, uint32_t i, uint32_t j, double * out) {
    const size_t n_channels = (size_t) st.n_heads*st.head_k;

    if (st.params.key_weights != ASYMKV_KEYS_FISHER) {
        std::fill(out, out + n_channels, weight_scalar(st, i, j));
        return;
    }

    const double  w  = weight_mass(st, i, j);
    const float * hi = st.fisher.data() + (size_t) i*n_channels;
    const float * hj = st.fisher.data() + (size_t) j*n_channels;
    for (size_t c = 0; c < n_channels; ++c) {
        const double sum = (double) hi[c] + hj[c];
        out[c] = sum < TINY ? w : hi[c]/sum;
    }
}

void weights_see(group_state & st, uint32_t i) {
    if (st.params.key_weights != ASYMKV_KEYS_FISHER || st.has_fisher[i]) {
        return;
    }
    st.has_fisher[i] = 1;

    const uint32_t nq = st.group.n_queries;

    std::vector<float> & per_query = st.query_information;
    per_query.resize(nq);
    for (uint32_t h = 0; h < st.n_heads; ++h) {
        const size_t x = (size_t) h*nq;

        kernels().information(st.seen.prob.data() + i*st.n_rows + x, st.seen.dist_sq.data() + i*st.n_rows + x, st.query_norm.data() + x,
                per_query.data(), nq);
        kernels().products(per_query.data(), nq, 1, st.query_sq.data() + x*st.head_k, st.head_k,
                st.fisher.data() + ((size_t) i*st.n_heads + h)*st.head_k, st.head_k, 1, nq, st.head_k, false);
    }
}

void weights_merge(group_state & st, uint32_t i, uint32_t j) {
    if (st.params.key_weights != ASYMKV_KEYS_FISHER) {
        return;
    }
    const size_t n_channels = (size_t) st.n_heads*st.head_k;
    for (size_t c = 0; c < n_channels; ++c) {
        st.fisher[(size_t) i*n_channels + c] += st.fisher[(size_t) j*n_channels + c];
    }
    st.information[i] += st.information[j];
}

} // namespace asymkv
