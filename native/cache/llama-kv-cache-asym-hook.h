#pragma once

#include "ggml-asymkv.h"

#include <cstdint>
#include <functional>

struct llama_ubatch;

class llm_graph_result;

// the attention of one layer while its graph is built (llama_kv_cache_context::build_attn)
struct llm_attn_hook {
    ggml_context       * ctx;
    ggml_cgraph        * gf;
    llm_graph_result   * res;
    const llama_ubatch & ubatch;

    ggml_tensor *& q;       // [head_k, n_head, n_tokens], as it meets the cached keys
    ggml_tensor *& k;       // view of the cache
    ggml_tensor *& v;       // "
    ggml_tensor *& kq_mask;
    ggml_tensor *& sinks;    // [n_head], learned attention sinks; null: none
    ggml_tensor *& log_card; // null: none
    ggml_tensor  * k_cur;   // the keys being stored; null where the layer reads another layer's cache

    float kq_scale;
    int   il;

    std::function<ggml_tensor * ()> attend; // of what stands above: [head_v*n_head, n_tokens]
};
