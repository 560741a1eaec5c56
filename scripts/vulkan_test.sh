#!/bin/sh
# The portable path on a Vulkan device, without a GPU: builds asymkv-gguf with ggml and its Vulkan backend inside, and runs
# tests/test_vulkan.py on Mesa's software device (lavapipe). Prints how much passes, and ends with 1 if something fails.
#
#     sh scripts/vulkan_test.sh [WORK_DIRECTORY [PYTEST ARGUMENTS]]
#
# Needs: Debian 12, Ubuntu 24.04 or newer, Python >= 3.10 with venv, a C++17 compiler, a package index, 3 GB of disk. What is
# missing of Vulkan is installed with apt-get, as root; on Debian 12, whose headers and Mesa are too old, newer ones are unpacked
# into the work directory. A second run compiles only what changed.
#
# lavapipe compiles shaders when they are first used, some for minutes, and keeps them: later runs are shorter.
#
# VK_ICD_FILENAMES or GGML_VK_VISIBLE_DEVICES, if set, choose another device: a GPU's, for example.
# ASYMKV_LLAMA_SOURCE: llama-cpp-python's source archive, where pip cannot download it. JOBS: compilers at once.
set -eu

source=$(cd "$(dirname "$0")/.." && pwd)
work=${1:-$source/build/vulkan-test}
[ $# = 0 ] || shift
mkdir -p "$work"
work=$(cd "$work" && pwd)
python=${PYTHON:-python3}
jobs=${JOBS:-$(nproc)}
newer=$work/newer # unpacked packages of a newer distribution
started=$(date +%s)
export PIP_DISABLE_PIP_VERSION_CHECK=1

fail() { echo "$1" >&2; exit 1; }
quietly() { # LOG COMMAND...
    log=$work/$1.log
    shift
    "$@" > "$log" 2>&1 || { tail -n 40 "$log" >&2; fail "failed; all of it is in $log"; }
}

# --- Vulkan: loader, headers, compiler of shaders, device

wanted="glslc libvulkan-dev spirv-headers"
[ -n "${VK_ICD_FILENAMES:-}" ] || wanted="$wanted mesa-vulkan-drivers"
missing=
for package in $wanted; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null | grep -qx installed || missing="$missing $package"
done
if [ -n "$missing" ]; then
    [ "$(id -u)" = 0 ] || fail "missing packages; run as root: apt-get install$missing"
    quietly apt-update apt-get update
    # shellcheck disable=SC2086
    quietly apt-install env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
fi

# packages of Debian 12's successors, from where this machine gets its own, unpacked but not installed
unpack_newer() { # PACKAGE/SUITE...
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    [ "$codename" = bookworm ] || fail "this distribution's Vulkan is too old for ggml: take Debian 12, Ubuntu 24.04 or newer"
    mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' | sed -n 's/^bookworm //p' | head -n 1)
    [ -n "$mirror" ] || fail "apt-get knows no mirror of Debian 12: add one to its sources"
    mkdir -p "$newer/apt/lists/partial" "$newer/apt/archives/partial" "$newer/deb"
    for suite in trixie bookworm-backports; do
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
    done > "$newer/apt/sources.list"
    cat > "$newer/apt/apt.conf" << END
Dir::Etc::sourcelist "$newer/apt/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "$newer/apt/lists";
Dir::Cache "$newer/apt";
APT::Sandbox::User "";
END
    quietly newer-update env "APT_CONFIG=$newer/apt/apt.conf" apt-get update
    (cd "$newer/deb" && quietly newer-download env "APT_CONFIG=$newer/apt/apt.conf" apt-get download "$@")
    for package in "$newer"/deb/*.deb; do
        dpkg-deb -x "$package" "$newer"
    done
}

# ggml-vulkan needs VK_EXT_layer_settings, of 2023
include=
if ! grep -qs LayerSettingEXT /usr/include/vulkan/vulkan_structs.hpp; then
    [ -e "$newer/usr/include/vulkan/vulkan.hpp" ] || unpack_newer libvulkan-dev/trixie
    include=$newer/usr/include
fi

if [ -z "${VK_ICD_FILENAMES:-}" ] && [ -z "${GGML_VK_VISIBLE_DEVICES:-}" ]; then
    # what corrupts its heap in flash attention is Mesa 22.3
    mesa=$(dpkg-query -W -f '${Version}' mesa-vulkan-drivers)
    libraries=
    if dpkg --compare-versions "$mesa" lt 24; then
        [ -n "$(find "$newer/usr/lib" -name libvulkan_lvp.so 2> /dev/null)" ] || unpack_newer \
            mesa-vulkan-drivers/bookworm-backports libdrm2/bookworm-backports libdrm-amdgpu1/bookworm-backports
        driver=$(find "$newer/usr/lib" -name libvulkan_lvp.so)
        mesa=$(dpkg-deb -f "$newer"/deb/mesa-vulkan-drivers_*.deb Version)
        libraries=$(dirname "$driver")
        sed "s|\"library_path\": *\"[^\"]*\"|\"library_path\": \"$driver\"|" "$newer"/usr/share/vulkan/icd.d/lvp_icd*.json > "$work/lvp_icd.json"
    else
        cp /usr/share/vulkan/icd.d/lvp_icd*.json "$work/lvp_icd.json"
    fi
    VK_ICD_FILENAMES=$work/lvp_icd.json
    GGML_VK_VISIBLE_DEVICES=0 # ggml takes a CPU's device only where it is named
    export VK_ICD_FILENAMES GGML_VK_VISIBLE_DEVICES
    [ -z "$libraries" ] || export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    echo "lavapipe of Mesa $mesa" >&2
fi

# --- asymkv-gguf with ggml and its Vulkan backend

[ -x "$work/venv/bin/python" ] || quietly venv "$python" -m venv "$work/venv"
PATH=$work/venv/bin:$PATH
export PATH CMAKE_BUILD_PARALLEL_LEVEL="$jobs"
version=$(sed -n 's/^VERSION = "\(.*\)"/\1/p' "$source/cmake/prepare_source.py")
quietly tools pip install "scikit-build-core>=1.0" "pip>=23" "cmake>=3.21" "ninja>=1.11"
pip show --quiet llama-cpp-python 2> /dev/null || quietly binding env CMAKE_ARGS=-DLLAMA_BUILD=OFF pip install "llama-cpp-python==$version"
quietly build pip install --no-build-isolation "$source" "pytest>=8" "gguf>=0.17" -C "build-dir=$work/build" -C cmake.define.ASYMKV_BUNDLE_GGML=ON \
    -C cmake.define.GGML_VULKAN=ON ${include:+-C "cmake.define.Vulkan_INCLUDE_DIR=$include"}
quietly programs cmake --build "$work/build" --target test-native-devices test-backend-ops
echo "built in $(($(date +%s) - started)) s" >&2

# --- what no device gets that does not know it

status=0
# libggml looks for its backends beside itself, where an installed one has them
LD_LIBRARY_PATH=$work/build/ggml/src/ggml-vulkan${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
"$work/build/bin/test-native-devices" > "$work/devices.log" 2>&1 || { tail -n 20 "$work/devices.log" >&2; status=1; }
grep '^Vulkan' "$work/devices.log" || { echo "ggml finds no Vulkan device" >&2; exit 1; }
"$work/build/bin/test-backend-ops" test -b Vulkan0 -o FLASH_ATTN_EXT_LOG_CARD,SOFT_MAX_LOG_CARD,ASYMKV_COMPRESS > "$work/ops.log" 2>&1 || status=1
refused=$(grep -c '): not supported' "$work/ops.log" || true)
taken=$(grep -cE '\): .*(OK|FAIL)' "$work/ops.log" || true)
echo "ops of ours on Vulkan0: $refused refused, $taken taken"
[ "$refused" -gt 0 ] && [ "$taken" = 0 ] || status=1

# --- the portable path

cd "$source"
python -m pytest tests/test_vulkan.py -p no:cacheprovider "$@" > "$work/tests.log" 2>&1 || status=1
grep -E '^(FAILED|ERROR|SKIPPED)' "$work/tests.log" || true
tail -n 1 "$work/tests.log"
# a device that went away would have skipped all of them
tail -n 1 "$work/tests.log" | grep -q ' passed' || status=1
echo "all of it in $(($(date +%s) - started)) s; every test is in $work/tests.log" >&2
exit $status
