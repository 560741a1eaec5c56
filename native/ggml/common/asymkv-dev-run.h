#pragma once

#include "asymkv-dev-merge.h"
#include "asymkv-dev-observe.h"
#include "asymkv-dev-plan.h"
#include "asymkv-dev-shim.h"

// the kernels of an op, one after the other and block by block, on the CPU

struct akv_kernel {
    const char * name;
    akv_body     body;
    uint32_t     grid;
};

#define AKV_KERNEL_ENTRY(op, name, grid) { #name, akv_##name, grid },

static const akv_kernel AKV_OBSERVE[] = { AKV_OBSERVE_KERNELS(AKV_KERNEL_ENTRY) };
static const akv_kernel AKV_PLAN[]    = { AKV_PLAN_KERNELS   (AKV_KERNEL_ENTRY) };
static const akv_kernel AKV_MERGE[]   = { AKV_MERGE_KERNELS  (AKV_KERNEL_ENTRY) };

// the first n_kernels of them, for every n_tasks-th group from `task` on: groups do not meet. empty, or what is wrong with a
// kernel
template <size_t N>
std::string akv_run(const akv_kernel (&kernels)[N], const akv_buffers & buffers, const akv_params & params, uint32_t n_threads, akv_order order,
        uint32_t task = 0, uint32_t n_tasks = 1, size_t n_kernels = N) {
    static thread_local akv_block block;

    for (size_t k = 0; k < n_kernels; ++k) {
        for (uint32_t group = task; group < params.n_group; group += n_tasks) {
            for (uint32_t tile = 0; tile < akv_tiles(params, kernels[k].grid); ++tile) {
                if (!block.run(kernels[k].body, buffers, params, group, tile, n_threads, order)) {
                    return std::string(kernels[k].name) + ": " + block.error();
                }
            }
        }
    }
    return "";
}
