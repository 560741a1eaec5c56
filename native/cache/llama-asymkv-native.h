#pragma once

#include "ggml-asymkv.h"

#include <cstdint>
#include <vector>

// which of the ops in native/ggml a cache may use; what it may not is composed of stock ops instead

// one kind of attention that a cache's layers have
struct llama_asymkv_attn_kind {
    ggml_backend_dev_t dev;

    ggml_type type_k;
    ggml_type type_v;
    int64_t   head_k;
    int64_t   head_v;
    int64_t   n_gqa;    // query heads per KV head
    bool      per_head; // a row of cardinalities for every KV head, not one for all
    bool      flash;
    float     softcap;
    bool      sinks;    // learned attention sinks

    bool operator==(const llama_asymkv_attn_kind & other) const;
};

// bits of ggml_asymkv_ops: attention where the CPU and all of these devices say that they can do it, compression where some
// device beside the CPU does. ASYMKV_NATIVE_OPS=0: nothing
uint32_t llama_asymkv_dev_ops(const std::vector<ggml_backend_dev_t> & devs);

// whether attention with cardinalities may run on this device: it takes the op wherever it takes the stock one, and its
// results are the CPU's. tried once per kind and process; the CPU is not tried
bool llama_asymkv_try_attn(const llama_asymkv_attn_kind & kind);
