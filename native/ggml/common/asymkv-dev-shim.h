#pragma once

#include "asymkv-dev-args.h"

#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <ucontext.h>

// a block of threads on a CPU: every thread is a fiber that runs until it meets a barrier. One fiber runs at a time, so a
// run is deterministic, and running it in other orders tells whether a barrier is missing. Told as well: a thread that
// ends while others wait, writes behind the shared memory, and reads of shared memory that nobody has written (NaN).
//
// what this cannot tell: whether the device's compiler takes the same source, how fast it is, and how its mathematics round

#if defined(__SANITIZE_ADDRESS__)
#    include <sanitizer/common_interface_defs.h>
#    define AKV_SHIM_ASAN
#elif defined(__has_feature)
#    if __has_feature(address_sanitizer)
#        include <sanitizer/common_interface_defs.h>
#        define AKV_SHIM_ASAN
#    endif
#endif

typedef void (*akv_body)(akv_buffers, const akv_params &, float *, akv_place);

enum akv_order { AKV_FORWARD = 0, AKV_BACKWARD = 1, AKV_SHUFFLED = 2 };

static const float  AKV_GUARD      = 12345.5f;
static const size_t AKV_STACK_SIZE = 256*1024;

class akv_block {
public:
    // runs one block; false: error() tells what is wrong with the kernel
    bool run(akv_body body, const akv_buffers & buffers, const akv_params & params, uint32_t group, uint32_t tile, uint32_t n_threads, akv_order order) {
        constexpr uint32_t n_guard = 16;
        const     uint32_t n_local = akv_local_floats(params, n_threads);

        local.assign(n_local, std::numeric_limits<float>::quiet_NaN());
        local.resize(n_local + n_guard, AKV_GUARD);

        this->body    = body;
        this->buffers = buffers;
        this->params  = &params;
        this->place   = { 0, n_threads, group, tile };

        while (fibers.size() < n_threads) {
            fibers.push_back(std::unique_ptr<fiber>(new fiber));
        }
        std::vector<uint32_t> turn(n_threads);
        for (uint32_t t = 0; t < n_threads; ++t) {
            turn[t] = order == AKV_BACKWARD ? n_threads - 1 - t : t;
            fibers[t]->is_done = false;
        }

        uint32_t random = 12345;
        for (uint32_t n_left = n_threads; n_left > 0; ) {
            for (uint32_t t = n_threads; order == AKV_SHUFFLED && t > 1; --t) {
                random = random*1664525u + 1013904223u;
                std::swap(turn[t - 1], turn[(random >> 8) % t]);
            }
            uint32_t n_done = 0;
            for (uint32_t t : turn) {
                enter(t);
                n_done += fibers[t]->is_done;
            }
            if (n_done > 0 && n_done < n_threads) {
                fibers.clear(); // the others wait for ever
                problem = std::to_string(n_done) + " of " + std::to_string(n_threads) + " threads ended while the others wait at a barrier";
                return false;
            }
            n_left -= n_done;
        }

        for (uint32_t x = n_local; x < n_local + n_guard; ++x) {
            if (local[x] != AKV_GUARD) {
                problem = "a write behind the shared memory, to float " + std::to_string(x) + " of " + std::to_string(n_local);
                return false;
            }
        }
        return true;
    }

    const std::string & error() const { return problem; }

    // the fiber that runs lets the others run
    static void barrier() { current()->leave(); }

private:
    struct fiber {
        std::unique_ptr<char[]> stack { new char[AKV_STACK_SIZE] };
        ucontext_t context = {};
        jmp_buf    here;
        bool       is_started = false;
        bool       is_done    = false;
#if defined(AKV_SHIM_ASAN)
        void * fake_stack = nullptr;
#endif
    };

    akv_body           body   = nullptr;
    akv_buffers        buffers = {};
    const akv_params * params = nullptr;
    akv_place          place  = {};
    std::vector<float> local;
    std::string        problem;

    std::vector<std::unique_ptr<fiber>> fibers;
    uint32_t   active = 0;
    ucontext_t main_context = {};
    jmp_buf    main_here;

    static akv_block *& current() {
        static thread_local akv_block * block = nullptr;
        return block;
    }

    // a fiber runs one block's body after the other
    static void start() {
        akv_block * block = current();
#if defined(AKV_SHIM_ASAN)
        __sanitizer_finish_switch_fiber(nullptr, &block->main_stack, &block->main_size);
#endif
        for (;;) {
            akv_place at = block->place;
            at.thread = block->active;
            block->body(block->buffers, *block->params, block->local.data(), at);
            block->fibers[at.thread]->is_done = true;
            block->leave();
        }
    }

#if defined(AKV_SHIM_ASAN)
    // swapcontext tells the sanitizer which stack is next
    const void * main_stack = nullptr;
    size_t       main_size  = 0;

    void enter(uint32_t t) {
        auto & f = *fibers[t];
        current() = this;
        active = t;
        if (!f.is_started) {
            make(f);
        }
        void * fake = nullptr;
        __sanitizer_start_switch_fiber(&fake, f.stack.get(), AKV_STACK_SIZE);
        swapcontext(&main_context, &f.context);
        __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
    }

    void leave() {
        auto & f = *fibers[active];
        __sanitizer_start_switch_fiber(&f.fake_stack, main_stack, main_size);
        swapcontext(&f.context, &main_context);
        __sanitizer_finish_switch_fiber(f.fake_stack, &main_stack, &main_size);
    }
#else
    // swapcontext asks the system for its signal mask each time: only a fiber's first start needs it
    void enter(uint32_t t) {
        auto & f = *fibers[t];
        current() = this;
        active = t;
        if (_setjmp(main_here) == 0) {
            if (f.is_started) {
                _longjmp(f.here, 1);
            }
            make(f);
            setcontext(&f.context);
        }
    }

    void leave() {
        if (_setjmp(fibers[active]->here) == 0) {
            _longjmp(main_here, 1);
        }
    }
#endif

    void make(fiber & f) {
        getcontext(&f.context);
        f.context.uc_stack.ss_sp   = f.stack.get();
        f.context.uc_stack.ss_size = AKV_STACK_SIZE;
        f.context.uc_link          = nullptr;
        makecontext(&f.context, (void (*)()) start, 0);
        f.is_started = true;
    }
};

inline void akv_shim_barrier() {
    akv_block::barrier();
}
