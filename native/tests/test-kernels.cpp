// unit tests of the planner's inner loops: every instruction set that this CPU runs, against plain double arithmetic

#include "asymkv-kernels.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

using namespace asymkv;

static const char * current = "";
static const char * name    = "";

#define CHECK(x)                                                                                \
    do {                                                                                        \
        if (!(x)) {                                                                             \
            fprintf(stderr, "FAIL %s (%s): %s (%s:%d)\n", current, name, #x, __FILE__, __LINE__); \
            exit(1);                                                                            \
        }                                                                                       \
    } while (0)

static std::mt19937 rng(5);

static std::vector<float> normal(size_t n) {
    std::normal_distribution<float> dist;
    std::vector<float> x(n);
    for (auto & v : x) {
        v = dist(rng);
    }
    return x;
}

static std::vector<float> uniform(size_t n, float low, float high) {
    std::uniform_real_distribution<float> dist(low, high);
    std::vector<float> x(n);
    for (auto & v : x) {
        v = dist(rng);
    }
    return x;
}

static bool near(double x, double y, double rel, double abs = 1e-30) {
    return std::fabs(x - y) <= rel*std::fabs(y) + abs;
}

// sizes with and without remainders of the vectors and row blocks
static const uint32_t SIZES[] = { 1, 7, 16, 64, 83, 128, 200 };

static void products_and_distances_are_sums_over_channels(const kernel_table & k) {
    for (uint32_t n : SIZES) {
        const uint32_t n_rows = n % 13 + 1, n_mid = 24;
        const auto x = normal(n_rows*n_mid), m = normal(n_mid*n);
        std::vector<float> y(n_rows*n, 1.0f), d(n_rows*n);

        k.products (x.data(), n_mid, 1, m.data(), n, y.data(), n, n_rows, n_mid, n, true);
        k.distances(x.data(), n_mid,    m.data(), n, d.data(), n, n_rows, n_mid, n);

        for (uint32_t t = 0; t < n_rows; ++t) {
            for (uint32_t r = 0; r < n; ++r) {
                double sum = 1.0, dist = 0.0;
                for (uint32_t c = 0; c < n_mid; ++c) {
                    sum  += (double) x[t*n_mid + c]*m[c*n + r];
                    dist += std::pow((double) x[t*n_mid + c] - m[c*n + r], 2);
                }
                CHECK(near(y[t*n + r], sum,  1e-5, 1e-5));
                CHECK(near(d[t*n + r], dist, 1e-5));
            }
        }
        // columns of x as rows
        std::vector<float> z(n_mid*n);
        const auto p = normal(n_rows*n);
        k.products(x.data(), 1, n_mid, p.data(), n, z.data(), n, n_mid, n_rows, n, false);
        for (uint32_t c = 0; c < n_mid; ++c) {
            for (uint32_t r = 0; r < n; ++r) {
                double sum = 0.0;
                for (uint32_t t = 0; t < n_rows; ++t) {
                    sum += (double) x[t*n_mid + c]*p[t*n + r];
                }
                CHECK(near(z[c*n + r], sum, 1e-5, 1e-5));
            }
        }
    }
}

static void softmax_is_softmax(const kernel_table & k) {
    for (uint32_t n : SIZES) {
        const uint32_t n_slots = 9;
        std::vector<std::vector<float>> s, p(n_slots, std::vector<float>(n));
        for (uint32_t i = 0; i < n_slots; ++i) {
            s.push_back(uniform(n, -200.0f, 60.0f));
        }
        s[3][0] = -INFINITY; // not visible
        const auto logits = s;
        std::vector<float> top(n, -INFINITY), sum(n, 0.0f), factor(n), shift(n);

        for (uint32_t i = 0; i < n_slots; ++i) {
            k.softmax_top(s[i].data(), 0.5f, 0.1f*i, top.data(), n);
        }
        for (uint32_t i = 0; i < n_slots; ++i) {
            k.softmax_exp(s[i].data(), 0.1f*i, top.data(), p[i].data(), sum.data(), n);
        }
        for (uint32_t r = 0; r < n; ++r) {
            factor[r] = 1.0f/sum[r];
            shift [r] = top[r] + std::log(sum[r]);
        }
        for (uint32_t i = 0; i < n_slots; ++i) {
            const double mass = k.softmax_end(s[i].data(), p[i].data(), factor.data(), shift.data(), n);
            double expected_mass = 0.0;
            for (uint32_t r = 0; r < n; ++r) {
                double all = 0.0;
                for (uint32_t j = 0; j < n_slots; ++j) {
                    all += std::exp(0.5*logits[j][r] + 0.1f*j);
                }
                const double expected = std::exp(0.5*logits[i][r] + 0.1f*i)/all;
                expected_mass += expected;
                CHECK(near(p[i][r], expected, 1e-4, 1e-37));
                CHECK(s[i][r] == LOG_ZERO ? i == 3 && r == 0 : near(s[i][r], std::log(expected) - 0.1f*i, 1e-5, 1e-4));
            }
            CHECK(near(mass, expected_mass, 1e-4, 1e-30));
        }
    }
}

// a pair of slots in the plane of v_i, v_j and o, and what is known of it
struct known_pair {
    std::vector<float> prob[2], log_prob[2], dist_sq[2], factor, out_norm;
    double v[2][2];
    std::vector<double> out[2];
    pair_terms terms;

    explicit known_pair(uint32_t n) {
        const double card[2] = { 2, 3 };
        const auto coordinates = normal(4);
        for (int t = 0; t < 2; ++t) {
            prob[t] = uniform(n, 1e-4f, 0.3f);
            v[t][0] = coordinates[2*t];
            v[t][1] = coordinates[2*t + 1];
            const auto o = normal(n);
            out[t].assign(o.begin(), o.end());
        }
        factor = uniform(n, 1.0f, 1.5f);
        out_norm.resize(n);
        for (int t = 0; t < 2; ++t) {
            log_prob[t].resize(n);
            dist_sq [t].resize(n);
            for (uint32_t r = 0; r < n; ++r) {
                log_prob[t][r] = (float) std::log(prob[t][r]/card[t]);
                dist_sq [t][r] = (float) (std::pow(v[t][0] - out[0][r], 2) + std::pow(v[t][1] - out[1][r], 2));
                out_norm[r]    = (float) std::hypot(out[0][r], out[1][r]);
            }
        }
        terms = { 5.0f, 0.4f, 0.3f, (float) (std::pow(v[0][0] - v[1][0], 2) + std::pow(v[0][1] - v[1][1], 2)), 1.0f };
    }

    slot_rows  slot(int t) { return { prob[t].data(), log_prob[t].data(), dist_sq[t].data() }; }
    query_rows queries()   { return { factor.data(), out_norm.data() }; }

    double merged(uint32_t r) const { return terms.card*std::exp((double) terms.weight*log_prob[0][r] + (1.0 - terms.weight)*log_prob[1][r]); }
};

static void changes_are_those_of_the_output(const kernel_table & k) {
    for (uint32_t n : SIZES) {
        known_pair pair(n);
        double merge = 0.0, evict = 0.0, uneven = 0.0;
        for (uint32_t r = 0; r < n; ++r) {
            const double a[2] = { (double) pair.prob[0][r]*pair.factor[r], (double) pair.prob[1][r]*pair.factor[r] };
            const double m    = pair.merged(r)*pair.factor[r];
            double d2 = 0.0, e2 = 0.0;
            for (int c = 0; c < 2; ++c) {
                const double o = pair.out[c][r];
                d2 += std::pow((m*0.4 - a[0])*(pair.v[0][c] - o) + (m*0.6 - a[1])*(pair.v[1][c] - o), 2);
                e2 += std::pow(a[0]*(pair.v[0][c] - o), 2);
            }
            merge  += std::sqrt(d2)/(1.0 + m - a[0] - a[1]);
            evict  += std::sqrt(e2)/(1.0 - a[0]);
            uneven += std::fabs((double) pair.prob[0][r]*3.0 - (double) pair.prob[1][r]*2.0);
        }
        CHECK(near(k.merge_change(pair.slot(0), pair.slot(1), pair.queries(), pair.terms, n), merge, 1e-4));
        CHECK(near(k.evict_change(pair.slot(0), pair.queries(), 1.0f, n), evict, 1e-5));
        CHECK(near(k.unevenness(pair.prob[0].data(), pair.prob[1].data(), 2.0f, 3.0f, n), uneven, 1e-5));

        double             all = 0.0;
        std::vector<float> information(n);
        const double       sum = k.information(pair.prob[0].data(), pair.dist_sq[0].data(), pair.out_norm.data(), information.data(), n);
        for (uint32_t r = 0; r < n; ++r) {
            const double each = (double) pair.prob[0][r]*pair.prob[0][r]*pair.dist_sq[0][r];
            CHECK(near(information[r], each, 1e-5));
            all += each*pair.out_norm[r];
        }
        CHECK(near(sum, all, 1e-5));
    }
}

static void a_slot_with_all_of_the_attention_costs_its_length(const kernel_table & k) {
    known_pair pair(20);
    pair.prob[0].assign(20, 1.0f);
    pair.factor .assign(20, 1.0f);
    double expected = 0.0;
    for (float o : pair.out_norm) {
        expected += 2.5f + o;
    }
    CHECK(near(k.evict_change(pair.slot(0), pair.queries(), 2.5f, 20), expected, 1e-5));
}

static void steps_update_what_the_queries_see(const kernel_table & k) {
    for (uint32_t n : SIZES) {
        known_pair before(n), pair = before, other = before;
        k.merge_apply(pair.slot(0), pair.slot(1), pair.queries(), pair.terms, n);
        k.evict_apply(other.slot(0), other.queries(), n);
        for (uint32_t r = 0; r < n; ++r) {
            const double m = before.merged(r), f = before.factor[r], pi = before.prob[0][r], pj = before.prob[1][r];
            double u = 0.0;
            for (int c = 0; c < 2; ++c) {
                u += std::pow(0.4*before.v[0][c] + 0.6*before.v[1][c] - before.out[c][r], 2);
            }
            CHECK(near(pair.prob[0][r],     m,              1e-5));
            CHECK(near(pair.log_prob[0][r], std::log(m/5),  1e-5, 1e-5));
            CHECK(near(pair.dist_sq[0][r],  u,              1e-4, 1e-5));
            CHECK(near(pair.factor[r],      f/(1.0 + (m - pi - pj)*f), 1e-5));
            CHECK(near(other.factor[r],     f/(1.0 - pi*f), 1e-5));
        }
    }
}

static void angles_are_exact_far_from_zero(const kernel_table & k) {
    const auto freqs = uniform(37, -1.0f, 1.0f);
    std::vector<float> c(37), s(37);
    for (double delta : { 0.3, -2.5, 1000.25, 131071.5, -1e6 }) {
        k.cos_sin(delta, freqs.data(), c.data(), s.data(), 37);
        for (uint32_t t = 0; t < 37; ++t) {
            CHECK(near(c[t], std::cos(delta*freqs[t]), 1e-6, 2e-7));
            CHECK(near(s[t], std::sin(delta*freqs[t]), 1e-6, 2e-7));
        }
    }
}

static void every_half_is_read_exactly(const kernel_table & k) {
    std::vector<uint16_t> x(65536);
    std::vector<float>    y(65536);
    for (uint32_t h = 0; h < 65536; ++h) {
        x[h] = (uint16_t) h;
    }
    k.half_to_float(x.data(), y.data(), y.size());
    for (uint32_t h = 0; h < 65536; ++h) {
        const int    exponent = (h >> 10) & 31;
        const double fraction = h & 1023;
        const double sign     = h & 0x8000 ? -1.0 : 1.0;
        if (exponent == 31) {
            CHECK(fraction == 0 ? std::isinf(y[h]) && y[h]*sign > 0 : std::isnan(y[h]));
        } else {
            CHECK(y[h] == sign*(exponent ? std::ldexp(1024.0 + fraction, exponent - 25) : std::ldexp(fraction, -24)));
        }
    }
}

#define RUN(test)                              \
    do {                                       \
        current = #test;                       \
        test(**k);                             \
        printf("ok %s (%s)\n", #test, name);   \
    } while (0)

int main() {
    for (const kernel_table * const * k = kernels_all(); *k; ++k) {
        name = (*k)->name;
        RUN(products_and_distances_are_sums_over_channels);
        RUN(softmax_is_softmax);
        RUN(changes_are_those_of_the_output);
        RUN(a_slot_with_all_of_the_attention_costs_its_length);
        RUN(steps_update_what_the_queries_see);
        RUN(angles_are_exact_far_from_zero);
        RUN(every_half_is_read_exactly);
    }
    return 0;
}
