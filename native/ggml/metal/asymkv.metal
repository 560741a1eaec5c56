#include "common.h"

#include "asymkv-dev-observe.h"
#include "asymkv-dev-plan.h"
#include "asymkv-dev-merge.h"

// the kernels of compression (native/ggml/common), as Metal calls them: a threadgroup for each group and tile. For
// ggml-metal they become one file, cmake/metal_kernels.py

template <void (*body)(akv_buffers, constant akv_params &, threadgroup float *, akv_place)>
kernel void kernel_asymkv(
        constant akv_params & p,
        device       uint8_t * k,
        device       uint8_t * v,
        device const uint8_t * q,
        device const int32_t * q_rows,
        device const int32_t * cells,
        device const float   * slots,
        device const float   * freqs,
        device       float   * seen,
        device       float   * plan,
        device       uint8_t * rows,
        device const float   * sinks,
        threadgroup  float   * local [[threadgroup(0)]],
        uint3   tgpig[[threadgroup_position_in_grid]],
        ushort  tiitg[[thread_index_in_threadgroup]],
        ushort3 ntg[[threads_per_threadgroup]]) {
    akv_buffers b;
    b.k      = k;
    b.v      = v;
    b.q      = q;
    b.q_rows = q_rows;
    b.cells  = cells;
    b.slots  = slots;
    b.freqs  = freqs;
    b.seen   = seen;
    b.plan   = plan;
    b.rows   = rows;
    b.sinks  = sinks;

    akv_place at;
    at.thread    = tiitg;
    at.n_threads = ntg.x;
    at.group     = tgpig.x;
    at.tile      = tgpig.y;

    body(b, p, local, at);
}

typedef decltype(kernel_asymkv<akv_observe_queries>) kernel_asymkv_t;

template [[host_name("kernel_asymkv_observe_queries")]] kernel kernel_asymkv_t kernel_asymkv<akv_observe_queries>;
template [[host_name("kernel_asymkv_observe_logits")]]  kernel kernel_asymkv_t kernel_asymkv<akv_observe_logits>;
template [[host_name("kernel_asymkv_observe_probs")]]   kernel kernel_asymkv_t kernel_asymkv<akv_observe_probs>;
template [[host_name("kernel_asymkv_observe_outputs")]] kernel kernel_asymkv_t kernel_asymkv<akv_observe_outputs>;
template [[host_name("kernel_asymkv_observe_dists")]]   kernel kernel_asymkv_t kernel_asymkv<akv_observe_dists>;
template [[host_name("kernel_asymkv_plan_totals")]]     kernel kernel_asymkv_t kernel_asymkv<akv_plan_totals>;
template [[host_name("kernel_asymkv_plan_slots")]]      kernel kernel_asymkv_t kernel_asymkv<akv_plan_slots>;
template [[host_name("kernel_asymkv_plan_costs")]]      kernel kernel_asymkv_t kernel_asymkv<akv_plan_costs>;
template [[host_name("kernel_asymkv_plan_greedy")]]     kernel kernel_asymkv_t kernel_asymkv<akv_plan_greedy>;
template [[host_name("kernel_asymkv_merge_rows")]]      kernel kernel_asymkv_t kernel_asymkv<akv_merge_rows>;
template [[host_name("kernel_asymkv_merge_store")]]     kernel kernel_asymkv_t kernel_asymkv<akv_merge_store>;
