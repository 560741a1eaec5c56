// ggml-metal-device.m without Metal: the same interface (ggml-metal-device.h), for a device that is the CPU running the
// kernels of msl-kernel.h. Stricter than Metal where that finds mistakes: what may run concurrently runs in the wrong order,
// and each dispatch must set all that its kernel reads

#include "metal-shim.h"
#include "msl-kernel.h"

#include "ggml-metal-asymkv.h"
#include "ggml-metal-common.h"
#include "ggml-metal-device.h"
#include "ggml-metal-fusion.h"
#include "ggml-metal-impl.h"

#include "ggml-impl.h"

#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <utility>

//
// function constants, pipelines and libraries
//

struct ggml_metal_cv {
    std::map<int, int64_t> values;
};

ggml_metal_cv_t ggml_metal_cv_init(void)               { return new ggml_metal_cv; }
void            ggml_metal_cv_free(ggml_metal_cv_t cv) { delete cv; }

void ggml_metal_cv_set_int16(ggml_metal_cv_t cv, int16_t value, int32_t idx) { cv->values[idx] = value; }
void ggml_metal_cv_set_int32(ggml_metal_cv_t cv, int32_t value, int32_t idx) { cv->values[idx] = value; }
void ggml_metal_cv_set_bool (ggml_metal_cv_t cv, bool    value, int32_t idx) { cv->values[idx] = value; }

struct ggml_metal_pipeline {
    const msl::body *      body;
    std::string            name;
    std::map<int, int64_t> constants;
};

ggml_metal_pipeline_t ggml_metal_pipeline_init(void)                           { return new ggml_metal_pipeline; }
void                  ggml_metal_pipeline_free(ggml_metal_pipeline_t pipeline) { delete pipeline; }

int ggml_metal_pipeline_max_theads_per_threadgroup(struct ggml_metal_pipeline_with_params) { return 1024; }

struct ggml_metal_library {
    ggml_metal_device_t    dev;
    ggml_metal_pipelines_t pipelines;
};

ggml_metal_library_t ggml_metal_library_init(ggml_metal_device_t dev) {
    return new ggml_metal_library { dev, ggml_metal_pipelines_init() };
}

void ggml_metal_library_free(ggml_metal_library_t lib) {
    ggml_metal_pipelines_free(lib->pipelines);
    delete lib;
}

ggml_metal_device_t ggml_metal_library_get_device(ggml_metal_library_t lib) {
    return lib->dev;
}

struct ggml_metal_pipeline_with_params ggml_metal_library_get_pipeline(ggml_metal_library_t lib, const char * name) {
    ggml_metal_pipeline_with_params res = {};
    res.pipeline = ggml_metal_pipelines_get(lib->pipelines, name);
    return res;
}

struct ggml_metal_pipeline_with_params ggml_metal_library_compile_pipeline(
        ggml_metal_library_t lib, const char * base, const char * name, ggml_metal_cv_t cv) {
    const msl::body * body = msl::find_kernel(base);
    if (!body) {
        msl::fail("no kernel %s was compiled", base);
    }
    ggml_metal_pipeline_with_params res = {};
    res.pipeline = new ggml_metal_pipeline { body, name, cv ? cv->values : std::map<int, int64_t>() };
    ggml_metal_pipelines_add(lib->pipelines, name, res.pipeline);
    return res;
}

//
// encoders
//

struct dispatch {
    ggml_metal_pipeline_t pipeline;
    msl::grid             grid;

    std::vector<std::shared_ptr<std::vector<uint8_t>>> bytes;
};

struct ggml_metal_encoder {
    dispatch              next;
    std::vector<dispatch> pending; // since the last barrier
};

static std::string dispatched;

const char * metal_shim_dispatched(void) { return dispatched.c_str(); }

ggml_metal_encoder_t ggml_metal_encoder_init(ggml_metal_cmd_buf_t, bool)      { return new ggml_metal_encoder; }
void                 ggml_metal_encoder_free(ggml_metal_encoder_t encoder)    { delete encoder; }
void ggml_metal_encoder_debug_group_push(ggml_metal_encoder_t, const char *)  {}
void ggml_metal_encoder_debug_group_pop (ggml_metal_encoder_t)                {}

void ggml_metal_encoder_set_pipeline(ggml_metal_encoder_t encoder, struct ggml_metal_pipeline_with_params pipeline) {
    encoder->next = {};
    encoder->next.pipeline = pipeline.pipeline;
}

void ggml_metal_encoder_set_bytes(ggml_metal_encoder_t encoder, void * data, size_t size, int idx) {
    auto copy = std::make_shared<std::vector<uint8_t>>((uint8_t *) data, (uint8_t *) data + size);
    encoder->next.grid.buffers[idx] = copy->data();
    encoder->next.bytes.push_back(copy);
}

void ggml_metal_encoder_set_buffer(ggml_metal_encoder_t encoder, struct ggml_metal_buffer_id buffer, int idx) {
    encoder->next.grid.buffers[idx] = (char *) buffer.metal + buffer.offs;
}

void ggml_metal_encoder_set_threadgroup_memory_size(ggml_metal_encoder_t encoder, size_t size, int idx) {
    if (idx != 0 || size > 32*1024 || size%16 != 0) {
        msl::fail("%s: threadgroup memory %d of %zu bytes", encoder->next.pipeline->name.c_str(), idx, size);
    }
    encoder->next.grid.threadgroup_memory.resize(size);
}

void ggml_metal_encoder_dispatch_threadgroups(
        ggml_metal_encoder_t encoder, int tg0, int tg1, int tg2, int tptg0, int tptg1, int tptg2) {
    encoder->next.grid.threadgroups = metal::uint3(tg0, tg1, tg2);
    encoder->next.grid.threads      = metal::uint3(tptg0, tptg1, tptg2);
    encoder->pending.push_back(encoder->next);
}

static std::exception_ptr failure; // kept: the last dispatches run in a destructor

void metal_shim_rethrow(void) {
    if (failure) {
        std::rethrow_exception(std::exchange(failure, nullptr));
    }
}

void ggml_metal_encoder_memory_barrier(ggml_metal_encoder_t encoder) {
    try {
        for (auto it = encoder->pending.rbegin(); it != encoder->pending.rend(); ++it) {
            msl::set_function_constants(it->pipeline->constants);
            msl::run(it->grid, it->pipeline->name.c_str(), *it->pipeline->body);
            dispatched += it->pipeline->name + "\n";
        }
    } catch (...) {
        failure = std::current_exception();
    }
    encoder->pending.clear();
}

void ggml_metal_encoder_end_encoding(ggml_metal_encoder_t encoder) {
    ggml_metal_encoder_memory_barrier(encoder);
}

//
// the device
//

struct ggml_metal_device {
    ggml_metal_device_props props;
    ggml_metal_library_t    library;
    ggml_metal_fusion_info * finfo;
};

ggml_metal_device_t ggml_metal_device_init(int device, int) {
    ggml_metal_device_t dev = new ggml_metal_device {};

    dev->props.device       = device;
    dev->props.device_phys  = device;
    dev->props.max_buffer_size            = (size_t) 4 << 30;
    dev->props.max_working_set_size       = (size_t) 4 << 30;
    dev->props.max_theadgroup_memory_size = 32*1024;
    dev->props.has_simdgroup_reduction    = true;
    dev->props.has_simdgroup_mm           = true;
    dev->props.has_unified_memory         = true;
    dev->props.has_bfloat                 = true;
    dev->props.use_shared_buffers         = true;
    dev->props.supports_gpu_family_apple7 = true;
    dev->props.gpu_family                 = 7;
    dev->props.op_offload_min_batch_size  = 32;
    snprintf(dev->props.name, sizeof(dev->props.name), "MTL%d", device);
    snprintf(dev->props.desc, sizeof(dev->props.desc), "the CPU, as if it were a Metal device");

    dev->library = ggml_metal_library_init(dev);
    dev->finfo   = ggml_metal_fusion_info_init(true, 0);
    return dev;
}

void ggml_metal_device_free(ggml_metal_device_t dev) {
    ggml_metal_fusion_info_free(dev->finfo);
    ggml_metal_library_free(dev->library);
    delete dev;
}

void *               ggml_metal_device_get_obj    (ggml_metal_device_t)     { return nullptr; }
void *               ggml_metal_device_get_queue  (ggml_metal_device_t)     { return nullptr; }
ggml_metal_library_t ggml_metal_device_get_library(ggml_metal_device_t dev) { return dev->library; }

const ggml_metal_device_props * ggml_metal_device_get_props(ggml_metal_device_t dev) { return &dev->props; }

struct ggml_metal_fusion_info * ggml_metal_device_get_fusion_info(ggml_metal_device_t dev) { return dev->finfo; }

const char * ggml_metal_device_id_token(enum ggml_metal_device_id) { return "shim"; }

void ggml_metal_device_get_memory(ggml_metal_device_t dev, size_t * free, size_t * total) {
    *free = *total = dev->props.max_working_set_size;
}

ggml_metal_event_t ggml_metal_device_event_init       (ggml_metal_device_t)                     { return nullptr; }
void               ggml_metal_device_event_free       (ggml_metal_device_t, ggml_metal_event_t) {}
void               ggml_metal_device_event_synchronize(ggml_metal_device_t, ggml_metal_event_t) {}

#include "supports-op.inc" // ggml_metal_device_supports_op(), as it stands in ggml-metal-device.m

//
// buffers
//

struct ggml_metal_buffer {
    void * data;
    size_t size;
    bool   owned;
};

ggml_metal_buffer_t ggml_metal_buffer_init(ggml_metal_device_t, size_t size, bool) {
    const size_t padded = GGML_PAD(size, 4096);
    return new ggml_metal_buffer { aligned_alloc(4096, padded), padded, true };
}

ggml_metal_buffer_t ggml_metal_buffer_map(ggml_metal_device_t, void * ptr, size_t size, size_t) {
    return new ggml_metal_buffer { ptr, size, false };
}

void ggml_metal_buffer_free(ggml_metal_buffer_t buf) {
    if (buf->owned) {
        free(buf->data);
    }
    delete buf;
}

void * ggml_metal_buffer_get_base (ggml_metal_buffer_t buf) { return buf->data; }
bool   ggml_metal_buffer_is_shared(ggml_metal_buffer_t)     { return true; }

void ggml_metal_buffer_memset_tensor(ggml_metal_buffer_t, ggml_tensor * t, uint8_t value, size_t offset, size_t size) {
    memset((char *) t->data + offset, value, size);
}

void ggml_metal_buffer_set_tensor(ggml_metal_buffer_t, ggml_tensor * t, const void * data, size_t offset, size_t size) {
    memcpy((char *) t->data + offset, data, size);
}

void ggml_metal_buffer_get_tensor(ggml_metal_buffer_t, const ggml_tensor * t, void * data, size_t offset, size_t size) {
    memcpy(data, (const char *) t->data + offset, size);
}

bool ggml_metal_buffer_cpy_tensor(ggml_metal_buffer_t, const ggml_tensor *, ggml_tensor *) { return false; }

void ggml_metal_buffer_clear(ggml_metal_buffer_t buf, uint8_t value) { memset(buf->data, value, buf->size); }

struct ggml_metal_buffer_id ggml_metal_buffer_get_id(ggml_metal_buffer_t buf, const ggml_tensor * t) {
    const size_t offset = (const char *) t->data - (const char *) buf->data;
    if (offset + ggml_nbytes(t) > buf->size) {
        msl::fail("the tensor %s is not in its buffer", t->name);
    }
    return { buf->data, offset };
}
