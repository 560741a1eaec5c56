"""Run as a script: what the merged cache makes of dummy models, after arch_stock.py has made them.

    python arch_merged.py DIRECTORY ARCH...

For every architecture a line of JSON when it begins, and another one with what was found.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from asymkv_gguf import Llama, reference
from asymkv_gguf.errors import UnsupportedError
from asymkv_gguf.llama import _api
from asymkv_gguf.native.groups import read_group

# isort: split
# these may load llama_cpp only after asymkv_gguf did
import llama_cpp
import numpy as np
from arch_stock import N_BATCH, TOKENS, read, settings

SMALL = {"budget": 128, "sinks": 4, "recent": 40, "observe": 16, "evict": False}  # 256 slots
SHIFT = 37
TEXT = [1, *np.random.default_rng(12).integers(3, 259, 449).tolist()]
MORE = [int(token) for token in np.random.default_rng(13).integers(3, 259, 30)]


class CheckError(Exception):
    """A property that a merged cache promises does not hold."""


def expect(holds: Any, sentence: str) -> None:
    if not holds:
        raise CheckError(sentence)


def make(path: Path, per_head: bool, flash_attn: bool = True, n_ctx: int = 1024, **config: Any) -> Llama:
    return Llama(str(path), asymkv={"per_head": per_head, **config}, **settings(flash_attn, n_ctx))


def kind_of(llm: Llama) -> str:
    """Which of the model's caches are merged."""
    is_hybrid = llama_cpp.llama_model_is_hybrid(llm.model)
    has_windows = llama_cpp.llama_model_n_swa(llm.model) > 0
    return ("hybrid" if is_hybrid else "plain") + (", sliding window" if has_windows else "")


def groups(llm: Llama) -> list[tuple[int, int]]:
    stats = _api.stats(llm.ctx)
    found = []
    for layer in range(stats["n_layer"]):
        for group in range(stats["n_group"]):
            if _api.lib.asymkv_n_lost(_api._context(llm.ctx), layer, group, _api.ffi.NULL) == 0:
                found.append((layer, group))
    return found


def check_identity(path: Path, per_head: bool, stock: Any) -> None:
    """While nothing is merged, logits are stock llama.cpp's, bit for bit."""
    for flash_attn in (True, False):
        llm = make(path, per_head, flash_attn, n_ctx=512, budget=256)
        logits = read(llm, TOKENS)
        expect(llm.asymkv_stats().compressions == 0, "was compressed too early")
        _api.check_cache(llm.ctx)
        llm.close()
        expect(np.array_equal(logits, stock[str(flash_attn)]), f"logits are not stock's (flash_attn={flash_attn})")


def check_rope(path: Path, per_head: bool) -> str:
    """A key computed at p and rotated by d is the key computed at p + d. Returns the kinds of RoPE."""
    found: list[dict[tuple[int, int], Any]] = []
    for first in (0, SHIFT):
        # single precision everywhere, so that a wrong angle cannot hide
        llm = Llama(str(path), asymkv={**SMALL, "per_head": per_head}, **settings(False, 1024), type_k=0, type_v=0)
        llm._decode_batch.fill(TOKENS[:N_BATCH], first, False)
        expect(llama_cpp.llama_decode(llm.ctx, llm._decode_batch.native) == 0, "llama_decode failed")
        found.append({index: read_group(_api, llm.ctx, *index) for index in groups(llm)})
        llm.close()
    kinds = set()
    for index, group in found[0].items():
        later = found[1][index]
        if group.n_rot == 0:
            kinds.add("none")
            continue
        kinds.add(("neox" if group.rope_neox else "norm") + (" in part" if group.n_rot < group.keys.shape[2] else ""))
        expect(np.array_equal(later.positions, group.positions + SHIFT), "positions are not those that were read")
        delta = np.full((len(group.keys), 1), float(SHIFT))
        moved = reference.rotate(group.keys, delta, group.rope_freqs, group.n_rot, group.rope_neox)
        error = np.abs(moved - later.keys).max() / np.abs(later.keys).max()
        still = np.abs(group.keys - later.keys).max() / np.abs(later.keys).max()
        expect(error <= 2e-3 < still, f"rotated keys of layer {index[0]} are off by {error:.2e} ({still:.2e} if not rotated)")
    return ", ".join(sorted(kinds))


def remove(llm: Llama, first: int) -> bool:
    return bool(llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(llm.ctx), 0, first, -1))


def slots_of(llm: Llama) -> list[np.ndarray]:
    return [llm.asymkv_slots(*index) for index in groups(llm)]


def check_round_trip(path: Path, per_head: bool, kind: str) -> None:
    """Merged, saved, restored and taken back; whatever is read next has the same logits, bit for bit."""
    is_hybrid, has_windows = "hybrid" in kind, "window" in kind
    for flash_attn in (True, False):
        llm, other = (make(path, per_head, flash_attn, **SMALL) for _ in range(2))
        for start in range(0, len(TEXT), N_BATCH):
            llm.eval(TEXT[start : start + N_BATCH])
            _api.check_cache(llm.ctx)
        stats = llm.asymkv_stats()
        expect(stats.compressions > 0 and stats.slots < len(TEXT) == stats.tokens, "nothing was merged")
        merged = sum(int(slots["cardinality"].max() > 1) for slots in slots_of(llm))
        expect(merged > 0, "no group merged anything")
        other.load_state(llm.save_state())
        _api.check_cache(other.ctx)
        before = slots_of(llm)
        expect(all(map(np.array_equal, before, slots_of(other))), "restored slots are others")
        first = read(llm, MORE)
        expect(np.isfinite(first).all(), "logits are not finite")
        again = read(other, MORE)
        # layers with a sliding window lie elsewhere after a restore, and sums of other orders round differently
        error = np.abs(first - again).max() / np.abs(first).max()
        expect(error <= (2e-2 if has_windows else 0), f"logits after a restore are off by {error:.2e}")
        expect(not remove(llm, 100), "a cut in the merged part was not refused")
        if is_hybrid:  # a recurrent state goes back to where it was saved only
            expect(not remove(llm, len(TEXT)), "a recurrent state went back")
        else:
            expect(remove(llm, len(TEXT)), "recent tokens could not be taken back")
            _api.check_cache(llm.ctx)
            expect(all(map(np.array_equal, before, slots_of(llm))), "slots after a cut are others")
            llm.n_tokens = len(TEXT)
            expect(np.array_equal(first, read(llm, MORE)), "logits after a cut are others")
        for one in (llm, other):
            one.close()


def reason_of_model(path: Path) -> str:
    """What the library says of the model alone, before any context; "": nothing."""
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    try:
        _api.model_check(model, _api.params())
    except UnsupportedError as error:
        return str(error)
    finally:
        llama_cpp.llama_model_free(model)
    return ""


def examine(directory: Path, arch: str) -> dict[str, Any]:
    path = directory / f"{arch}.gguf"
    try:
        llm = make(path, True)
    except UnsupportedError as error:
        return {"verdict": "refused", "reason": reason_of_model(path) or str(error)}
    kind = kind_of(llm)
    layers = _api.stats(llm.ctx)["n_layer"], llama_cpp.llama_model_n_layer(llm.model)
    llm.close()
    with np.load(directory / f"{arch}.npz") as stock:
        for per_head in (True, False):
            check_identity(path, per_head, stock)
            rope = check_rope(path, per_head)
            check_round_trip(path, per_head, kind)
    return {"verdict": "merged", "kind": kind, "rope": rope, "layers": layers}


def main(directory: Path, archs: list[str]) -> None:
    for arch in archs:
        print(json.dumps({"arch": arch}), flush=True)
        try:
            found = examine(directory, arch)
        except Exception as error:
            found = {"verdict": "failed", "reason": f"{type(error).__name__}: {error}"}
        print(json.dumps({"arch": arch, **found}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
