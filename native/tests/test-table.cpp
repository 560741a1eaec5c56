// unit tests of the tables of slots: what goes in comes back, in as few bytes as promised, and damaged bytes do no harm

#include "asymkv-table.h"

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

enum kind { MEANS, MOVED, CLIPPED, CLOSE };

// slots as merges and evictions leave them
static std::vector<asymkv_slot> random_slots(uint32_t n, kind of, uint32_t seed) {
    std::mt19937 rng(seed);
    std::geometric_distribution<int> small(0.3);
    std::normal_distribution<float>  normal;

    std::vector<asymkv_slot> res;
    int32_t next = 0;
    for (uint32_t i = 0; i < n; ++i) {
        asymkv_slot slot = {};
        slot.first = next + (rng() % 3 == 0 ? small(rng)*small(rng) : 0);

        // its tokens, of which some between are gone
        double   sum  = slot.first;
        uint32_t card = 1;
        int32_t  last = slot.first;
        for (int more = small(rng); more > 0; --more) {
            last += rng() % 8 == 0 ? 1 + small(rng) : 1;
            sum  += last;
            ++card;
        }
        slot.last        = last;
        slot.cardinality = of == CLIPPED ? std::min(card, 5u) : card;
        slot.position    = sum/card;
        if (of == CLIPPED) {
            slot.position = slot.first + (slot.last - slot.first)*(rng() % 1000)/1000.0;
        }
        if (of == MOVED) {
            slot.position = (i == 0 ? 3.0 : res.back().position) + 0.001*(1 + rng() % 5000);
        }
        if (of == CLOSE) {
            slot.position = (i == 0 ? 3.0 : res.back().position) + std::ldexp(1 + rng() % 100, -28);
        }
        slot.score = std::exp(8.0f*normal(rng) - 4.0f);
        next = last + 1;
        res.push_back(slot);
    }
    return res;
}

static slot_table packed(const std::vector<asymkv_slot> & slots) {
    slot_table table;
    table.pack(slots.data(), (uint32_t) slots.size());
    return table;
}

static bool same(const std::vector<asymkv_slot> & a, const std::vector<asymkv_slot> & b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const asymkv_slot & x, const asymkv_slot & y) {
        return x.position == y.position && x.first == y.first && x.last == y.last && x.cardinality == y.cardinality && x.score == y.score;
    });
}

static void check_comes_back(const std::vector<asymkv_slot> & slots, double tolerance) {
    const slot_table table = packed(slots);
    const auto back = table.unpack();

    CHECK(back.size() == slots.size() && table.size() == slots.size());
    for (size_t i = 0; i < slots.size(); ++i) {
        CHECK(back[i].first == slots[i].first && back[i].last == slots[i].last && back[i].cardinality == slots[i].cardinality);
        CHECK(std::abs(back[i].position - slots[i].position) <= tolerance*std::max(1.0, slots[i].position));
        CHECK(i == 0 || (back[i].position > back[i - 1].position) == (slots[i].position > slots[i - 1].position));
        CHECK(back[i].score == table_score(slots[i].score));
    }
    const slot_table again = packed(back);
    CHECK(same(again.unpack(), back));
    CHECK(packed(again.unpack()).bytes() == again.bytes());

    for (uint32_t n : { 0u, 1u, (uint32_t) slots.size()/2 }) {
        CHECK(same(table.unpack(n), { back.begin(), back.begin() + std::min<size_t>(n, back.size()) }));
    }
}

static void test_slots_come_back() {
    for (uint32_t seed = 0; seed < 200; ++seed) {
        const uint32_t n = seed % 50*seed % 700;
        check_comes_back(random_slots(n, MEANS,   seed), 1e-14);
        check_comes_back(random_slots(n, MOVED,   seed), 0x1.0p-20);
        check_comes_back(random_slots(n, CLIPPED, seed), 0x1.0p-20);
        check_comes_back(random_slots(n, CLOSE,   seed), 0x1.0p-20);
    }
    CHECK(packed({}).n_bytes() < 16);
}

static void test_the_largest_numbers_come_back() {
    const int32_t  max_pos  = std::numeric_limits<int32_t>::max();
    const uint32_t max_card = (uint32_t) max_pos + 1;

    check_comes_back({ { 0.5*max_pos, 0, max_pos, max_card, 1.0f } }, 1e-9);
    check_comes_back({ { 0.4*max_pos, 0, max_pos, max_card/2, 1.0f } }, 1e-9);
    check_comes_back({ { 0.0, 0, 0, 1, 0.0f }, { (double) max_pos, max_pos, max_pos, 1, 1e30f } }, 0.0);
    check_comes_back({ { 5.3, 0, max_pos - 1, 1, 0.0f }, { max_pos - 0.2, max_pos, max_pos, 1, 1e30f } }, 1e-6);
}

static void test_scores_keep_their_order_and_ten_bits() {
    std::mt19937 rng(1);
    const float largest = std::numeric_limits<float>::max();

    for (int i = 0; i < 100000; ++i) {
        const float a = std::ldexp(1.0f + (rng() % 4096)/4096.0f, (int) (rng() % 250) - 125);
        const float b = i % 2 == 0 ? a*(1.0f + (rng() % 100)*1e-4f) : std::ldexp(a, (int) (rng() % 3) - 1);
        CHECK(std::abs(table_score(a) - a) <= a*0x1.0p-10f);
        CHECK((a < b) <= (table_score(a) <= table_score(b)));
        CHECK(table_score(table_score(a)) == table_score(a));
    }
    CHECK(table_score(0.0f) == 0.0f);
    CHECK(table_score(std::ldexp(1.0f, -96)) == std::ldexp(1.0f, -96));
    CHECK(table_score(largest) <= largest && table_score(largest) > 0.99f*largest);
    CHECK(table_score(std::numeric_limits<float>::denorm_min()) < table_score(std::ldexp(1.0f, -130)));
}

static void test_a_slot_takes_three_bytes() {
    // 2,048 slots of 32,768 tokens
    for (uint32_t seed = 0; seed < 20; ++seed) {
        CHECK(packed(random_slots(2048, MEANS, seed)).n_bytes() <= 2048*3);
    }
    // and less where tokens are neighbours
    std::vector<asymkv_slot> tokens;
    for (int32_t i = 0; i < 2048; ++i) {
        tokens.push_back({ (double) i, i, i, 1, 0.0f });
    }
    CHECK(packed(tokens).n_bytes() <= 2048*5/4);
}

template <typename F>
static bool is_refused(F f) {
    try {
        f();
    } catch (const std::invalid_argument &) {
        return true;
    }
    return false;
}

static void test_what_is_no_table_is_refused() {
    CHECK(is_refused([] { packed({ { 5.0, 5, 5, 1, 0.0f }, { 5.0, 5, 5, 1, 0.0f } }); }));
    CHECK(is_refused([] { packed({ { 5.0, 5, 5, 2, 0.0f } }); }));
    CHECK(is_refused([] { packed({ { 5.0, 5, 5, 0, 0.0f } }); }));
    CHECK(is_refused([] { packed({ { 5.0, 5, 4, 1, 0.0f } }); }));
    CHECK(is_refused([] { packed({ { -1.0, -1, 4, 1, 0.0f } }); }));
    CHECK(is_refused([] { packed({ { NAN, 1, 4, 1, 0.0f } }); }));
    CHECK(is_refused([] { packed({ { 6.0, 5, 6, 1, 0.0f }, { 5.0, 7, 8, 1, 0.0f } }); }));
    CHECK(is_refused([] { slot_table().set_bytes({ 1, 2, 3 }, 4); }));
    CHECK(is_refused([] { slot_table().set_bytes(std::vector<uint8_t>(slot_table::max_bytes(4) + 1), 4); }));
}

static void test_damaged_bytes_give_ascending_slots_or_are_refused() {
    std::mt19937 rng(1);
    uint32_t n_refused = 0;

    for (uint32_t i = 0; i < 20000; ++i) {
        const uint32_t n = 1 + rng() % 60;

        auto bytes = packed(random_slots(n, (kind) (i % 4), i)).bytes();
        if (i % 3 == 0) {
            std::generate(bytes.begin(), bytes.end(), [&] { return (uint8_t) rng(); });
        } else if (i % 3 == 1) {
            bytes[rng() % bytes.size()] ^= (uint8_t) (1 << rng() % 8);
        } else {
            bytes.resize(n + rng() % (bytes.size() - n + 1));
        }
        slot_table table;
        table.set_bytes(bytes, n);
        std::vector<asymkv_slot> slots;
        if (is_refused([&] { slots = table.unpack(); })) {
            ++n_refused;
            continue;
        }
        CHECK(slots.size() == n);
        check_comes_back(slots, 1e-6);
    }
    CHECK(n_refused > 100 && n_refused < 19000);
}

int main() {
    const struct {
        const char * name;
        void (*run)();
    } tests[] = {
        { "slots come back",                                        test_slots_come_back },
        { "the largest numbers come back",                          test_the_largest_numbers_come_back },
        { "scores keep their order and ten bits",                   test_scores_keep_their_order_and_ten_bits },
        { "a slot takes three bytes",                               test_a_slot_takes_three_bytes },
        { "what is no table is refused",                            test_what_is_no_table_is_refused },
        { "damaged bytes give ascending slots, or are refused",     test_damaged_bytes_give_ascending_slots_or_are_refused },
    };
    for (const auto & test : tests) {
        current = test.name;
        test.run();
        printf("ok %s\n", test.name);
    }
    return 0;
}
