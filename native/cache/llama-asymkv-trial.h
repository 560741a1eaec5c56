#pragma once

#include "ggml-asymkv-compress.h"
#include "ggml-backend.h"

// one kind of compression that a cache's layers need
struct llama_asymkv_compress_kind {
    ggml_backend_t backend;
    bool           custom; // computed on the CPU, whatever its ggml

    ggml_asymkv_compress_scalars scalars; // of the layer; what depends on its slots is not looked at
    ggml_type type_k;
    ggml_type type_v;
    ggml_type type_q;
    uint32_t  n_rot;
    bool      sinks; // learned attention sinks
};

// turns an op into one that a stock ggml's CPU computes from the kernels for devices; `scalars` have to outlive it
void llama_asymkv_as_custom(ggml_tensor * op, ggml_asymkv_compress_scalars * scalars);

// whether OBSERVE, PLAN and MERGE on this backend do to a small layer what the host's own code does to it. tried once per
// device, kind and process; one warning where they do not
bool llama_asymkv_try_compress(const llama_asymkv_compress_kind & kind);
