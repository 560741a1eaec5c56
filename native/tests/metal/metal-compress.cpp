// the interface of native/ggml/common/asymkv-dev-lib.cpp, with the kernels as Metal runs them: launched alone, in any order of
// threads, or (n_threads is 0) as an op of ggml on the device of metal-device.cpp

#include "metal-shim.h"
#include "msl-kernel.h"

#include "ggml-asymkv-compress.h"
#include "ggml-metal-asymkv.h"

#include "ggml-alloc.h"
#include "ggml-backend.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <string>
#include <vector>

// a tensor of the op, and the caller's memory that it stands for
struct copied {
    ggml_tensor * tensor;
    const void *  data;
    bool          is_written;
};

static void run_op(int what, const akv_buffers & b, const akv_params & p) {
    const ggml_init_params params = { 64*ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true };
    std::unique_ptr<ggml_context, decltype(&ggml_free)> holder(ggml_init(params), ggml_free);
    ggml_context * ctx = holder.get();

    std::vector<copied> all;
    const auto tensor = [&](ggml_type type, int64_t row_bytes, int64_t n, const void * data, bool is_written) {
        const int64_t ne0 = row_bytes/ggml_type_size(type)*ggml_blck_size(type);
        all.push_back({ ggml_new_tensor_2d(ctx, type, ne0, n), data, is_written });
        return all.back().tensor;
    };

    // as many rows as the op touches
    const int64_t n_ring = *std::max_element(b.q_rows, b.q_rows + p.n_observed) + 1;
    const int64_t n_rows = std::max<int64_t>(*std::max_element(b.cells, b.cells + p.n_slots) + 1, p.n_keep);
    const int64_t n_all  = p.v_channel ? p.v_channel/ggml_type_size((ggml_type) p.v_type) : n_rows; // of all cells

    const uint32_t n_before = p.first_group*p.n_heads + p.n_group*p.n_heads;

    ggml_asymkv_compress_sources src = {};
    src.k = tensor((ggml_type) p.k_type, p.k_row, n_all, b.k, what == 2);
    src.v = p.v_channel ? tensor((ggml_type) p.v_type, p.v_channel, n_before*p.head_v, b.v, what == 2) :
                          tensor((ggml_type) p.v_type, p.v_row, n_all, b.v, what == 2);
    src.q      = tensor((ggml_type) p.q_type, p.q_row, n_ring, b.q, false);
    src.q_rows = tensor(GGML_TYPE_I32, 4*p.n_observed, 2, b.q_rows, false);
    src.cells  = tensor(GGML_TYPE_I32, 4*p.n_slots, 1, b.cells, false);
    src.slots  = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, p.n_slots, AKV_SLOT_FIELDS, p.n_group);
    all.push_back({ src.slots, b.slots, false });
    src.freqs  = p.n_rot ? tensor(GGML_TYPE_F32, 4*(p.n_rot/2), 1, b.freqs, false) : nullptr;
    src.seen   = what >= 1 ? tensor(GGML_TYPE_F32, 4*(int64_t) akv_seen(p).n_floats, p.n_group, b.seen, true)  : nullptr;
    src.sinks  = p.has_sinks ? tensor(GGML_TYPE_F32, 4*n_before*p.n_gqa, 1, b.sinks, false) : nullptr;
    src.plan   = what >= 2 ? tensor(GGML_TYPE_F32, 4*(int64_t) akv_plan(p).n_floats, p.n_group, b.plan, false) : nullptr;

    ggml_asymkv_compress_scalars s = {};
    s.n_keep          = p.n_keep;
    s.first_group     = p.first_group;
    s.n_heads         = p.n_heads;
    s.n_gqa           = p.n_gqa;
    s.head_k          = p.head_k;
    s.head_v          = p.head_v;
    s.hadamard        = p.hadamard;
    s.scale           = p.scale;
    s.softcap         = p.softcap;
    s.max_cardinality = p.max_cardinality;
    s.decay           = p.decay;
    s.first_index     = p.first_index;
    s.score           = p.score;
    s.key_weights     = p.key_weights;
    s.merges          = p.merges;
    s.evicts          = p.evicts;
    s.rope_neox       = p.rope_neox;
    s.v_trans         = p.v_channel != 0;

    ggml_tensor * res = ggml_asymkv_compress(ctx, src, s);
    if (what < 2) {
        all.push_back({ res, what == 0 ? b.seen : b.plan, true });
    }
    ggml_backend_t backend = metal_shim_backend();
    if (!ggml_backend_supports_op(backend, res)) {
        msl::fail("the device does not support the op");
    }
    ggml_cgraph * graph = ggml_new_graph(ctx);
    ggml_build_forward_expand(graph, res);

    std::unique_ptr<ggml_backend_buffer, decltype(&ggml_backend_buffer_free)> buffer(
            ggml_backend_alloc_ctx_tensors(ctx, backend), ggml_backend_buffer_free);
    ggml_backend_buffer_clear(buffer.get(), 0xff);
    for (const copied & c : all) {
        if (c.tensor != res) {
            ggml_backend_tensor_set(c.tensor, c.data, 0, ggml_nbytes(c.tensor));
        }
    }
    if (ggml_backend_graph_compute(backend, graph) != GGML_STATUS_SUCCESS) {
        msl::fail("the graph was not computed");
    }
    for (const copied & c : all) {
        if (c.is_written) {
            ggml_backend_tensor_get(c.tensor, (void *) c.data, 0, ggml_nbytes(c.tensor));
        }
    }
}

static void run_kernels(int what, const akv_buffers & b, const akv_params & p, uint32_t n_threads) {
    static ggml_metal_device_t device = ggml_metal_device_init(0, 1);

    const ggml_metal_buffer_id buffers[11] = {
        { b.k, 0 }, { b.v, 0 }, { (void *) b.q, 0 }, { (void *) b.q_rows, 0 }, { (void *) b.cells, 0 },
        { (void *) b.slots, 0 }, { (void *) b.freqs, 0 }, { b.seen, 0 }, { b.plan, 0 }, { b.rows, 0 },
        { (void *) b.sinks, 0 },
    };
    const bool only_costs = what == 3;

    std::unique_ptr<ggml_metal_encoder, decltype(&ggml_metal_encoder_free)> encoder(
            ggml_metal_encoder_init(nullptr, true), ggml_metal_encoder_free);
    ggml_metal_asymkv_launch(ggml_metal_device_get_library(device), encoder.get(),
            only_costs ? GGML_METAL_ASYMKV_PLAN : (ggml_metal_asymkv_what) what, p, buffers, n_threads, only_costs ? 3 : -1);
    ggml_metal_encoder_end_encoding(encoder.get());
    metal_shim_rethrow();
}

extern "C" {

const char * akv_dev_run(int what, const akv_buffers * buffers, const akv_params * params, uint32_t n_threads, int order) {
    static std::string problem;

    problem.clear();
    msl::set_order((msl::order) order);
    try {
        if (n_threads == 0) {
            run_op(what, *buffers, *params);
        } else {
            run_kernels(what, *buffers, *params, n_threads);
        }
    } catch (const std::exception & e) {
        problem = e.what();
    }
    msl::set_order(msl::order::backward);
    return problem.empty() ? nullptr : problem.c_str();
}

void akv_dev_seen(const akv_params * params, akv_seen_layout * layout) { *layout = akv_seen(*params); }
void akv_dev_plan(const akv_params * params, akv_plan_layout * layout) { *layout = akv_plan(*params); }

uint32_t akv_dev_rows_bytes(const akv_params * params) { return akv_rows_bytes(*params); }

}
