#include "asymkv-dev-run.h"

// the kernels as a small library without ggml: what tests/test_device_kernels.py calls

extern "C" {

// what: 0 OBSERVE, 1 PLAN, 2 MERGE, 3 PLAN up to the costs before its first step. returns null, or a sentence that holds until the next call
const char * akv_dev_run(int what, const akv_buffers * buffers, const akv_params * params, uint32_t n_threads, int order) {
    static thread_local std::string problem;

    switch (what) {
        case 0:  problem = akv_run(AKV_OBSERVE, *buffers, *params, n_threads, (akv_order) order); break;
        case 1:  problem = akv_run(AKV_PLAN,    *buffers, *params, n_threads, (akv_order) order); break;
        case 2:  problem = akv_run(AKV_MERGE,   *buffers, *params, n_threads, (akv_order) order); break;
        case 3:  problem = akv_run(AKV_PLAN,    *buffers, *params, n_threads, (akv_order) order, 0, 1, 3); break;
        default: problem = "there is no such op"; break;
    }
    return problem.empty() ? nullptr : problem.c_str();
}

void akv_dev_seen(const akv_params * params, akv_seen_layout * layout) { *layout = akv_seen(*params); }
void akv_dev_plan(const akv_params * params, akv_plan_layout * layout) { *layout = akv_plan(*params); }

uint32_t akv_dev_rows_bytes(const akv_params * params) { return akv_rows_bytes(*params); }

}
