#pragma once

#include "../ggml-asymkv-compress.h"

#include "asymkv-dev-run.h"

// the ops on the CPU, from the same kernels as on devices: to try what runs there, and to compare with it. The host's own
// code (native/plan) is faster

// the share of one of n_tasks threads. empty, or what is wrong with a kernel
static inline std::string akv_compute(const ggml_tensor * op, uint32_t task, uint32_t n_tasks) {
    constexpr uint32_t n_threads = 16; // of a block

    const akv_params  p = ggml_asymkv_compress_params (op);
    const akv_buffers b = ggml_asymkv_compress_buffers(op);

    return op->src[8] ? akv_run(AKV_MERGE, b, p, n_threads, AKV_FORWARD, task, n_tasks) :
           op->src[7] ? akv_run(AKV_PLAN,  b, p, n_threads, AKV_FORWARD, task, n_tasks) :
                        akv_run(AKV_OBSERVE, b, p, n_threads, AKV_FORWARD, task, n_tasks);
}
