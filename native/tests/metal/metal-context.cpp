// ggml-metal-context.m without Metal: graphs are encoded by ggml-metal-ops.cpp, and so computed, in the calling thread

#include "metal-shim.h"

#include "ggml-metal-common.h"
#include "ggml-metal-context.h"
#include "ggml-metal-ops.h"

#include "ggml-impl.h"

#include <cstring>

struct ggml_metal {
    ggml_metal_device_t dev;
};

ggml_metal_t ggml_metal_init(ggml_metal_device_t dev) { return new ggml_metal { dev }; }
void         ggml_metal_free(ggml_metal_t ctx)        { delete ctx; }

const char * ggml_metal_get_name   (ggml_metal_t ctx) { return ggml_metal_device_get_props(ctx->dev)->name; }
void         ggml_metal_synchronize(ggml_metal_t)     {}

void ggml_metal_set_tensor_async(ggml_metal_t, ggml_tensor * t, const void * data, size_t offset, size_t size) {
    memcpy((char *) t->data + offset, data, size);
}

void ggml_metal_get_tensor_async(ggml_metal_t, const ggml_tensor * t, void * data, size_t offset, size_t size) {
    memcpy(data, (const char *) t->data + offset, size);
}

bool ggml_metal_cpy_tensor_async(ggml_metal_t, ggml_metal_t, const ggml_tensor *, ggml_tensor *) { return false; }

enum ggml_status ggml_metal_graph_compute(ggml_metal_t ctx, ggml_cgraph * gf) {
    ggml_metal_op_t op = ggml_metal_op_init(
            ctx->dev, nullptr, gf, ggml_metal_device_get_fusion_info(ctx->dev), 0, gf->n_nodes, true, false, 0);

    for (int i = 0; i < ggml_metal_op_n_nodes(op); ++i) {
        const int n = ggml_metal_op_encode(op, i);
        if (n == 0) {
            ggml_metal_op_free(op);
            return GGML_STATUS_FAILED;
        }
        i += n - 1;
    }
    ggml_metal_op_free(op); // ends the encoding
    metal_shim_rethrow();
    return GGML_STATUS_SUCCESS;
}

void ggml_metal_graph_optimize(ggml_metal_t, ggml_cgraph * gf) { ggml_graph_optimize(gf); }

void               ggml_metal_event_record(ggml_metal_t, ggml_metal_event_t) {}
void               ggml_metal_event_wait  (ggml_metal_t, ggml_metal_event_t) {}
ggml_metal_event_t ggml_metal_get_ev_cpy  (ggml_metal_t)                     { return nullptr; }

void ggml_metal_set_n_cb            (ggml_metal_t, int)                         {}
void ggml_metal_set_abort_callback  (ggml_metal_t, ggml_abort_callback, void *) {}
bool ggml_metal_supports_family     (ggml_metal_t, int)                         { return true; }
void ggml_metal_capture_next_compute(ggml_metal_t)                              {}
