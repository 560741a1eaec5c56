"""OBSERVE, PLAN and MERGE on Metal, run on the CPU: the kernels as Metal calls them, and the ops of ggml, against NumPy."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_device_merge
import test_device_observe
import test_device_plan
from device_kernels import SHAPES, STORAGES, Layer, Library, Storage, two_groups
from llama_source import ROOT
from metal_shim import Shim

from asymkv_gguf.reference import KEY_WEIGHTS, Params

sys.path[:0] = [str(ROOT / "cmake"), str(ROOT / "cmake" / "metal-shim")]

from metal_kernels import merged  # noqa: E402
from translate import translated  # noqa: E402

N_KEEP = 32
AS_OP = 0  # instead of a number of threads: by ggml's op, which chooses it
WAYS: dict[str, dict[str, Any]] = {
    "op": {"n_threads": AS_OP},
    "backward": {"order": "backward"},
    "shuffled": {"n_threads": 128, "order": "shuffled"},
}


@pytest.fixture(scope="module")
def library(metal: Shim) -> Library:
    """The interface of the kernels' own library, with Metal behind it."""
    return Library(metal.path)


def compressed(library: Library, params: Params, storage: Storage, way: str, **shape: Any) -> Layer:
    layer = Layer(library, two_groups(n_gqa=storage.n_gqa, **shape), params, N_KEEP, storage)
    for op in ("observe", "plan", "merge"):
        layer.run(op, **WAYS[way])
    return layer


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("storage", list(STORAGES))
def test_every_type_of_cache(library: Library, storage: str, way: str) -> None:
    layer = compressed(library, Params(), STORAGES[storage], way, n_heads=2, head_k=64, head_v=32, n_rot=64)
    test_device_merge.check(layer)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_every_shape(library: Library, shape: str) -> None:
    params = Params(score="exact", key_weights="fisher", accumulate=0.5)
    layer = Layer(library, two_groups(n_heads=2, **SHAPES[shape]), params, N_KEEP, Storage())
    layer.run("observe", AS_OP)
    test_device_observe.check(layer)


@pytest.mark.parametrize("key_weights", KEY_WEIGHTS)
@pytest.mark.parametrize("score", ["mass", "output", "exact"])
def test_every_score_and_weight(library: Library, score: Any, key_weights: Any) -> None:
    layer = compressed(library, Params(score=score, key_weights=key_weights), Storage(), "op")
    test_device_plan.check(layer)
    test_device_merge.check(layer)


def test_the_op_is_what_its_kernels_are(library: Library, metal: Shim) -> None:
    """The same plan as when launched alone, and one dispatch after the other."""
    storage = Storage("F16", "F16", "F16")
    alone = compressed(library, Params(), storage, "backward", n_heads=2)
    metal.dispatched()
    by_op = compressed(library, Params(), storage, "op", n_heads=2)
    kernels = re.findall(r"X\([A-Z]+, (\w+), ", (ROOT / "native/ggml/common/asymkv-dev-args.h").read_text())
    assert metal.dispatched() == [f"asymkv_{kernel}" for kernel in kernels]
    np.testing.assert_array_equal(alone.section("plan", "kept", N_KEEP), by_op.section("plan", "kept", N_KEEP))
    np.testing.assert_allclose(alone.rows()[0], by_op.rows()[0], atol=2e-3)
    np.testing.assert_allclose(alone.rows()[1], by_op.rows()[1], atol=2e-3)


def test_what_the_device_offers(metal: Shim) -> None:
    assert metal.library.metal_shim_asymkv_ops() == 3


# what has no place among Metal's address spaces: a pointer without one, one into another one, a name that is a keyword there
WRONG = {
    "AKV_GLOBAL const float * column": "const float * column",
    "AKV_LOCAL float * parts": "AKV_GLOBAL float * parts",
    "threadgroup  float   * local": "device float * local",
    "constant akv_params & p,": "device akv_params & p,",
    "#define thread thread_": "",
}


@pytest.mark.parametrize("wrong", ["", *WRONG])
def test_address_spaces(tmp_path: Path, wrong: str) -> None:
    """The kernels as Metal gets them, with clang's address spaces for Metal's; and clang finds each mistake."""
    clang = shutil.which("clang++")
    if clang is None:
        pytest.skip("needs clang++, which knows address spaces: apt-get install clang")
    text = merged((ROOT / "native/ggml/metal/asymkv.metal").read_text(), ROOT / "native/ggml/common", set())
    assert wrong in text
    text = translated(text.replace(wrong, WRONG.get(wrong, "")), "asymkv.metal", re.compile("kernel_asymkv_.*"))
    (tmp_path / "asymkv.cpp").write_text(text.replace('#include "common.h"', ""))
    command = [clang, "-std=c++17", "-fsyntax-only", "-w", "-D__METAL_VERSION__=310",
               "-I", str(ROOT / "native/tests/metal/spaces"), str(tmp_path / "asymkv.cpp")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode == 0) == (wrong == ""), done.stderr


def test_headers_are_put_into_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.h").write_text('#pragma once\n#include "b.h"\na\n')
    (tmp_path / "b.h").write_text("#pragma once\n#include <metal_stdlib>\nb\n")
    text = '#include "common.h"\n#include "a.h"\n#include "b.h"\nkernel\n'
    assert merged(text, tmp_path, set()) == '#include "common.h"\n#include <metal_stdlib>\nb\n\na\n\n\nkernel\n'
