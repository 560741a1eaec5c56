"""Groups between the native library and the NumPy reference: read one out of a live cache, compress one natively."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..reference import Floats, Group, Op, Params
from .api import Api

_NO_SLOT = 0xFFFFFFFF

# arrays of struct asymkv_group and of struct asymkv_result, and how C stores them
_GROUP_TYPES = {
    "keys": "f4", "values": "f4", "queries": "f4", "query_positions": "i4", "positions": "f8",
    "cardinalities": "u4", "scores": "f4", "is_protected": "u1", "rope_freqs": "f4",
    "is_expired": "u1",
    "sink_logits": "f4",
}  # fmt: skip
_RESULT_TYPES = {
    "mass": "f4", "cost_merge": "f8", "cost_evict": "f8", "kept": "u4",
    "keys": "f4", "values": "f4", "positions": "f8", "cardinalities": "u4", "scores": "f4",
}  # fmt: skip


class NativeResult(NamedTuple):
    """What asymkv_compress_group returns. Shapes as in reference.Group and reference.Observation."""

    mass: Floats  # [n]
    cost_merge: Floats  # [n], of slot i with its right neighbour before the first step; inf: not allowed
    cost_evict: Floats  # [n]
    ops: list[Op]
    kept: npt.NDArray[Any]  # [n_keep]
    keys: Floats  # [n_keep, H, dk]
    values: Floats  # [n_keep, H, dv]
    positions: Floats  # [n_keep]
    cardinalities: npt.NDArray[Any]  # [n_keep]
    scores: Floats  # [n_keep]


def read_group(api: Api, context: Any, layer: int, group: int) -> Group:
    """One group of a live merged cache, as it stands: dequantized, and without the cache's Hadamard transform.

    `layer` counts merged layers, `group` is a KV head, or 0 where a layer has one plan. Raises ParameterError when
    there is no such group.
    """
    pointer = api._context(context)
    struct = api.new("group")
    api.check(api.lib.asymkv_read_group(pointer, layer, group, struct))
    n, n_heads, n_queries = struct.n_slots, struct.n_heads, struct.n_queries
    shapes = {
        "keys": (n, n_heads, struct.head_k),
        "values": (n, n_heads, struct.head_v),
        "queries": (n_heads, n_queries, struct.head_k),
        "query_positions": (n_queries,),
        "rope_freqs": (struct.n_rot // 2,),
        "sink_logits": (n_heads, n_queries),
    }
    arrays = {name: np.zeros(shapes.get(name, (n,)), dtype) for name, dtype in _GROUP_TYPES.items()}
    _point(api, struct, arrays)
    api.check(api.lib.asymkv_read_group(pointer, layer, group, struct))
    if np.isneginf(arrays["sink_logits"]).all():  # the library's word for none
        del arrays["sink_logits"]
    return Group(
        **{name: array.astype(_reference_type(array)) for name, array in arrays.items() if array.dtype != np.uint8},
        is_protected=arrays["is_protected"].astype(bool),
        is_expired=arrays["is_expired"].astype(bool),
        rope_neox=bool(struct.rope_neox),
        n_rot=struct.n_rot,
        scale=struct.scale,
        softcap=struct.softcap,
    )


def compress_group(api: Api, group: Group, params: Params, n_keep: int) -> NativeResult:
    """asymkv_compress_group on one group. Raises ParameterError with the library's sentence."""
    n, n_heads, head_k = group.keys.shape
    head_v = group.values.shape[2]
    arrays = {
        name: np.ascontiguousarray(getattr(group, name), dtype)
        for name, dtype in _GROUP_TYPES.items()
        if getattr(group, name) is not None
    }
    struct = api.new("group")
    struct.n_slots, struct.n_heads, struct.n_queries = n, n_heads, len(group.query_positions)
    struct.head_k, struct.head_v, struct.n_rot = head_k, head_v, group.n_rot
    struct.rope_neox, struct.scale, struct.softcap = group.rope_neox, group.scale, group.softcap
    _point(api, struct, arrays)

    left = min(n, n_keep)
    shapes: dict[str, tuple[int, ...]] = {
        "mass": (n,), "cost_merge": (n,), "cost_evict": (n,),
        "keys": (left, n_heads, head_k), "values": (left, n_heads, head_v),
    }  # fmt: skip
    outputs = {name: np.zeros(shapes.get(name, (left,)), dtype) for name, dtype in _RESULT_TYPES.items()}
    ops = api.ffi.new("struct asymkv_op[]", max(n - left, 1))
    result = api.new("result")
    _point(api, result, outputs)
    result.ops = ops
    api.check(api.lib.asymkv_compress_group(native_params(api, params), struct, n_keep, result))
    return NativeResult(
        **outputs,
        ops=[Op(o.i, None if o.j == _NO_SLOT else o.j, o.cost) for o in ops[0 : result.n_ops]],
    )


def native_params(api: Api, params: Params) -> Any:
    """struct asymkv_params of the reference's parameters."""
    return api.params(
        score=getattr(api.lib, f"ASYMKV_SCORE_{params.score.upper()}"),
        key_weights=getattr(api.lib, f"ASYMKV_KEYS_{params.key_weights.upper()}"),
        evict=int(params.evict) if params.merge else 2,
        max_cardinality=params.max_cardinality,
        decay=params.decay,
        accumulate=params.accumulate,
        history=params.history,
        seed=params.seed,
        span=params.span,
        room=params.room,
    )


def _point(api: Api, struct: Any, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """The struct's pointers to the arrays, which have to outlive it."""
    types = dict(api.ffi.typeof(struct[0]).fields)
    for name, array in arrays.items():
        setattr(struct, name, api.ffi.cast(types[name].type, array.ctypes.data))


def _reference_type(array: npt.NDArray[Any]) -> type:
    return np.float64 if array.dtype.kind == "f" else np.int64
