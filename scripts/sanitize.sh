#!/usr/bin/env bash
# Tests under sanitizers. From the repository's root, with a C++17 compiler and cmake:
#
#     scripts/sanitize.sh address           AddressSanitizer and UndefinedBehaviorSanitizer: all of native/tests, without llama.cpp
#     scripts/sanitize.sh thread            ThreadSanitizer: two threads that plan groups at once
#     scripts/sanitize.sh fuzz SECONDS      libFuzzer on the planner's parameters and groups; needs clang++ and libclang-rt-dev
#
# and with llama.cpp and ggml, which are compiled under the sanitizers, too (pip downloads them, or ASYMKV_LLAMA_SOURCE names the
# archive). A first build takes 10 to 15 minutes on two cores:
#
#     scripts/sanitize.sh capi [MODEL...]           all of native/tests/capi; states are damaged of each model, too
#     scripts/sanitize.sh capi-thread               ThreadSanitizer: two contexts in two threads
#     scripts/sanitize.sh fuzz-state SECONDS [MODEL]    libFuzzer on states that are damaged; needs clang++ and libclang-rt-dev
#
# BUILD names the folder to build in; by default a new one, removed afterwards. A folder is for one sanitizer: that of `capi` and
# `fuzz-state` is the same.

set -euo pipefail
cd "$(dirname "$0")/.."

what="${1:-address}"
build="${BUILD:-}"
if [[ -z "$build" ]]; then
    build="$(mktemp -d)"
    trap 'rm -rf "$build"' EXIT
fi
recall="asymkv_gguf/data/recall.gguf"

export ASAN_OPTIONS="abort_on_error=1:${ASAN_OPTIONS:-}" # so that fuzz-plan names its seed
export UBSAN_OPTIONS="abort_on_error=1:print_stacktrace=1:${UBSAN_OPTIONS:-}"
export TSAN_OPTIONS="halt_on_error=1:${TSAN_OPTIONS:-}"

compile() { # SANITIZERS TARGET...
    cmake -S cmake/native-tests -B "$build" -DASYMKV_SANITIZE="$1" > /dev/null
    cmake --build "$build" --target "${@:2}"
}

has_clang() {
    echo 'int main() {}' | clang++ -fsanitize=address,fuzzer-no-link -x c++ - -o /dev/null 2> /dev/null
}

# asserts stay on. llama.cpp's OpenMP is nothing that ThreadSanitizer knows: ggml's own threads
compile_llama() { # SANITIZERS TARGET...
    local compiler=()
    if has_clang; then
        compiler=(-DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++)
    fi
    if command -v ninja > /dev/null; then
        export CMAKE_GENERATOR="${CMAKE_GENERATOR:-Ninja}"
    fi
    cmake -S . -B "$build" "${compiler[@]}" -DASYMKV_BUNDLE_GGML=ON -DASYMKV_SANITIZE="$1" \
        -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DGGML_LLAMAFILE=OFF -DCMAKE_C_FLAGS_RELEASE=-O1 -DCMAKE_CXX_FLAGS_RELEASE=-O1 > /dev/null
    cmake --build "$build" --parallel "${JOBS:-2}" --target "${@:2}"
}

# ThreadSanitizer wants an address space that is not shuffled too far
unshuffled() {
    if command -v setarch > /dev/null && setarch -R true 2> /dev/null; then
        setarch -R "$@"
    else
        "$@"
    fi
}

case "$what" in
    address)
        tests=()
        for source in native/tests/*.cpp; do
            tests+=("$(basename "$source" .cpp)")
        done
        compile address,undefined "${tests[@]}"
        for name in "${tests[@]}"; do
            "$build/$name"
        done
        ;;
    thread)
        compile thread test-threads
        unshuffled "$build/test-threads"
        ;;
    fuzz)
        clang++ -std=c++17 -O1 -g1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -DASYMKV_LIBFUZZER \
            -I native/include -I native/plan native/plan/*.cpp native/plan/scores/*.cpp native/tests/fuzz-plan.cpp -o "$build/fuzz"
        mkdir -p "$build/corpus"
        "$build/fuzz" -max_total_time="${2:-60}" -max_len=32768 -len_control=0 -artifact_prefix="$PWD/fuzz-" "$build/corpus"
        ;;
    capi)
        compile_llama "address,undefined$(has_clang && echo ,fuzzer-no-link)" capi
        "$build/bin/test-capi" "$recall"
        "$build/bin/test-capi-threads" "$recall"
        for model in "$recall" "${@:2}"; do
            "$build/bin/fuzz-state" "$model"
        done
        ;;
    capi-thread)
        compile_llama thread test-capi-threads
        unshuffled "$build/bin/test-capi-threads" "$recall"
        ;;
    fuzz-state)
        compile_llama address,undefined,fuzzer-no-link fuzz-state-libfuzzer
        mkdir -p "$build/corpus-state"
        ASYMKV_FUZZ_MODEL="${3:-$recall}" "$build/bin/fuzz-state-libfuzzer" -max_total_time="${2:-60}" -max_len=64 -len_control=0 \
            -artifact_prefix="$PWD/fuzz-state-" "$build/corpus-state"
        ;;
    *)
        echo "there is no sanitizer run '$what'; there are address, thread, fuzz, capi, capi-thread and fuzz-state" >&2
        exit 2
        ;;
esac
