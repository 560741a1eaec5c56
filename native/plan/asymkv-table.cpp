#include "asymkv-table.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

namespace asymkv {

namespace {

// the probability that a bit is 1, learned from those before: as the share of ones at first, then following slowly
struct bit_model {
    uint16_t p = 1 << 15; // of 2^16
    uint16_t n = 0;

    void update(bool bit) {
        static constexpr struct rate_table {
            uint16_t of[64] = {}; // 2^16/(n + 1.5)
            constexpr rate_table() {
                for (int i = 0; i < 64; ++i) {
                    of[i] = (uint16_t) ((1 << 17)/(2*i + 3));
                }
            }
        } rates;

        const uint32_t step = ((bit ? 0xFFFFu - p : p)*rates.of[n]) >> 16;
        p = (uint16_t) (bit ? p + step : p - step);
        n += n < 63;
    }
};

// most bytes of one slot, whatever was learned before: a bit takes up to eleven, and a number has up to 125 of them
constexpr size_t MAX_SLOT_BYTES = 768;

// a binary arithmetic coder: the interval [low, high] is what bits so far allow; leading bytes on which both agree go out
template <bool READING>
class coder {
public:
    explicit coder(std::vector<uint8_t> & out) : out(out.data() + out.size()), bytes(&out) {}

    coder(const uint8_t * begin, const uint8_t * end) : in(begin), in_end(end) {
        for (int i = 0; i < 4; ++i) {
            code = code << 8 | next();
        }
    }

    // writes the bit, or reads it; p: of 2^16 that it is 1
    bool bit(bool value, uint16_t p) {
        const uint32_t middle = low + (uint32_t) ((uint64_t) (high - low)*p >> 16);

        if (READING) {
            value = code <= middle;
        }
        high = value ? middle : high;
        low  = value ? low    : middle + 1;

        while (((low ^ high) & 0xFF000000u) == 0) {
            if (READING) {
                code = code << 8 | next();
            } else {
                *out++ = (uint8_t) (high >> 24);
            }
            low  = low  << 8;
            high = high << 8 | 0xFF;
        }
        return value;
    }

    // before each slot that is written
    void make_room() {
        const size_t n = out - bytes->data();
        if (bytes->size() - n < MAX_SLOT_BYTES) {
            bytes->resize(2*n + MAX_SLOT_BYTES);
            out = bytes->data() + n;
        }
    }

    bool bit(bool value, bit_model & model) {
        value = bit(value, model.p);
        model.update(value);
        return value;
    }

    uint64_t bits(uint64_t value, int n) {
        uint64_t res = 0;
        for (int i = n - 1; i >= 0; --i) {
            res = res << 1 | (uint64_t) bit((value >> i & 1) != 0, 1 << 15);
        }
        return res;
    }

    // one of 0 .. n - 1, all alike
    uint64_t one_of(uint64_t value, uint64_t n) {
        int n_bits = 0;
        while (n_bits < 63 && (n >> n_bits) > 1) {
            ++n_bits;
        }
        // the first `n_short` take a bit less than others
        const uint64_t n_short = ((uint64_t) 2 << n_bits) - n;

        uint64_t res = bits(value < n_short ? value : (value + n_short) >> 1, n_bits);
        if (res >= n_short) {
            res = (res << 1 | bits((value + n_short) & 1, 1)) - n_short;
        }
        return res;
    }

    // the interval's ends differ in their first byte, and the reader takes zeros for what is not there
    void end() {
        make_room();
        *out++ = (uint8_t) (high >> 24);
        bytes->resize(out - bytes->data());
    }

private:
    uint8_t              * out    = nullptr;
    std::vector<uint8_t> * bytes  = nullptr; // where `out` points
    const uint8_t        * in     = nullptr;
    const uint8_t        * in_end = nullptr;

    uint32_t low  = 0;
    uint32_t high = 0xFFFFFFFF;
    uint32_t code = 0;

    uint8_t next() { return in != in_end ? *in++ : 0; }
};

// numbers of any size, small ones in few bits: how many bits, then the bits
struct number_model {
    enum { MAX_BITS = 62 };

    bit_model more[MAX_BITS + 1];
    bit_model second[MAX_BITS + 1]; // the bit after the leading one

    template <bool READING>
    uint64_t code(coder<READING> & c, uint64_t value) {
        int n = 0;
        while (n < MAX_BITS && c.bit(value >> n != 0, more[n])) {
            ++n;
        }
        if (n < 2) {
            return n;
        }
        uint64_t res = 2 | (uint64_t) c.bit((value >> (n - 2) & 1) != 0, second[n]);
        return res << (n - 2) | c.bits(value & (((uint64_t) 1 << (n - 2)) - 1), n - 2);
    }
};

// scores: the bits of a float, which are ordered as floats are, without those that are not kept
constexpr int SCORE_DROPPED = 14;
constexpr int SCORE_STORED  = 8;  // of what is left, in bytes of their own

uint32_t score_code(float score) {
    if (!(score > 0.0f)) {
        return 0;
    }
    uint32_t x;
    score = std::min(score, std::numeric_limits<float>::max());
    std::memcpy(&x, &score, sizeof(x));
    constexpr uint32_t infinity = 0x7F800000u >> SCORE_DROPPED;
    return std::min((x + (1u << (SCORE_DROPPED - 1))) >> SCORE_DROPPED, infinity - 1);
}

float score_of(uint32_t code) {
    const uint32_t x = code << SCORE_DROPPED;
    float score;
    std::memcpy(&score, &x, sizeof(score));
    return score;
}

// how positions are kept: as means of tokens, or in units of 2^-bits; finer where units would put two slots at one place
enum { POSITIONS_MEAN = 0 };
constexpr int POSITION_BITS[] = { 0, 20, 30 };

// a slot's tokens: as if its c tokens were the first of its span, the sum of their distances from the span's first token would
// be this much less
struct mean {
    uint64_t least;
    uint64_t n_values; // sums that c different tokens of the span can have; 0: more than c tokens, or too many to count

    mean(uint64_t card, uint64_t extent) : least(card*(card - 1)/2), n_values(0) {
        const uint64_t missing = extent + 1 - card;
        if (card <= extent + 1 && (missing == 0 || card < ((uint64_t) 1 << 48)/missing)) {
            n_values = missing*card + 1;
        }
    }

    double position(int32_t first, uint64_t card, uint64_t i) const { return first + (double) (least + i)/(double) card; }
};

bool is_mean(const asymkv_slot & slot, uint64_t & i) {
    const mean m(slot.cardinality, (uint64_t) ((int64_t) slot.last - slot.first));
    if (m.n_values == 0) {
        return false;
    }
    const double sum = std::round((slot.position - slot.first)*slot.cardinality) - (double) m.least;
    if (!(sum >= 0.0 && sum < (double) m.n_values)) {
        return false;
    }
    i = (uint64_t) sum;
    return std::abs(m.position(slot.first, slot.cardinality, i) - slot.position) <= 1e-12*std::max(1.0, slot.position);
}

int64_t in_units(double position, int n_bits) { return (int64_t) std::floor(std::ldexp(position, n_bits) + 0.5); }

// the same steps write and read a slot
struct slot_models {
    number_model gap;
    number_model card;
    number_model step;         // of a position in units
    number_model score;        // how far the rest of a score is from the one before
    bit_model    is_whole[4];  // no token of the span is missing, by cardinality
    bit_model    is_less;
    number_model missing;
    int32_t  last  = -1;
    uint32_t high  = 0;
    int64_t  place = 0;
};

[[noreturn]] void fail() { throw std::invalid_argument("a table of slots is damaged"); }

// score_high: what is not stored in bytes
template <bool READING>
void code_slot(coder<READING> & c, slot_models & m, int positions, asymkv_slot & slot, uint32_t & score_high) {
    const bool    reading = READING;
    const int64_t max_pos = std::numeric_limits<int32_t>::max();

    const uint64_t gap = m.gap.code(c, reading ? 0 : (uint64_t) ((int64_t) slot.first - m.last - 1));
    const uint64_t less = m.card.code(c, reading ? 0 : slot.cardinality - 1);
    if (gap > (uint64_t) max_pos || less >= std::numeric_limits<uint32_t>::max()) {
        fail();
    }
    const uint64_t card = less + 1;

    // tokens of the span that it does not count; or, with clipped cardinalities and no other way, never more than it spans
    const uint64_t extent_in = reading ? 0 : (uint64_t) ((int64_t) slot.last - slot.first);
    uint64_t missing = reading ? 0 : extent_in + 1 - card;
    if (c.bit(missing == 0, m.is_whole[std::min<uint64_t>(card - 1, 3)])) {
        missing = 0;
    } else {
        missing = m.missing.code(c, missing - 1) + 1;
    }
    if (missing > (uint64_t) max_pos || m.last + (int64_t) (gap + card + missing) > max_pos) {
        fail();
    }
    const int64_t first = m.last + 1 + (int64_t) gap;
    const int64_t last  = first + (int64_t) (card + missing) - 1;

    double position;
    if (positions == POSITIONS_MEAN) {
        const mean tokens(card, (uint64_t) (last - first));
        if (tokens.n_values == 0) {
            fail();
        }
        uint64_t i = 0;
        if (!reading) {
            is_mean(slot, i);
        }
        position = tokens.position((int32_t) first, card, c.one_of(i, tokens.n_values));
    } else {
        const int n_bits = POSITION_BITS[positions];
        const uint64_t step = m.step.code(c, reading ? 0 : (uint64_t) (in_units(slot.position, n_bits) - m.place));
        if (step > ((uint64_t) max_pos << n_bits)) {
            fail();
        }
        m.place += (int64_t) step;
        position = std::ldexp((double) m.place, -n_bits);
        if (position > (double) max_pos) {
            fail();
        }
    }

    const int64_t  difference = reading ? 0 : (int64_t) score_high - m.high;
    const uint64_t zigzag     = m.score.code(c, difference >= 0 ? 2*(uint64_t) difference : 2*(uint64_t) -difference - 1);
    const int64_t  high       = m.high + ((zigzag & 1) != 0 ? -(int64_t) (zigzag/2) - 1 : (int64_t) (zigzag/2));
    if (high < 0 || high >= (0x7F800000 >> (SCORE_DROPPED + SCORE_STORED))) {
        fail();
    }
    m.last = (int32_t) last;
    m.high = score_high = (uint32_t) high;

    slot.first       = (int32_t) first;
    slot.last        = (int32_t) last;
    slot.cardinality = (uint32_t) card;
    slot.position    = position;
}

// the coarsest way that keeps these positions, and their order
int choose_positions(const asymkv_slot * slots, uint32_t n) {
    uint64_t unused;
    if (std::all_of(slots, slots + n, [&](const asymkv_slot & slot) { return is_mean(slot, unused); })) {
        return POSITIONS_MEAN;
    }
    int64_t before = -1;
    for (uint32_t i = 0; i < n; ++i) {
        const int64_t place = in_units(slots[i].position, POSITION_BITS[1]);
        if (place <= before) {
            return 2;
        }
        before = place;
    }
    return 1;
}

} // namespace

float table_score(float score) { return score_of(score_code(score)); }

size_t slot_table::max_bytes(uint32_t n) { return (size_t) n*(1 + MAX_SLOT_BYTES) + 8; }

void slot_table::clear() {
    n_slots = 0;
    data    = {};
}

void slot_table::pack(const asymkv_slot * slots, uint32_t n) {
    int32_t last   = -1;
    double  before = 0.0;
    for (uint32_t i = 0; i < n; ++i) {
        const auto & slot = slots[i];
        const int64_t n_tokens = (int64_t) slot.last - slot.first + 1;
        const bool is_span = slot.first > last && n_tokens >= 1 && slot.cardinality >= 1 && slot.cardinality <= n_tokens;
        if (!is_span || !(slot.position >= before)) {
            throw std::invalid_argument("slot " + std::to_string(i) + " of a table is out of order, or counts more than it spans");
        }
        last   = slot.last;
        before = slot.position;
    }

    std::vector<uint8_t> packed(n);
    packed.reserve((size_t) n*4 + MAX_SLOT_BYTES);

    const int positions = choose_positions(slots, n);

    coder<false> c(packed);
    c.make_room();
    c.bits((uint64_t) positions, 2);

    slot_models m;
    for (uint32_t i = 0; i < n; ++i) {
        asymkv_slot slot = slots[i];
        const uint32_t score = score_code(slot.score);

        packed[i] = (uint8_t) score;
        uint32_t high = score >> SCORE_STORED;
        c.make_room();
        code_slot(c, m, positions, slot, high);
    }
    c.end();

    data.assign(packed.begin(), packed.end());
    data.shrink_to_fit();
    n_slots = n;
}

std::vector<asymkv_slot> slot_table::unpack(uint32_t n) const {
    std::vector<asymkv_slot> res(std::min(n, n_slots));
    if (res.empty()) {
        return res;
    }
    coder<true> c(data.data() + n_slots, data.data() + data.size());

    const int positions = (int) c.bits(0, 2);
    if (positions >= (int) (sizeof(POSITION_BITS)/sizeof(POSITION_BITS[0]))) {
        fail();
    }
    slot_models m;
    for (size_t i = 0; i < res.size(); ++i) {
        uint32_t high = 0;
        code_slot(c, m, positions, res[i], high);
        res[i].score = score_of(high << SCORE_STORED | data[i]);
    }
    return res;
}

void slot_table::set_bytes(std::vector<uint8_t> bytes, uint32_t n) {
    if (bytes.size() < n || bytes.size() > max_bytes(n)) {
        fail();
    }
    data    = std::move(bytes);
    n_slots = n;
}

} // namespace asymkv
