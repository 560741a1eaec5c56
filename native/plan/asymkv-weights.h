#pragma once

#include "asymkv-state.h"

namespace asymkv {

// fills what the chosen key weights need before the first step
void weights_prepare(group_state & state);

// weight of the left key of a pair, in [0, 1]; for `fisher`, whose weights are per channel, their mean by information
double weight_scalar(const group_state & state, uint32_t i, uint32_t j);

// weights of the left key, per channel: out [n_heads][head_k]
void weights_per_channel(const group_state & state, uint32_t i, uint32_t j, double * out);

// what a merge of slot i needs to know, before its rows are those of a merged slot
void weights_see(group_state & state, uint32_t i);

// slot j's information goes to slot i
void weights_merge(group_state & state, uint32_t i, uint32_t j);

} // namespace asymkv
