#pragma once

#include "asymkv-score.h"

// a score is one file of this directory, declared here, and one line of the table in asymkv-score.cpp

namespace asymkv {

extern const score_type SCORE_MASS;
extern const score_type SCORE_OUTPUT;
extern const score_type SCORE_EXACT;
extern const score_type SCORE_RANDOM;
extern const score_type SCORE_H2O;
extern const score_type SCORE_SNAPKV;
extern const score_type SCORE_TOVA;
extern const score_type SCORE_STREAMING;
extern const score_type SCORE_KEYDIFF;

// of scores that order the slots once, and only evict
inline double priority_evict_cost(group_state & st, uint32_t i) {
    return st.priority[i];
}

} // namespace asymkv
