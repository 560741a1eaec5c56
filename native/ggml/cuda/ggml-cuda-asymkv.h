#pragma once

#include "ggml-cuda/common.cuh"

// OBSERVE, PLAN and MERGE (ggml-asymkv-compress.h) on the context's stream. NVIDIA only: HIP and MUSA builds leave them out
void ggml_cuda_asymkv_compress(ggml_backend_cuda_context & ctx, ggml_tensor * op);
