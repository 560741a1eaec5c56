#include "asymkv-compress.h"

#include "asymkv-compact.h"

#include <chrono>

namespace asymkv {

static uint64_t now_us() {
    return (uint64_t) std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void compress_group(const asymkv_params & params, const asymkv_group & group, uint32_t n_keep, group_compression & out) {
    const uint64_t t0 = now_us();

    out.state.reset(params, group);

    const uint64_t t1 = now_us();

    out.plan  = plan_group(out.state, n_keep);
    out.moved = compact_positions(out.state, out.plan.kept);

    out.t_observe_us = t1 - t0;
    out.t_plan_us    = now_us() - t1;
}

} // namespace asymkv
