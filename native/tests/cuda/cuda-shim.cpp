#include "cuda-shim.h"

#include <memory>
#include <vector>

#include <ucontext.h>

uint3 threadIdx, blockIdx;
dim3  blockDim, gridDim;

namespace cuda_shim {

static constexpr size_t stack_size = 256*1024;

struct group {
    int n_alive   = 0;
    int n_waiting = 0;
    int round     = 0;
};

struct fiber {
    uint3      thread;
    int        index;
    bool       done = false;
    ucontext_t context;

    std::unique_ptr<char[]> stack;
};

struct warp {
    group all;
    alignas(16) char lanes[32*16];
};

char * shared_memory;

static std::vector<fiber> fibers;
static std::vector<warp>  warps;
static group              block;

static fiber *    running;
static ucontext_t scheduler;

static const std::function<void()> * kernel_now;

static int n_launches;

int n_launches_since() {
    const int n = n_launches;
    n_launches = 0;
    return n;
}

static void leave(group & g) {
    --g.n_alive;
    if (g.n_waiting > 0 && g.n_waiting == g.n_alive) { // the others waited for this one alone
        g.n_waiting = 0;
        ++g.round;
    }
}

static void enter() {
    (*kernel_now)();
    leave(warps[running->index/32].all);
    leave(block);
    running->done = true;
    swapcontext(&running->context, &scheduler);
}

static void meet(group & g) {
    const int round = g.round;
    if (++g.n_waiting == g.n_alive) {
        g.n_waiting = 0;
        ++g.round;
    }
    do { // who comes last waits, too, so that all go on in the same order
        swapcontext(&running->context, &scheduler);
    } while (g.round == round);
}

void meet_block() { meet(block); }
void meet_warp () { meet(warps[running->index/32].all); }

char * lanes() { return warps[running->index/32].lanes; }
int    lane () { return running->index % 32; }

void launch(dim3 grid_dim, dim3 block_dim, size_t shared_bytes, const std::function<void()> & kernel) {
    const int n = block_dim.x*block_dim.y*block_dim.z;

    kernel_now = &kernel;
    ++n_launches;
    gridDim    = grid_dim;
    blockDim   = block_dim;

    for (uint64_t b = (uint64_t) grid_dim.x*grid_dim.y*grid_dim.z; b-- > 0;) { // the last one first
        blockIdx = { (unsigned) (b % grid_dim.x), (unsigned) (b/grid_dim.x % grid_dim.y), (unsigned) (b/grid_dim.x/grid_dim.y) };

        std::vector<char> memory(shared_bytes + 16, (char) 0xff); // NaN
        shared_memory = memory.data();

        block         = {};
        block.n_alive = n;
        warps.assign((n + 31)/32, {});
        fibers.resize(std::max((size_t) n, fibers.size()));

        for (int i = 0; i < n; ++i) {
            fiber & f = fibers[i];
            f.index  = i;
            f.done   = false;
            f.thread = { i % block_dim.x, i/block_dim.x % block_dim.y, i/block_dim.x/block_dim.y };
            if (!f.stack) {
                f.stack.reset(new char[stack_size]);
            }
            ++warps[i/32].all.n_alive;
            getcontext(&f.context);
            f.context.uc_stack.ss_sp   = f.stack.get();
            f.context.uc_stack.ss_size = stack_size;
            f.context.uc_link          = nullptr;
            makecontext(&f.context, enter, 0);
        }
        for (int n_done = 0; n_done < n;) {
            n_done = 0;
            // lane 0 last: quantize_q8_1_to_shared writes zeros behind its values, over what the first lanes write next in lockstep
            for (int i = n - 1; i >= 0; --i) {
                if (!fibers[i].done) {
                    running   = &fibers[i];
                    threadIdx = fibers[i].thread;
                    swapcontext(&scheduler, &fibers[i].context);
                }
                n_done += fibers[i].done;
            }
        }
    }
}

} // namespace cuda_shim
