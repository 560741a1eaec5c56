#!/bin/sh
# Builds ggml with our ops for this machine's GPU, and runs every case of ours there against the CPU backend. Prints how many
# pass, op by op, and ends with 1 if one fails. Nothing is installed. 6 to 9 minutes on 16 cores, nearly all of it nvcc.
#
#     sh scripts/gpu_test.sh [WORK_DIRECTORY]
#
# Needs: an NVIDIA GPU and its driver, nvcc and cuBLAS, Python >= 3.10 with venv, a C++17 compiler, 5 GB of disk. A second run
# compiles only what changed. ASYMKV_LLAMA_SOURCE: llama-cpp-python's source archive, where pip cannot download it.
# CPU_ONLY=1 builds and runs the same without CUDA: what this script itself is tried with.
#
# NOT YET RUN on a machine with a GPU: please report what it prints.
set -eu

source=$(cd "$(dirname "$0")/.." && pwd)
work=${1:-$source/build/gpu-test}
python=${PYTHON:-python3}
ops=FLASH_ATTN_EXT_LOG_CARD,SOFT_MAX_LOG_CARD,ASYMKV_COMPRESS
export ASYMKV_COMPRESS=device # the CPU, which a GPU is compared with, has these ops only when asked
started=$(date +%s)

mkdir -p "$work"
if ! command -v cmake > /dev/null || ! command -v ninja > /dev/null; then
    [ -x "$work/venv/bin/ninja" ] || { "$python" -m venv "$work/venv" && "$work/venv/bin/pip" install --quiet cmake ninja >&2; }
    PATH=$work/venv/bin:$PATH
    export PATH
fi

set -- -S "$source" -B "$work/build" -G Ninja -DASYMKV_BUNDLE_GGML=ON
if [ -n "${CPU_ONLY:-}" ]; then
    device=CPU
    echo "without a GPU: the cases are only tried on the CPU" >&2
else
    command -v nvidia-smi > /dev/null || { echo "nvidia-smi is missing: this needs an NVIDIA GPU and its driver" >&2; exit 1; }
    command -v nvcc > /dev/null || { echo "nvcc is missing: install the CUDA toolkit, or add its bin directory to PATH" >&2; exit 1; }

    # the first GPU only, and only its architecture: all of them would take an hour
    device=CUDA0
    CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
    export CUDA_VISIBLE_DEVICES
    gpu=$(nvidia-smi -i "$CUDA_VISIBLE_DEVICES" --query-gpu=name,compute_cap,driver_version --format=csv,noheader | head -n 1)
    architecture=$(echo "$gpu" | cut -d , -f 2 | tr -d ' .')
    echo "GPU: $gpu" >&2
    set -- "$@" -DGGML_CUDA=ON "-DCMAKE_CUDA_ARCHITECTURES=$architecture"
fi
cmake "$@" > "$work/configure.log" 2>&1 || { tail -n 20 "$work/configure.log" >&2; exit 1; }
cmake --build "$work/build" --parallel "$(nproc)" --target test-backend-ops > "$work/build.log" 2>&1 || { tail -n 40 "$work/build.log" >&2; exit 1; }
echo "built in $(($(date +%s) - started)) s" >&2

status=0
# libggml looks for its backends beside itself, where an installed one has them
export LD_LIBRARY_PATH="$work/build/ggml/src/ggml-cuda${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
"$work/build/bin/test-backend-ops" test -b "$device" -o "$ops" > "$work/cases.log" 2>&1 || status=1
# a line per case: "  OP(shape=...): OK", "... FAIL" with the error before it, or "... not supported"
awk -v device="$device" '
    { gsub(/\033\[[0-9;]*m/, "") }
    /^Failing tests/ { exit }
    /^  [A-Z_]+\(.*\): / {
        name = $1; sub(/\(.*/, "", name); names[name] = 1
        if (/not supported/) { refused[name]++ } else if (/ OK$/) { passed[name]++ } else { failed[name]++; print }
    }
    END {
        for (name in names) {
            printf "%s on %s: %d passed, %d failed, %d refused\n", name, device, passed[name], failed[name], refused[name]
            n += passed[name]
        }
        if (n == 0) { print "no case has passed: " device " does not run them" }
        exit n == 0
    }
' "$work/cases.log" || status=1
echo "all of it in $(($(date +%s) - started)) s; every case is in $work/cases.log" >&2
exit $status
