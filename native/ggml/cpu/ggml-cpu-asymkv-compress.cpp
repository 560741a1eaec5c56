#include "ggml-cpu-asymkv.h"

#include "ggml-cpu-impl.h"
#include "ggml-impl.h"

#include <cstdlib>
#include <cstring>

#if !defined(_WIN32)

#include "common/asymkv-dev-cpu.h"

bool ggml_cpu_asymkv_offers_compress(void) {
    const char * wish = std::getenv("ASYMKV_COMPRESS");

    return wish && strcmp(wish, "device") == 0;
}

void ggml_cpu_asymkv_compress(const struct ggml_compute_params * params, struct ggml_tensor * op) {
    const std::string problem = akv_compute(op, params->ith, params->nth);
    if (!problem.empty()) {
        GGML_ABORT("%s: %s", ggml_op_name(op->op), problem.c_str());
    }
}

#else // no fibers there

bool ggml_cpu_asymkv_offers_compress(void) {
    return false;
}

void ggml_cpu_asymkv_compress(const struct ggml_compute_params * /*params*/, struct ggml_tensor * op) {
    GGML_ABORT("%s: not on this platform", ggml_op_name(op->op));
}

#endif
