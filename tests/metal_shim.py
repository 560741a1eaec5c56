"""The Metal backend on the CPU: cmake/metal-shim built, and one attention on it, beside the same in NumPy."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from llama_source import ROOT, source_archive

from asymkv_gguf.native.loader import find_native, library_file

sys.path.insert(0, str(ROOT / "cmake"))

import prepare_source

F32, F16, Q4_0, Q8_0 = (GGMLQuantizationType[name] for name in ("F32", "F16", "Q4_0", "Q8_0"))

Array = npt.NDArray[Any]


class _Attention(ctypes.Structure):
    """metal-shim.h's metal_shim_attention."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in (
            "flash", "type", "mask_type", "dk", "dv", "n_kv", "n_slots", "n_tokens", "n_head", "n_head_kv", "n_group",
            "n_kv_max", "written_before")),
        *((name, ctypes.c_float) for name in ("scale", "max_bias", "softcap")),
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "mask", "sinks", "log_card", "result")),
    ]  # fmt: skip


@dataclass
class Attention:
    """One attention with random contents, as a merged cache has it: views of the first slots of longer tensors."""

    dk: int = 64
    dv: int = 0  # 0: dk
    n_kv: int = 100
    n_tokens: int = 1
    n_head: int = 4
    n_head_kv: int = 1
    n_group: int = 1  # rows of log_card; 0: none
    kind: GGMLQuantizationType = F16
    mask_kind: GGMLQuantizationType = F16
    masked: float = 0.2  # so much of the mask is -inf; negative: there is none
    bias: float = 0.0  # so much else is in the mask
    sinks: bool = False
    max_bias: float = 0.0
    softcap: float = 0.0
    flash: bool = True
    sparse: bool = False
    written_before: bool = False
    seed: int = 1
    mask: Array = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        self.dv = self.dv or self.dk
        self.n_slots = self.n_kv + 37
        self.scale = 1.0 if not self.flash else float(self.dk**-0.5)

        def normal(*shape: int) -> Array:
            return random.standard_normal(shape).astype(np.float32)

        self.q = normal(self.n_head, self.n_tokens, self.dk if self.flash else self.n_kv)
        self.k, self.v = (
            quantize(normal(self.n_slots, self.n_head_kv * d), self.kind) if self.kind != F16
            else normal(self.n_slots, self.n_head_kv * d).astype(np.float16)
            for d in (self.dk, self.dv)
        )  # fmt: skip
        self.mask = (normal(self.n_tokens, self.n_kv) * self.bias).astype(np.float16)
        self.mask[random.random(self.mask.shape) < self.masked] = -np.inf
        self.sink_scores = normal(self.n_head)
        cardinalities = random.integers(1, 50, (max(1, self.n_group), self.n_slots))
        self.log_card = np.log(cardinalities).astype(np.float16)
        self.log_card[:, self.n_kv :] = np.nan  # not in use

    def on(self, shim: Shim) -> Array | None:
        """Its result on the shim's device, [head, token, element]; None: the device says that it cannot."""
        shape = (self.n_tokens, self.n_head, self.dv) if self.flash else (self.n_head, self.n_tokens, self.n_kv)
        result = np.full(shape, np.nan, np.float32)
        mask = None if self.masked < 0 else self.mask.astype(np.float32 if self.mask_kind == F32 else np.float16)
        log_card = self.log_card.astype(np.float32) if self.written_before else self.log_card
        arrays = {
            "q": self.q, "k": self.k, "v": self.v, "result": result, "mask": mask,
            "sinks": self.sink_scores if self.sinks else None, "log_card": log_card if self.n_group else None,
        }  # fmt: skip
        arguments = _Attention(
            flash=self.flash, type=self.kind, mask_type=self.mask_kind, dk=self.dk, dv=self.dv, n_kv=self.n_kv,
            n_slots=self.n_slots, n_tokens=self.n_tokens, n_head=self.n_head, n_head_kv=self.n_head_kv, n_group=self.n_group,
            n_kv_max=self.n_kv if self.sparse else 0, written_before=self.written_before, scale=self.scale,
            max_bias=self.max_bias, softcap=self.softcap,
            **{name: None if array is None else array.ctypes.data for name, array in arrays.items()},
        )  # fmt: skip
        outcome = shim.library.metal_shim_attention(ctypes.byref(arguments))
        if outcome == 1:
            return None
        assert outcome == 0, shim.library.metal_shim_error().decode()
        return result.transpose(1, 0, 2) if self.flash else result

    def expected(self) -> Array:
        """The same in NumPy."""
        scores = self.q.astype(np.float64)
        if self.flash:
            # upstream's kernels round the queries
            scores = self.q.astype(np.float16).astype(np.float64) @ self._heads(self.k, self.dk).transpose(0, 2, 1)
        scores = scores * self.scale
        if self.softcap:
            scores = self.softcap * np.tanh(scores / self.softcap)
        if self.masked >= 0:
            scores = scores + self._slopes()[:, None, None] * self.mask.astype(np.float64)
        if self.n_group:
            rows = np.arange(self.n_head) // (self.n_head // self.n_group)
            scores = scores + self.log_card[rows, None, : self.n_kv].astype(np.float64)
        sinks = self.sink_scores[:, None, None] if self.sinks else np.full((self.n_head, 1, 1), -np.inf)
        top = np.maximum(np.max(scores, axis=-1, keepdims=True), sinks)
        weights = np.exp(scores - np.where(np.isfinite(top), top, 0.0))
        total = weights.sum(axis=-1, keepdims=True) + np.exp(sinks - np.where(np.isfinite(top), top, 0.0))
        weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
        result: Array = weights @ self._heads(self.v, self.dv) if self.flash else weights
        return result

    def _heads(self, cache: Array, d: int) -> Array:
        """K or V as the query heads see it, [head, slot, element]."""
        values = cache if self.kind == F16 else dequantize(cache, self.kind)
        heads = values[: self.n_kv].astype(np.float64).reshape(self.n_kv, self.n_head_kv, d).transpose(1, 0, 2)
        return np.repeat(heads, self.n_head // self.n_head_kv, axis=0)

    def _slopes(self) -> Array:
        if not self.max_bias:
            return np.ones(self.n_head)
        n_log2 = 2 ** int(np.log2(self.n_head))
        m0, m1 = 2.0 ** (-self.max_bias / n_log2), 2.0 ** (-self.max_bias / 2 / n_log2)
        return np.array([m0 ** (h + 1) if h < n_log2 else m1 ** (2 * (h - n_log2) + 1) for h in range(self.n_head)])


class Shim:
    """The built library."""

    def __init__(self, path: Path, tree: Path) -> None:
        self.path = path
        self.library = ctypes.CDLL(str(path))
        self.tree = tree  # llama.cpp's, patched
        self.library.metal_shim_dispatched.restype = ctypes.c_char_p
        self.library.metal_shim_error.restype = ctypes.c_char_p
        self.library.metal_shim_asymkv_ops.restype = ctypes.c_uint32
        self._n_seen = 0

    def dispatched(self) -> list[str]:
        """Names of the pipelines that ran since the last call."""
        names = self.library.metal_shim_dispatched().decode().splitlines()
        new = names[self._n_seen :]
        self._n_seen = len(names)
        return [name.removeprefix("kernel_") for name in new]


def build_shim(directory: Path) -> Shim:
    """Compiles the shim; skips the test where that cannot be, as on Windows."""
    if sys.platform != "linux":
        pytest.skip("the Metal shim switches fibers as glibc can")
    prepare_source.prepare(ROOT / "patches", directory / "upstream", str(source_archive()))
    base = library_file(find_native().ggml_dir, "ggml-base")
    bin_dir = Path(sys.executable).parent  # cmake and ninja come with the test extra
    configured = run(
        [str(bin_dir / "cmake"), "-S", str(ROOT / "cmake" / "metal-shim"), "-B", str(directory / "build"), "-G", "Ninja",
         f"-DCMAKE_MAKE_PROGRAM={bin_dir / 'ninja'}", f"-DPython3_EXECUTABLE={sys.executable}",
         f"-DASYMKV_LLAMA_DIR={directory / 'upstream' / 'llama.cpp'}", f"-DASYMKV_GGML_BASE={base}"]
    )  # fmt: skip
    if "asymkv: this C++ compiler has no _Float16" in configured.stderr:
        pytest.skip("the Metal shim needs a C++ compiler with _Float16: g++ 12 or clang 15")
    assert configured.returncode == 0, configured.stderr
    compiled = run([str(bin_dir / "cmake"), "--build", str(directory / "build")])
    assert compiled.returncode == 0, compiled.stdout
    return Shim(directory / "build" / "libmetal-shim.so", directory / "upstream" / "llama.cpp")


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)
