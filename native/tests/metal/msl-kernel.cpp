#include "msl-kernel.h"

#include <algorithm>
#include <csetjmp>
#include <cstdarg>
#include <cstdio>
#include <exception>
#include <memory>
#include <random>
#include <stdexcept>
#include <utility>

#include <ucontext.h>

namespace msl {

void fail(const char * format, ...) {
    char text[512];

    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    throw std::runtime_error(text);
}

//
// fibers: entered by ucontext, switched by setjmp, which unlike swapcontext needs no system call
//

enum class state { ready, in_simdgroup, in_threadgroup, returned };

struct fiber {
    state      now = state::ready;
    bool       entered = false;
    position   where;
    jmp_buf    place;
    ucontext_t start;

    std::unique_ptr<char[]> stack;
};

struct simdgroup {
    meeting      what;
    int          n_here = 0;
    int          turn   = 0; // of the two buffers: a lane may bring its next value before all have read this one
    const void * values[2][n_lanes];

    alignas(16) char bytes[2][n_lanes][16];
};

static constexpr size_t stack_size = 128*1024;
static constexpr int    n_guard    = 1024; // bytes behind the threadgroup's memory. Zeros may be written there: upstream's vec
                                           // kernel clears more than it has where a thread holds 4 head elements

static std::vector<fiber>     fibers;
static std::vector<simdgroup> simdgroups;

static fiber *    running;
static jmp_buf    scheduler;
static ucontext_t scheduler_context;

static std::exception_ptr thrown; // by a fiber: what it throws cannot leave its stack

static const grid * grid_now;
static const body * body_now;

static void enter() {
    try {
        (*body_now)(*grid_now, running->where);
    } catch (...) {
        thrown = std::current_exception();
    }
    running->now = state::returned;
    _longjmp(scheduler, 1);
}

static void resume(fiber & f) {
    running = &f;
    if (_setjmp(scheduler) != 0) {
        return;
    }
    if (f.entered) {
        _longjmp(f.place, 1);
    }
    f.entered = true;
    if (!f.stack) {
        f.stack.reset(new char[stack_size]);
    }
    getcontext(&f.start);
    f.start.uc_stack.ss_sp   = f.stack.get();
    f.start.uc_stack.ss_size = stack_size;
    f.start.uc_link          = &scheduler_context;
    makecontext(&f.start, enter, 0);
    setcontext(&f.start);
}

static void wait_as(state s) {
    fiber * self = running;

    self->now = s;
    if (_setjmp(self->place) == 0) {
        _longjmp(scheduler, 1);
    }
}

int lane() {
    return running->where.index%n_lanes;
}

static int n_alive(int sg) {
    int n = 0;
    for (int i = sg*n_lanes; i < std::min((sg + 1)*n_lanes, (int) fibers.size()); ++i) {
        n += fibers[i].now != state::returned;
    }
    return n;
}

static void release_if_complete(int sg) {
    simdgroup & s = simdgroups[sg];

    if (s.n_here == 0 || s.n_here < n_alive(sg)) {
        return;
    }
    s.n_here = 0;
    for (int i = sg*n_lanes; i < std::min((sg + 1)*n_lanes, (int) fibers.size()); ++i) {
        if (fibers[i].now == state::in_simdgroup) {
            fibers[i].now = state::ready;
        }
    }
}

const void * const * exchange(meeting what, const void * value, size_t size) {
    const int   sg = running->where.index/n_lanes;
    simdgroup & s  = simdgroups[sg];

    if (size > sizeof(s.bytes[0][0])) {
        fail("a value of %zu bytes is too large to be exchanged", size);
    }
    if (s.n_here == 0) {
        s.what = what;
        s.turn = 1 - s.turn;
        std::fill(std::begin(s.values[s.turn]), std::end(s.values[s.turn]), nullptr);
    }
    if (s.what != what) {
        fail("lanes of a simdgroup are at different operations (%d and %d)", (int) s.what, (int) what);
    }
    const int turn = s.turn;
    if (size > 0) {
        memcpy(s.bytes[turn][lane()], value, size);
    }
    s.values[turn][lane()] = s.bytes[turn][lane()];
    s.n_here++;
    wait_as(state::in_simdgroup);
    return s.values[turn];
}

void threadgroup_wait() {
    wait_as(state::in_threadgroup);
}

static order order_now = order::backward;

void set_order(order o) { order_now = o; }

static void run_threadgroup(const char * name) {
    const int n = fibers.size();

    std::vector<int> turns(n);
    for (int i = 0; i < n; ++i) {
        turns[i] = order_now == order::backward ? n - 1 - i : i;
    }
    std::minstd_rand random;

    for (;;) {
        if (order_now == order::shuffled) {
            std::shuffle(turns.begin(), turns.end(), random);
        }
        int n_run = 0;
        for (int i : turns) {
            if (fibers[i].now == state::ready) {
                resume(fibers[i]);
                if (thrown) {
                    std::rethrow_exception(std::exchange(thrown, nullptr));
                }
                release_if_complete(i/n_lanes);
                n_run++;
            }
        }
        if (n_run > 0) {
            continue;
        }
        int n_waiting = 0, n_returned = 0;
        for (const fiber & f : fibers) {
            n_waiting  += f.now == state::in_threadgroup;
            n_returned += f.now == state::returned;
        }
        if (n_returned == n) {
            return;
        }
        if (n_waiting != n) {
            fail("%s: %d of %d threads are at a threadgroup barrier, and %d have returned", name, n_waiting, n, n_returned);
        }
        for (fiber & f : fibers) {
            f.now = state::ready;
        }
    }
}

void run(grid & g, const char * name, const body & kernel_body) {
    const int n = g.threads[0]*g.threads[1]*g.threads[2];

    if (n > 1024) {
        fail("%s: %d threads in a threadgroup; the most is 1024", name, n);
    }
    fibers.resize(n);
    simdgroups.resize((n + n_lanes - 1)/n_lanes);

    const size_t size = g.threadgroup_memory.size();
    g.threadgroup_memory.resize(size + n_guard);

    grid_now = &g;
    body_now = &kernel_body;

    const int64_t n_groups = (int64_t) g.threadgroups[0]*g.threadgroups[1]*g.threadgroups[2];
    for (int64_t group = n_groups - 1; group >= 0; --group) {
        // what nobody has written is NaN
        std::fill(g.threadgroup_memory.begin(), g.threadgroup_memory.end(), 0xff);
        for (simdgroup & s : simdgroups) {
            s.n_here = 0;
        }
        for (int i = 0; i < n; ++i) {
            const uint x = g.threads[0], y = g.threads[1];
            const uint gx = g.threadgroups[0], gy = g.threadgroups[1];

            fibers[i].now     = state::ready;
            fibers[i].entered = false;
            fibers[i].where   = {
                metal::uint3(group%gx, group/gx%gy, group/gx/gy),
                metal::uint3(i%x, i/x%y, i/x/y),
                i,
            };
        }
        run_threadgroup(name);
        for (size_t i = size; i < size + n_guard; ++i) {
            if (g.threadgroup_memory[i] != 0xff && g.threadgroup_memory[i] != 0) {
                fail("%s writes %zu bytes behind its %zu bytes of threadgroup memory", name, i - size, size);
            }
        }
    }
    g.threadgroup_memory.resize(size);
}

void * memory(const std::string & what, const grid & g) {
    if (what == "threadgroup 0") {
        return (void *) g.threadgroup_memory.data();
    }
    const auto it = what.rfind("buffer ", 0) == 0 ? g.buffers.find(std::stoi(what.substr(7))) : g.buffers.end();
    if (it == g.buffers.end()) {
        fail("a kernel reads %s, which the dispatch does not set", what.c_str());
    }
    return it->second;
}

metal::uint3 builtin(const std::string & attribute, const grid & g, const position & p) {
    if (attribute == "threadgroup_position_in_grid")   { return p.threadgroup; }
    if (attribute == "threadgroups_per_grid")          { return g.threadgroups; }
    if (attribute == "threads_per_threadgroup")        { return g.threads; }
    if (attribute == "thread_position_in_threadgroup") { return p.thread; }
    if (attribute == "thread_index_in_threadgroup")    { return metal::uint3(p.index); }
    if (attribute == "thread_index_in_simdgroup")      { return metal::uint3(p.index%n_lanes); }
    if (attribute == "simdgroup_index_in_threadgroup") { return metal::uint3(p.index/n_lanes); }
    if (attribute == "simdgroups_per_threadgroup")     { return metal::uint3((uint) simdgroups.size()); }
    if (attribute == "thread_position_in_grid")        { return p.threadgroup*g.threads + p.thread; }
    fail("the shim does not know [[%s]]", attribute.c_str());
}

//
// the registries; function-local, since the entries are made before main
//

static std::multimap<int, function_constant_base *> & function_constants() {
    static std::multimap<int, function_constant_base *> all;
    return all;
}

static std::map<std::string, body> & kernels() {
    static std::map<std::string, body> all;
    return all;
}

function_constant_base::function_constant_base(const char * name, int index) : name(name) {
    function_constants().insert({ index, this });
}

void set_function_constants(const std::map<int, int64_t> & values) {
    for (auto & [index, c] : function_constants()) {
        const auto it = values.find(index);
        c->set   = it != values.end();
        c->value = c->set ? it->second : 0;
    }
}

kernel_entry::kernel_entry(const char * name, body b) {
    kernels()[name] = std::move(b);
}

const body * find_kernel(const std::string & name) {
    const auto it = kernels().find(name);
    return it == kernels().end() ? nullptr : &it->second;
}

} // namespace msl
