"""The vec, tile and mma attention kernels of ggml-cuda and their launchers, patched, compiled by g++ and run: against NumPy."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cffi
import gguf
import numpy as np
import numpy.typing as npt
import pytest
from cuda_compiler import ROOT, cublas_headers, find_nvcc, prepared_tree, toolkit_of
from gguf.quants import dequantize, quantize

SHIM = ROOT / "native/tests/cuda"
TYPES = {"F16": 1, "Q4_0": 2, "Q8_0": 8}
HEADERS = (
    "common", "convert", "cp-async", "dequantize", "fattn-common", "fattn-mma-f16", "fattn-tile", "fattn-vec", "mma", "vecdotq",
)  # fmt: skip

# what no macro can change: how a kernel is launched, memory whose size the launch says, instructions of tensor cores
TRANSLATED = {
    "common": (
        "kernel<<<launch_params.block_nums, launch_params.block_dims, launch_params.shmem, launch_params.stream>>>"
        "(std::forward<Args>(args)... );",
        "cuda_shim::launch(launch_params.block_nums, launch_params.block_dims, launch_params.shmem, [&] { kernel(args...); });",
    ),
    "fattn-common": ("extern __shared__ float2 meta[];", "float2 * meta = (float2 *) cuda_shim::shared_memory;"),
    "fattn-mma-f16": ("extern __shared__ half2 tile_Q[];", "half2 * tile_Q = (half2 *) cuda_shim::shared_memory;"),
}
INSTRUCTIONS = {
    "movmatrix.sync.aligned.m8n8.trans.b16": "movmatrix",
    "ldmatrix.sync.aligned.m8n8.x2.b16": "ldmatrix_x2",
    "ldmatrix.sync.aligned.m8n8.x4.b16": "ldmatrix_x4",
    "ldmatrix.sync.aligned.m8n8.x4.trans.b16": "ldmatrix_x4_trans",
    "mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16": "mma_f16",
    "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32": "mma_f32",
}
_ASM = re.compile(r'asm(?: volatile)?\("(?P<opcode>[\w.]+) [^"]*"(?P<operands>[^;]*)\);')
_OPERAND = re.compile(r'"[+=]?[rl]"\((.*?)\)(?=\s*[,:]|\s*$)', re.DOTALL)


def without_asm(text: str) -> str:
    """Each instruction that the shim has as a call with its operands."""

    def call(found: re.Match[str]) -> str:
        name = INSTRUCTIONS.get(found["opcode"])
        return f"cuda_shim::{name}({', '.join(_OPERAND.findall(found['operands']))});" if name else found[0]

    return _ASM.sub(call, text)


@dataclass(frozen=True)
class Case:
    """One call; the names are those of native/tests/cuda/cuda-attention.h."""

    kernel: int
    head: int = 64
    n_tokens: int = 1
    n_kv: int = 256
    n_head: int = 4
    n_head_kv: int = 2
    per_head: bool = True
    k: str = "F16"
    v: str = "F16"
    card: bool = True
    n_sm: int = 1
    softcap: float = 0.0
    max_bias: float = 0.0
    sinks: bool = False


VEC, TILE, MMA = 0, 1, 2
CASES = {
    "vec": Case(VEC),
    "vec, one row for all": Case(VEC, n_head=4, per_head=False),
    "vec, two tokens": Case(VEC, n_tokens=2, n_head=2),
    "vec, three tokens in pairs": Case(VEC, n_tokens=3, n_head=2),
    "vec, blocks that share a query": Case(VEC, n_kv=512, n_head=2, n_sm=4),
    "vec, quantized": Case(VEC, n_tokens=2, n_head=2, k="Q8_0", v="Q8_0"),
    "vec, softcap and sinks": Case(VEC, head=128, n_head=2, v="Q4_0", softcap=20.0, sinks=True),
    "vec, without": Case(VEC, card=False),
    "tile": Case(TILE),
    "tile, one row for all": Case(TILE, n_head=8, per_head=False),
    "tile, heads packed": Case(TILE, n_tokens=3, n_head=16),
    "tile, four heads packed": Case(TILE, n_tokens=9, n_head=8),
    "tile, slots that are no multiple": Case(TILE, n_tokens=37, n_kv=113),
    "tile, fewer slots than a tile": Case(TILE, n_tokens=5, n_kv=7),
    "tile, blocks that share a query": Case(TILE, n_kv=512, n_sm=8),
    "tile, other heads": Case(TILE, head=80, n_tokens=9, n_kv=300, softcap=10.0),
    "tile, quantized, made halves": Case(TILE, n_tokens=20, n_kv=300, k="Q8_0", v="Q8_0"),
    "tile, ALiBi": Case(TILE, n_tokens=5, n_kv=300, n_head=12, n_head_kv=4, max_bias=8.0),
    "tile, sinks": Case(TILE, n_tokens=2, sinks=True),
    "tile, sinks, blocks that share a query": Case(TILE, n_kv=512, n_head=8, n_sm=8, sinks=True),
    "tile, without": Case(TILE, n_tokens=3, card=False),
    "mma": Case(MMA, n_tokens=8),
    "mma, slots that are no multiple": Case(MMA, n_tokens=11, n_kv=113),
    "mma, one row for all": Case(MMA, n_tokens=3, n_kv=300, per_head=False),
    "mma, heads packed": Case(MMA, n_tokens=2, n_head=8),
    "mma, heads packed, columns of 16": Case(MMA, n_tokens=13, n_head=8),
    "mma, parts of a tile": Case(MMA, n_tokens=2, n_kv=768, n_head=8, n_sm=3),
    "mma, softcap": Case(MMA, n_tokens=5, n_head=8, softcap=20.0),
    "mma, sinks": Case(MMA, n_tokens=5, n_head=8, sinks=True),
    "mma, sinks, parts of a tile": Case(MMA, n_tokens=2, n_kv=768, n_head=8, n_sm=3, sinks=True),
    "mma, ALiBi": Case(MMA, n_tokens=5, max_bias=8.0),
    "mma, without": Case(MMA, n_tokens=5, n_head=8, card=False),
}


@dataclass
class Library:
    ffi: Any
    lib: Any
    architecture: int


@pytest.fixture(scope="module", params=[610, 750], ids=["floats", "halves"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    """For Pascal the kernels compute with floats, for Turing with halves."""
    if sys.platform != "linux" or shutil.which("g++") is None:
        pytest.skip("needs g++ on Linux")
    nvcc = find_nvcc()
    work = tmp_path_factory.mktemp("cuda-shim")
    ggml = prepared_tree(work, ROOT / "patches") / "ggml"
    for name in HEADERS:
        text = (ggml / f"src/ggml-cuda/{name}.cuh").read_text()
        if name in TRANSLATED:
            before, after = TRANSLATED[name]
            assert text.count(before) == 1
            text = text.replace(before, after)
        (work / f"{name}.cuh").write_text(without_asm(text) if name == "mma" else text)
    shutil.copytree(ggml / "src/ggml-cuda/vendors", work / "vendors")
    package = importlib.util.find_spec("llama_cpp")
    assert package is not None
    assert package.origin is not None
    libraries = Path(package.origin).parent / "lib"
    path = work / "cuda-attention.so"
    done = subprocess.run(
        [
            "g++", "-std=c++17", "-O1", "-w", "-fPIC", "-shared",
            f"-DSHIM_ARCH={request.param}", f"-D__CUDA_ARCH_LIST__={request.param}",
            f"-I{SHIM}", f"-I{work}", f"-I{ggml / 'include'}", f"-I{ggml / 'src'}",
            f"-I{toolkit_of(nvcc) / 'include'}", *cublas_headers(nvcc),
            *(str(file) for file in sorted(SHIM.glob("*.cpp"))), "-o", str(path),
            f"-L{libraries}", "-lggml-base", f"-Wl,-rpath,{libraries}",
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    ffi = cffi.FFI()
    ffi.cdef((SHIM / "cuda-attention.h").read_text().partition("// CDEF begin")[2].partition("// CDEF end")[0])
    return Library(ffi, ffi.dlopen(str(path)), request.param)


Array = npt.NDArray[Any]


def stored(x: Array, kind: str) -> tuple[Array, Array]:
    """The bytes of a cache, and the numbers that they stand for."""
    if kind == "F16":
        return x.astype(np.float16), x.astype(np.float16).astype(np.float64)
    data = quantize(x, gguf.GGMLQuantizationType[kind])
    return data, dequantize(data, gguf.GGMLQuantizationType[kind]).astype(np.float64)


def error(library: Library, case: Case) -> float:
    """Mean squared error over mean square, of the kernel against NumPy."""
    rng = np.random.default_rng(1)
    q = rng.uniform(-2, 2, (case.n_head, case.n_tokens, case.head)).astype(np.float32)
    shape = (case.n_head_kv, case.n_kv, case.head)
    k, keys = stored(rng.uniform(-2, 2, shape).astype(np.float32), case.k)
    v, values = stored(rng.uniform(-2, 2, shape).astype(np.float32), case.v)
    slots = np.arange(case.n_kv)
    unseen = (slots[None, :] > case.n_kv - case.n_tokens + np.arange(case.n_tokens)[:, None]) | (slots // 48 % 3 == 1)
    mask = np.where(unseen, -np.inf, 0).astype(np.float16)
    sinks = rng.uniform(-2, 2, case.n_head).astype(np.float32)
    n_group, row = case.n_head_kv if case.per_head else 1, case.n_kv + 96
    card = np.full((n_group, row), np.nan, np.float16)  # what is behind the slots must not be read
    card[:, : case.n_kv] = np.where(
        rng.random((n_group, case.n_kv)) < 0.25, np.log(rng.integers(2, 300, (n_group, case.n_kv))), 0
    )
    out = np.full((case.n_tokens, case.n_head, case.head), np.nan, np.float32)

    call = library.ffi.new("struct cuda_attention *")
    for name, array in (("q", q), ("k", k), ("v", v), ("mask", mask), ("dst", out)):
        setattr(call, name, library.ffi.cast("void *", array.ctypes.data))
    if case.card:
        call.log_card = library.ffi.cast("void *", card.ctypes.data)
    if case.sinks:
        call.sinks = library.ffi.cast("void *", sinks.ctypes.data)
    for name in ("head", "n_tokens", "n_kv", "n_head", "n_head_kv", "kernel", "n_sm", "softcap", "max_bias"):
        setattr(call, name, getattr(case, name))
    call.type_k, call.type_v, call.n_group, call.card_row = TYPES[case.k], TYPES[case.v], n_group, row
    call.scale = case.head**-0.5
    problem = library.lib.cuda_attention(call)
    assert problem == library.ffi.NULL, library.ffi.string(problem)

    expected = np.empty(out.shape)
    n_log2 = 2 ** int(np.log2(case.n_head))
    for h in range(case.n_head):
        kv = h * case.n_head_kv // case.n_head
        scores = q[h].astype(np.float64) @ keys[kv].T * case.head**-0.5
        if case.softcap:
            scores = case.softcap * np.tanh(scores / case.softcap)
        exponent = -case.max_bias / n_log2 * (h + 1) if h < n_log2 else -case.max_bias / 2 / n_log2 * (2 * (h - n_log2) + 1)
        scores += 2.0**exponent * mask.astype(np.float64)
        if case.card:
            scores += card[h * n_group // case.n_head, : case.n_kv].astype(np.float64)
        most = scores.max(axis=1, keepdims=True)
        weights = np.exp(scores - most)
        total = weights.sum(axis=1, keepdims=True) + (np.exp(sinks[h] - most) if case.sinks else 0)
        expected[:, h] = weights @ values[kv] / total
    return float(np.square(out - expected).sum() / np.square(expected).sum())


@pytest.mark.parametrize("name", CASES)
def test_attention_is_numpys(library: Library, name: str) -> None:
    if CASES[name].kernel == MMA and library.architecture < 750:
        pytest.skip("no tensor cores before Turing")
    library.lib.cuda_attention_launches()
    assert error(library, CASES[name]) < 5e-4  # upstream's own bound, for halves and quantized keys
    if "share" in name:
        assert library.lib.cuda_attention_launches() == 2  # the partial results are combined
