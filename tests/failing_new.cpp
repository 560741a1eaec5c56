// Preloaded into a process: operator new, which counts bytes, and fails once, at the allocation that it was told.
//
//     g++ -shared -fPIC -o failing_new.so failing_new.cpp && LD_PRELOAD=./failing_new.so ...
//
// Only C++ allocates so: llama.cpp and our sources in it, not Python.

#include <atomic>
#include <cstdlib>
#include <malloc.h>
#include <new>

static std::atomic<long> n_left{0}; // 0: none fails
static std::atomic<long> n_made{0};

static std::atomic<long> n_bytes{0}; // alive
static std::atomic<long> n_most{0};  // at any time since the last call of most_new

static void * allocate(std::size_t size, std::size_t alignment) {
    n_made++;
    if (n_left.load() > 0 && --n_left == 0) {
        throw std::bad_alloc();
    }
    void * p = nullptr;
    if (posix_memalign(&p, alignment < sizeof(void *) ? sizeof(void *) : alignment, size ? size : 1) != 0) {
        throw std::bad_alloc();
    }
    const long now = n_bytes += (long) malloc_usable_size(p);
    for (long most = n_most; now > most && !n_most.compare_exchange_weak(most, now); ) {
    }
    return p;
}

static void release(void * p) {
    if (p) {
        n_bytes -= (long) malloc_usable_size(p);
    }
    free(p);
}

void * operator new(std::size_t size) {
    return allocate(size, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}

void * operator new(std::size_t size, std::align_val_t alignment) {
    return allocate(size, (std::size_t) alignment);
}

void operator delete(void * p) noexcept {
    release(p);
}

void operator delete(void * p, std::size_t) noexcept {
    release(p);
}

void operator delete(void * p, std::align_val_t) noexcept {
    release(p);
}

void operator delete(void * p, std::size_t, std::align_val_t) noexcept {
    release(p);
}

// the n-th allocation from now on fails; 0: none. returns the number of allocations since the last call
extern "C" long failing_new(long n) {
    const long made = n_made.exchange(0);
    n_left = n;
    return made;
}

// bytes that were alive at once, at most, more than now. counts from now on
extern "C" long most_new() {
    const long most = n_most;
    n_most = n_bytes.load();
    return most - n_most;
}
