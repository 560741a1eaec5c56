// which devices get attention with cardinalities: the gate in ggml-backend.cpp, and the trial that libllama makes
// (native/cache/llama-asymkv-native.cpp, compiled into this program). The devices are the CPU's own, under other registries

#include "llama-asymkv-native.h"

#include "ggml-backend-impl.h"
#include "ggml-cpp.h"
#include "ggml-cpu.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

static const char * current = "";

#define CHECK(x)                                                                             \
    do {                                                                                     \
        if (!(x)) {                                                                          \
            fprintf(stderr, "FAIL %s: %s (%s:%d)\n", current, #x, __FILE__, __LINE__);       \
            exit(1);                                                                         \
        }                                                                                    \
    } while (0)

// libllama's log
static int n_warnings = 0;

void llama_log_internal(ggml_log_level level, const char * format, ...) {
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    n_warnings += level == GGML_LOG_LEVEL_WARN;
}

//
// devices that compute as the CPU does, and say that they are GPUs
//

static ggml_backend_dev_t cpu_dev() { return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU); }

static uint32_t answer_attn() { return GGML_ASYMKV_OPS_ATTN; }

static void * proc_none(ggml_backend_reg_t, const char *) { return nullptr; }

static void * proc_attn(ggml_backend_reg_t, const char * name) {
    return strcmp(name, GGML_ASYMKV_OPS_PROC) == 0 ? (void *) answer_attn : nullptr;
}

// computes as if there were no cardinalities, which is what a backend does that does not know the source
static ggml_status compute_without(ggml_backend_t backend, ggml_cgraph * graph) {
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        ggml_tensor * node = ggml_graph_node(graph, i);
        if (ggml_asymkv_log_card(node)) {
            ggml_asymkv_set_log_card(node, nullptr);
        }
    }
    ggml_backend_ptr cpu(ggml_backend_cpu_init());
    return ggml_backend_graph_compute(cpu.get(), graph);

    GGML_UNUSED(backend);
}

static ggml_backend_t init_honest(ggml_backend_dev_t, const char *) { return ggml_backend_cpu_init(); }

static ggml_backend_t init_forgetful(ggml_backend_dev_t, const char *) {
    ggml_backend_t backend = ggml_backend_cpu_init();
    backend->iface.graph_compute = compute_without;
    return backend;
}

static ggml_backend_t init_broken(ggml_backend_dev_t, const char *) { return nullptr; }

static bool supports_without(ggml_backend_dev_t, const ggml_tensor * op) { return !ggml_asymkv_log_card(op); }
static bool supports_nothing(ggml_backend_dev_t, const ggml_tensor * op) { return op->op == GGML_OP_NONE; }

static enum ggml_backend_dev_type type_gpu(ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; }

// a trial is remembered by its device: those that are tried are static, and so at addresses of their own
struct device {
    ggml_backend_reg    reg;
    ggml_backend_device dev;

    device(void * (*proc)(ggml_backend_reg_t, const char *), ggml_backend_t (*init)(ggml_backend_dev_t, const char *)) : reg(*cpu_dev()->reg), dev(*cpu_dev()) {
        reg.iface.get_proc_address = proc;
        dev.reg                    = &reg;
        dev.iface.get_type         = type_gpu;
        dev.iface.init_backend     = init;
    }
};

//
// ops
//

struct ops {
    ggml_context_ptr ctx;

    ggml_tensor * stock[2];
    ggml_tensor * native[2];

    ops() {
        ctx.reset(ggml_init({ 32*ggml_tensor_overhead(), nullptr, true }));

        ggml_tensor * q      = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, 64, 1, 4);
        ggml_tensor * kv     = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F16, 64, 128, 2);
        ggml_tensor * mask   = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F16, 128, 1);
        ggml_tensor * scores = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, 128, 1, 4);
        ggml_tensor * card   = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F16, 128, 1, 2);

        for (auto * out : { stock, native }) {
            out[0] = ggml_flash_attn_ext(ctx.get(), q, kv, kv, mask, 1.0f, 0.0f, 0.0f);
            out[1] = ggml_soft_max_ext(ctx.get(), scores, mask, 1.0f, 0.0f);
        }
        for (auto * op : native) {
            ggml_asymkv_set_log_card(op, card);
        }
    }
};

static void a_backend_that_does_not_answer_gets_the_stock_ops_only() {
    device silent(proc_none, init_honest);
    ops    o;

    for (int i = 0; i < 2; ++i) {
        CHECK( ggml_backend_dev_supports_op(&silent.dev, o.stock [i]));
        CHECK(!ggml_backend_dev_supports_op(&silent.dev, o.native[i]));
        CHECK( ggml_backend_dev_supports_op(cpu_dev(),   o.native[i]));
    }
}

static void a_backend_whose_registry_has_no_functions_at_all_is_one_that_does_not_answer() {
    device mute(nullptr, init_honest);
    ops    o;

    CHECK(!ggml_backend_dev_supports_op(&mute.dev, o.native[0]));
}

static void a_device_without_a_registry_does_not_answer() {
    device meta(proc_attn, init_honest);
    meta.dev.reg = nullptr;
    ops o;

    CHECK(ggml_asymkv_dev_ops(&meta.dev) == 0);
    CHECK(!ggml_backend_dev_supports_op(&meta.dev, o.native[0]));
}

static void a_backend_that_answers_still_decides_for_itself() {
    static device choosy(proc_attn, init_honest);
    choosy.dev.iface.supports_op = supports_without;
    ops o;

    CHECK(!ggml_backend_dev_supports_op(&choosy.dev, o.native[0]));
    CHECK( ggml_backend_dev_supports_op(&choosy.dev, o.stock [0]));
}

static void one_device_that_does_not_answer_decides_for_all() {
    device able(proc_attn, init_honest), silent(proc_none, init_honest);

    CHECK(llama_asymkv_dev_ops({}) == ggml_asymkv_dev_ops(cpu_dev()));
    CHECK(llama_asymkv_dev_ops({ &able.dev }) == GGML_ASYMKV_OPS_ATTN);
    CHECK(llama_asymkv_dev_ops({ &able.dev, &silent.dev }) == 0);
}

// the CPU, and whatever else ggml was built with and finds: a Vulkan device, for example (scripts/vulkan_test.sh)
static void real_devices_get_what_they_answer_for_and_nothing_else() {
    ops o;

    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t dev = ggml_backend_dev_get(i);
        const bool has_attn     = ggml_asymkv_dev_ops(dev) & GGML_ASYMKV_OPS_ATTN;
        const bool has_compress = ggml_asymkv_dev_ops(dev) & GGML_ASYMKV_OPS_COMPRESS;

        for (const auto * op : o.native) {
            CHECK(has_attn || !ggml_backend_dev_supports_op(dev, op));
        }
        for (ggml_op op : { GGML_OP_ASYMKV_OBSERVE, GGML_OP_ASYMKV_PLAN, GGML_OP_ASYMKV_MERGE }) {
            ggml_tensor node = *o.stock[0];
            node.op = op;
            CHECK(has_compress || !ggml_backend_dev_supports_op(dev, &node));
        }
        printf("%s: stock attention %s, with cardinalities %s, compression %s\n", ggml_backend_dev_name(dev),
                ggml_backend_dev_supports_op(dev, o.stock[0]) ? "taken" : "refused", has_attn ? "taken" : "refused",
                has_compress ? "taken" : "refused");
    }
}

//
// the trial
//

static llama_asymkv_attn_kind kind_of(ggml_backend_dev_t dev, bool flash, bool per_head = true) {
    return { dev, GGML_TYPE_Q8_0, GGML_TYPE_F16, 64, 64, 4, per_head, flash, 0.0f };
}

static void a_device_that_computes_what_the_cpu_computes_passes() {
    static device honest(proc_attn, init_honest);

    for (bool flash : { false, true }) {
        for (bool per_head : { false, true }) {
            CHECK(llama_asymkv_try_attn(kind_of(&honest.dev, flash, per_head)));
        }
    }
    CHECK(n_warnings == 0);
}

static void a_device_that_forgets_the_source_is_found_out_and_warned_of_once() {
    static device forgetful(proc_attn, init_forgetful);

    CHECK(!llama_asymkv_try_attn(kind_of(&forgetful.dev, true)));
    CHECK(!llama_asymkv_try_attn(kind_of(&forgetful.dev, true)));
    CHECK(n_warnings == 1);
    CHECK(!llama_asymkv_try_attn(kind_of(&forgetful.dev, false)));
    n_warnings = 0;
}

static void a_device_that_cannot_be_started_fails_the_trial() {
    static device broken(proc_attn, init_broken);

    CHECK(!llama_asymkv_try_attn(kind_of(&broken.dev, true)));
    CHECK(n_warnings == 1);
    n_warnings = 0;
}

static void a_device_that_takes_the_stock_op_only_fails_without_a_warning() {
    static device choosy(proc_attn, init_honest);
    choosy.dev.iface.supports_op = supports_without;

    CHECK(!llama_asymkv_try_attn(kind_of(&choosy.dev, true)));
    CHECK(n_warnings == 0);
}

static void a_device_that_takes_neither_leaves_the_op_to_the_cpu() {
    static device none(proc_attn, init_honest);
    none.dev.iface.supports_op = supports_nothing;

    CHECK(llama_asymkv_try_attn(kind_of(&none.dev, true)));
}

#define RUN(test)        \
    do {                 \
        current = #test; \
        test();          \
    } while (0)

int main() {
    RUN(a_backend_that_does_not_answer_gets_the_stock_ops_only);
    RUN(a_backend_whose_registry_has_no_functions_at_all_is_one_that_does_not_answer);
    RUN(a_device_without_a_registry_does_not_answer);
    RUN(a_backend_that_answers_still_decides_for_itself);
    RUN(one_device_that_does_not_answer_decides_for_all);
    RUN(real_devices_get_what_they_answer_for_and_nothing_else);
    RUN(a_device_that_computes_what_the_cpu_computes_passes);
    RUN(a_device_that_forgets_the_source_is_found_out_and_warned_of_once);
    RUN(a_device_that_cannot_be_started_fails_the_trial);
    RUN(a_device_that_takes_the_stock_op_only_fails_without_a_warning);
    RUN(a_device_that_takes_neither_leaves_the_op_to_the_cpu);
    printf("11 tests passed\n");
    return 0;
}
