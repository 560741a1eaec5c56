#include "asymkv-score.h"

#include "scores/asymkv-scores.h"

namespace asymkv {

namespace {

struct score_entry {
    int32_t            id;
    const score_type * type;
};

const score_entry SCORES[] = {
    { ASYMKV_SCORE_MASS,       &SCORE_MASS      },
    { ASYMKV_SCORE_OUTPUT,     &SCORE_OUTPUT    },
    { ASYMKV_SCORE_EXACT,      &SCORE_EXACT     },
    { ASYMKV_SCORE_RANDOM,     &SCORE_RANDOM    },
    { ASYMKV_SCORE_H2O,        &SCORE_H2O       },
    { ASYMKV_SCORE_SNAPKV,     &SCORE_SNAPKV    },
    { ASYMKV_SCORE_TOVA,       &SCORE_TOVA      },
    { ASYMKV_SCORE_STREAMING,  &SCORE_STREAMING },
    { ASYMKV_SCORE_KEYDIFF,    &SCORE_KEYDIFF   },
};

} // namespace

const score_type * score_find(int32_t score) {
    for (const auto & e : SCORES) {
        if (e.id == score) {
            return e.type;
        }
    }
    return nullptr;
}

std::string score_names() {
    std::string names;
    for (const auto & e : SCORES) {
        names += (names.empty() ? "" : ", ") + std::string(e.type->name) + " (" + std::to_string(e.id) + ")";
    }
    return names;
}

} // namespace asymkv
