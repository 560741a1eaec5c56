"""The kernels of compression for devices (native/ggml/common), run on the CPU: a layer's cache around reference groups."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cffi
import gguf
import numpy as np
import numpy.typing as npt
from gguf.quants import dequantize, quantize
from groups import random_group

from asymkv_gguf import reference
from asymkv_gguf.reference import Floats, Group, Op, Params, compressions

ROOT = Path(__file__).parent.parent
COMMON = ROOT / "native" / "ggml" / "common"
NATIVE_TESTS = ROOT / "cmake" / "native-tests"

SCORES = {"mass": 0, "output": 1, "exact": 2, "h2o": 4, "snapkv": 5, "tova": 6, "streaming": 7}
KEY_WEIGHTS = {"mean": 0, "mass": 1, "slimmer": 2, "fisher": 3}
OPS = {"observe": 0, "plan": 1, "merge": 2, "costs": 3}  # costs: PLAN up to those before its first step
ORDERS = {"forward": 0, "backward": 1, "shuffled": 2}
N_SLOT_FIELDS = 5

FUNCTIONS = """
struct akv_buffers {
    uint8_t * k, * v; const uint8_t * q; const int32_t * q_rows, * cells; const float * slots, * freqs;
    float * seen, * plan; uint8_t * rows; const float * sinks;
};
const char * akv_dev_run(int what, const struct akv_buffers *, const struct akv_params *, uint32_t n_threads, int order);
void akv_dev_seen(const struct akv_params *, struct akv_seen_layout *);
void akv_dev_plan(const struct akv_params *, struct akv_plan_layout *);
uint32_t akv_dev_rows_bytes(const struct akv_params *);
"""


class Library:
    """The kernels, compiled for the CPU with threads as fibers."""

    def __init__(self, path: Path) -> None:
        text = (COMMON / "asymkv-dev-args.h").read_text(encoding="utf-8")
        self.ffi: Any = cffi.FFI()
        self.ffi.cdef("".join(part.partition("// AKV_CDEF end")[0] for part in text.split("// AKV_CDEF begin")[1:]) + FUNCTIONS)
        self.lib: Any = self.ffi.dlopen(str(path))

    def layout(self, kind: str, params: Any) -> dict[str, int]:
        """Offsets in floats by name, of akv_seen_layout or akv_plan_layout."""
        layout = self.ffi.new(f"struct akv_{kind}_layout *")
        getattr(self.lib, f"akv_dev_{kind}")(params, layout)
        return {name: getattr(layout, name) for name, _ in self.ffi.typeof(layout[0]).fields}


def build_library(directory: Path) -> Library:
    """Compiled into `directory` as the native unit tests are."""
    bin_dir = Path(sys.executable).parent  # cmake and ninja come with the test extra
    for command in (
        [str(bin_dir / "cmake"), "-S", str(NATIVE_TESTS), "-B", str(directory), "-G", "Ninja",
         f"-DCMAKE_MAKE_PROGRAM={bin_dir / 'ninja'}"],
        [str(bin_dir / "cmake"), "--build", str(directory), "--target", "asymkv-dev"],
    ):  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    [path] = [path for path in directory.glob("*asymkv-dev.*") if path.suffix in (".so", ".dylib")]
    return Library(path)


@dataclass(frozen=True)
class Storage:
    """How the cache that holds the groups stores them."""

    k: str = "F32"
    v: str = "F32"
    q: str = "F32"
    hadamard: int = 0  # block of the transform of K and the queries
    v_trans: bool = False
    n_gqa: int = 1


SHAPES: dict[str, dict[str, Any]] = {
    "norm": {},
    "neox": {"neox": True, "n": 130, "n_queries": 40},
    "partial": {"n_rot": 16, "neox": True},
    "no-rope": {"n_rot": 0},
    "softcap": {"softcap": 5.0},
    "odd-sizes": {"head_k": 20, "head_v": 13, "n_rot": 10, "n_queries": 7},
    "several-tiles": {"n": 530, "n_queries": 9},
    "learned-sinks": {"learned_sinks": True, "n": 300},
    "head-256": {"n": 40, "head_k": 256, "head_v": 256, "n_rot": 256, "n_queries": 5},
}
STORAGES = {
    "f32": Storage(),
    "f16": Storage("F16", "F16", "F16"),
    "bf16": Storage("BF16", "BF16", "F16"),
    "q8_0": Storage("Q8_0", "Q8_0", "Q8_0", hadamard=32),
    "q4_0": Storage("Q4_0", "Q4_0", "Q8_0", hadamard=32),
    "k and v differ": Storage("Q8_0", "F16", "Q8_0"),
    "transposed": Storage("F16", "F16", "F16", v_trans=True),
    "gqa": Storage("F16", "F16", "F16", n_gqa=4),
}


def two_groups(seed: int = 11, n_gqa: int = 1, **shape: Any) -> list[Group]:
    """As two plans of a layer are: the same tokens, other keys, cardinalities and scores."""
    groups = [random_group(seed=seed + at, n_gqa=n_gqa, **shape) for at in range(2)]
    positions = groups[0].query_positions
    positions = np.repeat(positions[::n_gqa], n_gqa)[: len(positions)]
    return [replace(group, query_positions=positions) for group in groups]


def hadamard(x: Floats, n: int) -> Floats:
    """Orthonormal Walsh-Hadamard transform of blocks of n channels of the last axis; its own inverse."""
    matrix = np.ones((1, 1))
    while len(matrix) < n:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    blocks = x.reshape(*x.shape[:-1], -1, n)
    return np.asarray((blocks @ (matrix / np.sqrt(n))).reshape(x.shape))


def to_bytes(x: Floats, kind: str) -> npt.NDArray[np.uint8]:
    """Rows of the last axis as a cache stores them."""
    rows = np.ascontiguousarray(x, np.float32)
    return np.ascontiguousarray(quantize(rows, gguf.GGMLQuantizationType[kind])).view(np.uint8)


def from_bytes(x: npt.NDArray[np.uint8], kind: str) -> Floats:
    types = {"F32": np.float32, "F16": np.float16}
    data = np.ascontiguousarray(x).view(types[kind]) if kind in types else np.ascontiguousarray(x)
    return np.asarray(dequantize(data, gguf.GGMLQuantizationType[kind]).astype(np.float64))


class Layer:
    """A layer's cache that holds `groups` behind another one, in cells that leave gaps, and what the kernels make of it."""

    N_BEFORE = 1  # groups of the layer that are not worked on

    def __init__(self, library: Library, groups: list[Group], params: Params, n_keep: int, storage: Storage) -> None:
        self.library, self.params, self.n_keep, self.storage = library, params, n_keep, storage
        rng = np.random.default_rng(1)
        n, n_heads, head_k = groups[0].keys.shape
        head_v, n_queries = groups[0].values.shape[2], len(groups[0].query_positions)
        self.n, n_gqa = n, storage.n_gqa
        n_observed, n_ring, n_cells = n_queries // n_gqa, n_queries // n_gqa + 3, n + n // 8 + 1
        self.cells = np.sort(rng.permutation(n_cells)[:n]).astype(np.int32)
        ring_rows = rng.permutation(n_ring)[:n_observed]

        heads_before = self.N_BEFORE * n_heads
        shape = (n_cells, heads_before + len(groups) * n_heads)
        k, v = rng.standard_normal((*shape, head_k)), rng.standard_normal((*shape, head_v))
        q = rng.standard_normal((n_ring, shape[1], n_gqa, head_k))
        for at, group in enumerate(groups):
            heads = slice(heads_before + at * n_heads, heads_before + (at + 1) * n_heads)
            k[self.cells, heads], v[self.cells, heads] = self.transformed(group.keys), group.values
            by_token = group.queries.reshape(n_heads, n_observed, n_gqa, head_k)
            q[ring_rows, heads] = self.transformed(by_token.transpose(1, 0, 2, 3))
        self.k = to_bytes(k.reshape(n_cells, -1), storage.k)
        self.v = to_bytes(v.reshape(n_cells, -1), storage.v)
        self.q = to_bytes(q.reshape(n_ring, -1), storage.q)
        one = groups[0]
        self.native: Any = library.ffi.new("struct akv_params *")
        for name, value in {
            "n_slots": n, "n_keep": n_keep, "n_group": len(groups), "first_group": self.N_BEFORE, "n_heads": n_heads,
            "n_gqa": n_gqa, "n_observed": n_observed, "head_k": head_k, "head_v": head_v,
            "n_rot": one.n_rot, "rope_neox": int(one.rope_neox), "hadamard": storage.hadamard,
            "scale": one.scale, "softcap": one.softcap, "has_sinks": int(one.sink_logits is not None),
            "score": SCORES[params.score], "key_weights": KEY_WEIGHTS[params.key_weights],
            "merges": int(reference._can_merge(params)), "evicts": int(reference._can_evict(params)),
            "max_cardinality": params.max_cardinality, "decay": params.decay,
            "first_index": int(np.argmin(np.append(one.is_protected, False))),
            "k_type": gguf.GGMLQuantizationType[storage.k], "v_type": gguf.GGMLQuantizationType[storage.v],
            "q_type": gguf.GGMLQuantizationType[storage.q],
            "k_row": self.k.shape[1], "v_row": self.v.shape[1], "q_row": self.q.shape[1],
        }.items():  # fmt: skip
            setattr(self.native, name, value)
        self.before = self.rows()

        # what the cache makes of the groups
        keys, values = self.before
        queries = from_bytes(self.q, storage.q).reshape(q.shape)[ring_rows]
        self.groups = []
        for at, group in enumerate(groups):
            heads = slice(heads_before + at * n_heads, heads_before + (at + 1) * n_heads)
            by_head = self.transformed(queries[:, heads]).transpose(1, 0, 2, 3).reshape(group.queries.shape)
            self.groups.append(
                replace(group, keys=keys[self.cells, heads], values=values[self.cells, heads], queries=by_head)
            )  # fmt: skip

        if storage.v_trans:
            size = self.v.shape[1] // (shape[1] * head_v)
            self.native.v_channel = n_cells * size
            by_channel = self.v.reshape(n_cells, -1, size).transpose(1, 0, 2)
            self.v = np.ascontiguousarray(by_channel).reshape(shape[1] * head_v, n_cells * size)

        self.q_rows = np.stack([ring_rows, one.query_positions[::n_gqa]]).astype(np.int32)
        self.slots = np.stack([_slot_fields(group, params) for group in groups]).astype(np.float32)
        self.freqs = np.append(one.rope_freqs, 0).astype(np.float32)
        # of all query heads of the layer, those of the groups before too
        self.sinks = np.full((shape[1], n_gqa), 100.0, np.float32)
        for at, group in enumerate(groups):
            if group.sink_logits is not None:
                first = heads_before + at * n_heads
                self.sinks[first : first + n_heads] = group.sink_logits[:, :n_gqa]
        self.layouts = {kind: library.layout(kind, self.native) for kind in ("seen", "plan")}
        # what nobody has written must not matter
        self.seen = np.full((len(groups), self.layouts["seen"]["n_floats"]), np.nan, np.float32)
        self.plan = np.full((len(groups), self.layouts["plan"]["n_floats"]), np.nan, np.float32)
        self.merged = np.zeros((len(groups), library.lib.akv_dev_rows_bytes(self.native)), np.uint8)

    def run(self, op: str, n_threads: int = 32, order: str = "forward") -> None:
        """One of OPS on the layer. AssertionError tells what is wrong with a kernel."""
        buffers = self.library.ffi.new("struct akv_buffers *")
        types = dict(self.library.ffi.typeof(buffers[0]).fields)
        arrays: dict[str, npt.NDArray[Any]] = {
            "k": self.k, "v": self.v, "q": self.q, "q_rows": self.q_rows, "cells": self.cells, "slots": self.slots,
            "freqs": self.freqs, "seen": self.seen, "plan": self.plan, "rows": self.merged,
            "sinks": self.sinks,
        }  # fmt: skip
        for name, array in arrays.items():
            assert array.flags.c_contiguous
            setattr(buffers, name, self.library.ffi.cast(types[name].type, array.ctypes.data))
        problem = self.library.lib.akv_dev_run(OPS[op], buffers, self.native, n_threads, ORDERS[order])
        assert not problem, self.library.ffi.string(problem).decode()

    def rows(self) -> tuple[Floats, Floats]:
        """Keys and values of all cells and heads of the layer: [n_cells, heads, channels], without the transform."""
        v, n_cells = self.v, len(self.k)
        if self.native.v_channel:
            by_channel = v.reshape(len(v), n_cells, -1).transpose(1, 0, 2)
            v = np.ascontiguousarray(by_channel).reshape(n_cells, -1)
        keys = from_bytes(self.k, self.storage.k).reshape(n_cells, -1, self.native.head_k)
        values = from_bytes(v, self.storage.v).reshape(n_cells, -1, self.native.head_v)
        return self.transformed(keys), values

    def transformed(self, x: Floats) -> Floats:
        """With the cache's transform of keys, or without it again."""
        return hadamard(x, self.storage.hadamard) if self.storage.hadamard else x

    def ops(self, at: int) -> list[Op]:
        """The plan of group `at`."""
        steps = self.n - self.n_keep
        n_done = int(self.section("plan", "header", 1)[at, 0])
        i, j, cost = (self.section("plan", name, steps)[at, :n_done] for name in ("op_i", "op_j", "op_cost"))
        return [Op(int(a), None if b < 0 else int(b), float(c)) for a, b, c in zip(i, j, cost, strict=True)]

    def section(self, kind: str, name: str, *shape: int) -> npt.NDArray[np.float32]:
        """A part of `seen` or `plan`, of all groups: [n_group, *shape]."""
        first = self.layouts[kind][name]
        array = self.seen if kind == "seen" else self.plan
        return array[:, first : first + int(np.prod(shape))].reshape(-1, *shape)


def _slot_fields(group: Group, params: Params) -> Floats:
    whole = np.floor(group.positions)
    past = params.accumulate * group.scores
    history = params.history * past / compressions(params, group.positions[-1] - group.positions)
    hold = np.where(group.is_protected, 1, np.where(group.is_expired, 2, 0))
    return np.stack([whole, group.positions - whole, group.cardinalities, past, hold, history])
