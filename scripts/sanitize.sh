#!/usr/bin/env bash
# The planner's unit tests under sanitizers, without llama.cpp. From the repository's root, with a C++17 compiler and cmake:
#
#     scripts/sanitize.sh address           AddressSanitizer and UndefinedBehaviorSanitizer: all of native/tests
#     scripts/sanitize.sh thread            ThreadSanitizer: two threads that plan groups at once
#     scripts/sanitize.sh fuzz SECONDS      libFuzzer on the planner's parameters and groups; needs clang++ and libclang-rt-dev
#
# BUILD names the folder to build in; by default a new one, removed afterwards.

set -euo pipefail
cd "$(dirname "$0")/.."

what="${1:-address}"
build="${BUILD:-}"
if [[ -z "$build" ]]; then
    build="$(mktemp -d)"
    trap 'rm -rf "$build"' EXIT
fi

export ASAN_OPTIONS="abort_on_error=1:${ASAN_OPTIONS:-}" # so that fuzz-plan names its seed
export UBSAN_OPTIONS="abort_on_error=1:print_stacktrace=1:${UBSAN_OPTIONS:-}"
export TSAN_OPTIONS="halt_on_error=1:${TSAN_OPTIONS:-}"

compile() { # SANITIZERS TARGET...
    cmake -S cmake/native-tests -B "$build" -DASYMKV_SANITIZE="$1" > /dev/null
    cmake --build "$build" --target "${@:2}"
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
        # ThreadSanitizer wants an address space that is not shuffled too far
        if command -v setarch > /dev/null && setarch -R true 2> /dev/null; then
            setarch -R "$build/test-threads"
        else
            "$build/test-threads"
        fi
        ;;
    fuzz)
        clang++ -std=c++17 -O1 -g1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -DASYMKV_LIBFUZZER \
            -I native/include -I native/plan native/plan/*.cpp native/plan/scores/*.cpp native/tests/fuzz-plan.cpp -o "$build/fuzz"
        mkdir -p "$build/corpus"
        "$build/fuzz" -max_total_time="${2:-60}" -max_len=32768 -len_control=0 -artifact_prefix="$PWD/fuzz-" "$build/corpus"
        ;;
    *)
        echo "there is no sanitizer run '$what'; there are address, thread and fuzz" >&2
        exit 2
        ;;
esac
