#pragma once

#include "asymkv.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace asymkv {

// what a group knows of its slots, in about 3 bytes a slot instead of 24: it is read and written once per compression, and lies
// there in between. Slots are ascending, so that first and last token are distances; a position is the mean of the tokens, which
// is a fraction whose numerator is kept, and not even that where they are neighbours. All numbers go through an adaptive
// arithmetic coder, with as many bits as they carry.
//
// Everything comes back as it was, but for
//   - scores, rounded to 10 significant bits, in whatever range a float has: an order may become a tie, and never turns round
//   - positions that are no mean of tokens (moved slots, clipped cardinalities), rounded to 2^-20
// and what came back goes in and comes back unchanged
class slot_table {
public:
    // throws std::invalid_argument where slots are not ascending or contradict themselves
    void pack(const asymkv_slot * slots, uint32_t n);

    // the first n, which are at most size()
    std::vector<asymkv_slot> unpack(uint32_t n) const;
    std::vector<asymkv_slot> unpack() const { return unpack(n_slots); }

    uint32_t size() const { return n_slots; }
    size_t n_bytes() const { return data.capacity(); }

    void clear();

    // for states: unpack() of bytes that nobody packed throws std::invalid_argument, or gives slots that are ascending
    const std::vector<uint8_t> & bytes() const { return data; }
    void set_bytes(std::vector<uint8_t> bytes, uint32_t n);

    // most bytes that n slots take
    static size_t max_bytes(uint32_t n);

private:
    uint32_t n_slots = 0;
    std::vector<uint8_t> data; // eight bits of every score, one after the other; then what the coder wrote
};

// as tables keep it
float table_score(float score);

} // namespace asymkv
