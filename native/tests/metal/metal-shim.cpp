#include "metal-shim.h"

#include "ggml-asymkv.h"

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-metal.h"
#include "ggml.h"

#include <exception>
#include <memory>
#include <string>

ggml_backend_t metal_shim_backend(void) {
    static ggml_backend_t metal = ggml_backend_dev_init(ggml_backend_reg_dev_get(ggml_backend_metal_reg(), 0), nullptr);
    return metal;
}

static void set(ggml_tensor * t, const void * data) {
    if (t) {
        ggml_backend_tensor_set(t, data, 0, ggml_nbytes(t));
    }
}

static std::string error;

const char * metal_shim_error(void) { return error.c_str(); }

static int attention(const struct metal_shim_attention * a) {
    const ggml_init_params params = { 64*ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true };
    std::unique_ptr<ggml_context, decltype(&ggml_free)> holder(ggml_init(params), ggml_free);
    ggml_context * ctx = holder.get();

    const ggml_type type = (ggml_type) a->type;

    ggml_tensor * q = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, a->flash ? a->dk : a->n_kv, a->n_tokens, a->n_head);
    ggml_tensor * k = nullptr;
    ggml_tensor * v = nullptr;
    ggml_tensor * mask     = a->mask     ? ggml_new_tensor_2d(ctx, (ggml_type) a->mask_type, a->n_kv, a->n_tokens) : nullptr;
    ggml_tensor * sinks    = a->sinks    ? ggml_new_tensor_1d(ctx, GGML_TYPE_F32, a->n_head) : nullptr;
    ggml_new_tensor_1d(ctx, GGML_TYPE_F32, 64); // tensors that touch are taken to overlap
    ggml_tensor * log_card = a->log_card ? ggml_new_tensor_2d(ctx, GGML_TYPE_F16, a->n_slots, a->n_group) : nullptr;
    ggml_tensor * given    = log_card;

    ggml_tensor * res = nullptr;
    if (a->flash) {
        k = ggml_new_tensor_2d(ctx, type, (int64_t) a->dk*a->n_head_kv, a->n_slots);
        v = ggml_new_tensor_2d(ctx, type, (int64_t) a->dv*a->n_head_kv, a->n_slots);
        res = ggml_flash_attn_ext(ctx, q,
                ggml_view_3d(ctx, k, a->dk, a->n_kv, a->n_head_kv, k->nb[1], ggml_row_size(type, a->dk), 0),
                ggml_view_3d(ctx, v, a->dv, a->n_kv, a->n_head_kv, v->nb[1], ggml_row_size(type, a->dv), 0),
                mask, a->scale, a->max_bias, a->softcap);
        ggml_flash_attn_ext_add_sinks(res, sinks);
        if (a->n_kv_max > 0) {
            ggml_flash_attn_ext_set_n_kv_max(res, a->n_kv_max);
        }
    } else {
        res = ggml_soft_max_ext(ctx, q, mask, a->scale, a->max_bias);
        ggml_soft_max_add_sinks(res, sinks);
    }
    if (log_card) {
        ggml_tensor * source = log_card;
        if (a->written_before) {
            ggml_new_tensor_1d(ctx, GGML_TYPE_F32, 64);
            given  = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, a->n_slots, a->n_group);
            source = ggml_cpy(ctx, given, log_card);
        }
        ggml_asymkv_set_log_card(res, ggml_view_4d(ctx, source, a->n_kv, 1, a->n_group, 1,
                log_card->nb[1], log_card->nb[1], log_card->nb[1]*a->n_group, 0));
    }
    if (!ggml_backend_supports_op(metal_shim_backend(), res)) {
        return METAL_SHIM_UNSUPPORTED;
    }

    ggml_cgraph * graph = ggml_new_graph(ctx);
    ggml_build_forward_expand(graph, res);

    std::unique_ptr<ggml_backend_buffer, decltype(&ggml_backend_buffer_free)> buffer(
            ggml_backend_alloc_ctx_tensors(ctx, metal_shim_backend()), ggml_backend_buffer_free);
    if (!buffer) {
        error = "no memory for the tensors";
        return METAL_SHIM_FAILED;
    }
    ggml_backend_buffer_clear(buffer.get(), 0xff); // NaN, wherever nobody writes

    set(q, a->q);
    set(k, a->k);
    set(v, a->v);
    set(mask, a->mask);
    set(sinks, a->sinks);
    set(given, a->log_card);
    if (ggml_backend_graph_compute(metal_shim_backend(), graph) != GGML_STATUS_SUCCESS) {
        error = "the graph was not computed";
        return METAL_SHIM_FAILED;
    }
    ggml_backend_tensor_get(res, a->result, 0, ggml_nbytes(res));
    return METAL_SHIM_OK;
}

int metal_shim_attention(const struct metal_shim_attention * a) {
    try {
        return attention(a);
    } catch (const std::exception & e) {
        error = e.what();
        return METAL_SHIM_FAILED;
    }
}

void metal_shim_vec_config(int n_queries, int n_elements) {
    ggml_backend_reg_t reg = ggml_backend_metal_reg();
    if (n_queries > 0) {
        void * set_config = ggml_backend_reg_get_proc_address(reg, "ggml_backend_metal_tuning_set_fa_vec_override");
        ((void (*)(int, int)) set_config)(n_queries, n_elements);
    } else {
        void * clear_config = ggml_backend_reg_get_proc_address(reg, "ggml_backend_metal_tuning_clear_fa_vec_override");
        ((void (*)(void)) clear_config)();
    }
}

uint32_t metal_shim_asymkv_ops(void) {
    return ggml_asymkv_dev_ops(ggml_backend_reg_dev_get(ggml_backend_metal_reg(), 0));
}
