#pragma once

// the kernels and function constants of all compiled .metal files, and how one threadgroup after the other is run

#include "msl.h"

#include <functional>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

namespace msl {

// throws: something that Metal forbids, or that the shim does not have
[[noreturn]] void fail(const char * format, ...) __attribute__((format(printf, 1, 2)));

struct grid {
    metal::uint3 threadgroups;
    metal::uint3 threads; // of a threadgroup

    std::map<int, void *> buffers;
    std::vector<uint8_t>  threadgroup_memory;
};

struct position {
    metal::uint3 threadgroup;
    metal::uint3 thread; // in the threadgroup
    int          index;  // "
};

typedef std::function<void(const grid &, const position &)> body;

// in which order threads run until they meet. Backward: lane 0 is the last one, since upstream's kernels let it write where
// the others have just read, for which a simdgroup that runs in lockstep needs no barrier
enum class order { forward, backward, shuffled };

void set_order(order o);

// runs the threadgroups of a grid, last one first
void run(grid & g, const char * name, const body & kernel_body);

//
// function constants: known when a pipeline is made. One that a kernel reads must have been set
//

struct function_constant_base {
    function_constant_base(const char * name, int index);

    const char * name;
    int64_t      value = 0;
    bool         set   = false;

    int64_t get() const {
        if (!set) {
            fail("the pipeline does not set the function constant %s", name);
        }
        return value;
    }
};

template <typename T> struct function_constant : function_constant_base {
    using function_constant_base::function_constant_base;

    operator T() const { return (T) get(); }
};

void set_function_constants(const std::map<int, int64_t> & values); // and no others

//
// kernels by their host names
//

void * memory(const std::string & what, const grid & g);

metal::uint3 builtin(const std::string & attribute, const grid & g, const position & p);

template <typename A> std::enable_if_t<std::is_integral<A>::value, A> as_argument(metal::uint3 value) { return (A) value[0]; }
template <typename A> std::enable_if_t<!std::is_integral<A>::value, A> as_argument(metal::uint3 value) {
    return A(value); // a vector of three, of other integers
}

// `what` is "buffer N", "threadgroup N" or the attribute of a built-in
template <typename A> A argument(const std::string & what, const grid & g, const position & p) {
    if constexpr (std::is_reference<A>::value) {
        return *(std::remove_reference_t<A> *) memory(what, g);
    } else if constexpr (std::is_pointer<A>::value) {
        return (A) memory(what, g);
    } else {
        return as_argument<A>(builtin(what, g, p));
    }
}

struct kernel_entry {
    template <typename... A>
    kernel_entry(const char * name, const std::vector<std::string> & whats, void (*function)(A...))
        : kernel_entry(name, [=](const grid & g, const position & p) {
            if (whats.size() != sizeof...(A)) {
                fail("%s has %zu arguments, not %zu", name, sizeof...(A), whats.size());
            }
            call(whats, function, g, p, std::index_sequence_for<A...>{});
        }) {}

    kernel_entry(const char * name, body b);

private:
    template <typename... A, size_t... I>
    static void call(const std::vector<std::string> & whats, void (*function)(A...), const grid & g, const position & p,
            std::index_sequence<I...>) {
        function(argument<A>(whats[I], g, p)...);
    }
};

const body * find_kernel(const std::string & name);

} // namespace msl
