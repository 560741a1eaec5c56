#!/bin/sh
# Builds llama-cpp-python with CUDA for this machine's GPU, and this package; measures the 8B shape to a depth of 128k tokens.
# About 10 minutes on 16 cores, most of it the build. Prints Markdown tables; bench-gpu.md and bench-gpu.png stay behind.
#
#     sh scripts/gpu_bench.sh [WORK_DIRECTORY]
#
# Needs: an NVIDIA GPU and its driver, nvcc, git or an unpacked source tree, Python >= 3.10 with venv, a C++17 compiler, 10 GB
# of disk. DEPTHS and MODES override what is measured; BANDWIDTH (GB/s, of the GPU's memory) adds the roofline.
#
# NOT YET RUN on a machine with a GPU: its syntax is checked, its results are not known. Please report what it prints.
set -eu

source=$(cd "$(dirname "$0")/.." && pwd)
work=${1:-$source/build/gpu-bench}
python=${PYTHON:-python3}

command -v nvidia-smi > /dev/null || { echo "nvidia-smi is missing: this needs an NVIDIA GPU and its driver" >&2; exit 1; }
command -v nvcc > /dev/null || { echo "nvcc is missing: install the CUDA toolkit, or add its bin directory to PATH" >&2; exit 1; }

# the first GPU only, and only its architecture: all of them would take an hour
CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
export CUDA_VISIBLE_DEVICES
gpu=$(nvidia-smi -i "$CUDA_VISIBLE_DEVICES" --query-gpu=name,compute_cap,memory.total --format=csv,noheader,nounits | head -n 1)
architecture=$(echo "$gpu" | cut -d , -f 2 | tr -d ' .')
memory_mib=$(echo "$gpu" | cut -d , -f 3 | tr -d ' ')
echo "GPU: $gpu MiB" >&2

# three processes hold weights of 4.4 GiB each; stock's cache for 128k tokens is 16 GiB
if [ "$memory_mib" -ge 60000 ]; then
    depths=0,2560,8192,32768,130560 modes=stock,off,on
elif [ "$memory_mib" -ge 22000 ]; then
    depths=0,2560,8192,32768 modes=stock,on
else
    depths=0,2560,8192 modes=stock,on
fi

mkdir -p "$work"
[ -x "$work/venv/bin/python" ] || "$python" -m venv "$work/venv"
PATH=$work/venv/bin:$PATH
export PATH

started=$(date +%s)
CMAKE_BUILD_PARALLEL_LEVEL=$(nproc)
export CMAKE_BUILD_PARALLEL_LEVEL
if ! python -c 'import llama_cpp, sys; sys.exit(not llama_cpp.llama_supports_gpu_offload())' 2> /dev/null; then
    CMAKE_ARGS="-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=$architecture -DLLAVA_BUILD=OFF" FORCE_CMAKE=1 \
        pip install --no-cache-dir --force-reinstall --no-binary llama-cpp-python "llama-cpp-python==0.3.36" >&2
fi
pip install "${source}[bench]" >&2
echo "built in $(($(date +%s) - started)) s" >&2

set -- --dummy 8B --dummy-dir "$work" -ngl -1 -d "${DEPTHS:-$depths}" --modes "${MODES:-$modes}" --plot "$work/bench-gpu.png"
[ -z "${BANDWIDTH:-}" ] || set -- "$@" --bandwidth "$BANDWIDTH"
nvidia-smi -i "$CUDA_VISIBLE_DEVICES" --query-gpu=name,driver_version,clocks.max.memory --format=csv,noheader
asymkv-gguf bench "$@" --md > "$work/bench-gpu.md"
cat "$work/bench-gpu.md"
echo "all of it in $(($(date +%s) - started)) s; tables and plot are in $work" >&2
