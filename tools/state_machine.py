"""Random operations on a merged cache, and beside it a plain model of what it has to hold.

    python tools/state_machine.py [--operations 100000] [--seed 0]

After every operation all invariants of the cache hold, and it has as many tokens and slots, and the same positions, as the
model. What is refused is refused with a sentence, and changes nothing. Now and then a second context, restored from the
first or read anew, has to have the same logits.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asymkv_gguf import Llama
from asymkv_gguf.decode_batch import DecodeBatch
from asymkv_gguf.llama import _api
from asymkv_gguf.state import read_state, write_state

# isort: split
# these may load llama_cpp only after asymkv_gguf did
import dummy_models
import llama_cpp
import numpy as np

SINKS, RECENT, BUDGET, BATCH, CAPACITY = 4, 24, 96, 48, 256
N_CTX = 2048
CONFIG = {"budget": BUDGET, "sinks": SINKS, "recent": RECENT, "observe": 16}

TRAINED = {"compact positions": 512}  # tokens; the others: N_CTX

# name: architecture and settings
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "per head": ("llama", {}),
    "per layer, without flash attention": ("qwen3", {"per_head": False, "flash_attn": False}),
    "only merging": ("llama", {"evict": False, "score": "output"}),
    "only evicting": ("qwen3", {"score": "h2o", "merge": False}),
    "clipped": ("llama", {"score": "mass", "evict": False, "max_cardinality": 5}),
    "compact positions": ("llama", {"positions": "compact"}),
    "sliding windows": ("gemma2", {}),
    "hybrid": ("lfm2", {}),
}


# how often each one comes
OPERATIONS = {
    "decode": 40, "decode_one": 15, "compress": 8, "compress_too_far": 1, "cut_recent": 8, "cut_anywhere": 4, "cut_middle": 4,
    "remove_all": 1, "other_sequence": 4, "shift": 1, "save": 3, "load": 3, "load_damaged": 1, "clear": 1, "compare": 3,
}  # fmt: skip


@dataclass
class Model:
    """What a merged cache holds, by brute force: exact tokens by position, and a merged span that counts for the rest."""

    exact: dict[int, int] = field(default_factory=dict)  # position: token; ascending
    span: tuple[int, int] | None = None  # first and last position of what was merged
    span_slots: int = 0
    span_tokens: int = 0
    has_holes: bool = False  # free slots between live ones

    @property
    def n_slots(self) -> int:
        return len(self.exact) + self.span_slots

    @property
    def n_tokens(self) -> int:
        return len(self.exact) + self.span_tokens

    @property
    def first(self) -> int:
        return min([*self.exact, *(self.span or ())], default=-1)

    @property
    def last(self) -> int:
        return max([*self.exact, *(self.span or ())], default=-1)

    def append(self, tokens: list[int]) -> None:
        if len(tokens) > CAPACITY - self.n_slots:
            self.compress(BUDGET)
        start = self.last + 1
        self.exact |= {start + i: token for i, token in enumerate(tokens)}

    def compress(self, n_keep: int) -> None:
        if self.n_slots <= n_keep:
            return
        before = [position for position in self.exact if self.span is None or position < self.span[0]]
        after = [position for position in self.exact if self.span is not None and position > self.span[1]]
        if self.span is None:
            sinks, merged, recent = before[:SINKS], before[SINKS:-RECENT], before[-RECENT:]
        else:
            sinks, merged, recent = before[:SINKS], [*before[SINKS:], *after[:-RECENT]], after[-RECENT:]
        inside = [*merged, *(self.span or ())]
        self.span = min(inside), max(inside)
        self.span_tokens += len(merged)
        self.span_slots = n_keep - len(sinks) - len(recent)
        self.exact = {position: self.exact[position] for position in [*sinks, *recent]}
        self.has_holes = False

    def can_remove(self, start: int, end: int) -> bool:
        """Not where part of what was merged would have to go."""
        if self.n_slots == 0 or start >= end or start > self.last or self.span is None or start > self.span[1]:
            return True
        return end > self.last and start <= self.span[0]

    def remove(self, start: int, end: int) -> None:
        if self.span is not None and start <= self.span[0] <= self.span[1] < end:
            self.span, self.span_slots, self.span_tokens = None, 0, 0
        last, n_slots = self.last, self.n_slots
        self.exact = {position: token for position, token in self.exact.items() if not start <= position < end}
        self.has_holes = self.n_slots > 0 and (self.has_holes or (self.last == last and self.n_slots < n_slots))

    @property
    def is_whole(self) -> bool:
        """Nothing was merged, and nothing is missing."""
        return self.span is None and list(self.exact) == list(range(len(self.exact)))


class Machine:
    """A context, its model, and operations on both."""

    def __init__(self, path: Path, case: str, seed: int) -> None:
        _, settings = CASES[case]
        self.case = case
        self.rng = np.random.default_rng(seed)
        self.llm, self.twin = (self._make(path, dict(settings)) for _ in range(2))
        self.batch = DecodeBatch(BATCH)
        self.model = Model()
        self.saved: list[tuple[Any, Model]] = []
        self.groups = [
            (layer, group)
            for layer in range(self._stats()["n_layer"])
            for group in range(self._stats()["n_group"])
        ]  # fmt: skip
        self.counts: dict[str, int] = {}
        self.history: list[str] = []

    def _make(self, path: Path, settings: dict[str, Any]) -> Llama:
        flash_attn = settings.pop("flash_attn", True)
        return Llama(
            str(path), asymkv={**CONFIG, **settings}, n_ctx=N_CTX, n_batch=BATCH, n_ubatch=BATCH, n_threads=1,
            n_threads_batch=1, flash_attn=flash_attn, verbose=False,
        )  # fmt: skip

    def close(self) -> None:
        self.llm.close()
        self.twin.close()

    # operations

    def step(self) -> None:
        names, weights = zip(*OPERATIONS.items(), strict=True)
        name = str(self.rng.choice(names, p=np.array(weights) / sum(weights)))
        if self.model.last > N_CTX - 2 * BATCH:
            name = "clear"
        self.counts[name] = self.counts.get(name, 0) + 1
        self.history.append(name)
        getattr(self, f"do_{name}")()
        self.check()

    def do_decode(self) -> None:
        self._decode(int(self.rng.integers(2, BATCH + 1)))

    def do_decode_one(self) -> None:
        self._decode(1)

    def _decode(self, n: int) -> None:
        tokens = [int(token) for token in self.rng.integers(3, 259, n)]
        self.batch.fill(tokens, self.model.last + 1, False)
        _api.forget_error()
        status = llama_cpp.llama_decode(self.llm.ctx, self.batch.native)
        assert status == 0, f"llama_decode returned {status}: {_api.new_error()}"
        self.model.append(tokens)

    def do_compress(self) -> None:
        n_keep = int(self.rng.integers(SINKS + RECENT + 1, CAPACITY))
        self.history[-1] += f" {n_keep}"
        self.llm.asymkv_compress(n_keep)
        self.model.compress(n_keep)

    def do_compress_too_far(self) -> None:
        self._refused(lambda: _api.lib.asymkv_compress(self._context, int(self.rng.integers(1, SINKS + RECENT + 1))) < 0)

    def do_cut_recent(self) -> None:
        self._remove(self.model.last + 1 - int(self.rng.integers(0, RECENT + 1)), -1)

    def do_cut_anywhere(self) -> None:
        self._remove(int(self.rng.integers(0, self.model.last + 2)), -1)

    def do_cut_middle(self) -> None:
        start = int(self.rng.integers(-1, self.model.last + 2))
        self._remove(start, start + int(self.rng.integers(0, 40)))

    def do_remove_all(self) -> None:
        self._remove(-1, -1)

    def _remove(self, start: int, end: int) -> None:
        self.history[-1] += f" {start}:{end} of {self.model.first}:{self.model.last}, span {self.model.span}"
        wanted = max(start, 0), end if end >= 0 else 2**31 - 1
        before = self._look() if self.model.n_slots else None
        _api.forget_error()
        done = bool(llama_cpp.llama_memory_seq_rm(self._memory, int(self.rng.integers(-1, 1)), start, end))
        may = self.model.can_remove(*wanted)
        if not done:
            # a window that is gone, a recurrent state, and sinks that moved, may refuse more
            assert not may or self.case in ("sliding windows", "hybrid", "compact positions"), "was refused"
            assert before is None or self._same(before), "was refused, but changed something"
            if self.case != "hybrid":  # llama.cpp's recurrent cache gives no reason
                assert _api.new_error() is not None, "was refused without a sentence"
            return
        assert may, "was not refused"
        if self.model.n_slots:
            self.model.remove(*wanted)

    def do_other_sequence(self) -> None:
        before = self._look() if self.model.n_slots else None
        way = int(self.rng.integers(6))
        self.history[-1] += f" {way}"
        if way == 0:
            self._refused(lambda: llama_cpp.llama_memory_seq_cp(self._memory, 0, 1, -1, -1) is None)
        elif way == 1:
            done = llama_cpp.llama_memory_seq_rm(self._memory, 1, -1, -1)
            assert done or self.case == "hybrid"  # whose recurrent part knows no other sequence
        elif way == 2:
            llama_cpp.llama_memory_seq_keep(self._memory, 0)
        elif way == 3:
            llama_cpp.llama_memory_seq_keep(self._memory, 1)
            self.model = Model()
            return
        elif way == 4:
            assert self._decode_of_sequence_1() == -1  # llama.cpp itself refuses it, and logs why
        elif way == 5 and self.model.n_slots:  # a batch that does not follow what is there
            self.batch.fill([5, 6], self.model.last + 3, False)
            assert llama_cpp.llama_decode(self.llm.ctx, self.batch.native) == -1
        if before is not None:
            assert self._same(before), "something changed"

    def _decode_of_sequence_1(self) -> int:
        batch = llama_cpp.llama_batch_init(1, 0, 1)
        batch.n_tokens, batch.token[0], batch.pos[0], batch.n_seq_id[0], batch.seq_id[0][0], batch.logits[0] = 1, 5, 0, 1, 1, 1
        status = int(llama_cpp.llama_decode(self.llm.ctx, batch))
        llama_cpp.llama_batch_free(batch)
        return status

    def do_shift(self) -> None:
        if self.case == "hybrid":  # whose recurrent part llama.cpp shifts
            return
        self._refused(lambda: llama_cpp.llama_memory_seq_add(self._memory, 0, 0, -1, 5) is None)
        self._refused(lambda: llama_cpp.llama_memory_seq_div(self._memory, 0, 0, -1, 2) is None)

    def do_save(self) -> None:
        self.saved = [*self.saved[-3:], (read_state(self.llm.ctx), copy.deepcopy(self.model))]

    def do_load(self) -> None:
        if self.saved:
            state, model = self.saved[int(self.rng.integers(len(self.saved)))]
            assert write_state(self.llm.ctx, state), "a saved state was refused"
            self.model = copy.deepcopy(model)
            self.model.has_holes = False

    def do_load_damaged(self) -> None:
        if self.saved:
            state, _ = self.saved[int(self.rng.integers(len(self.saved)))]
            assert not write_state(self.llm.ctx, state[: int(self.rng.integers(len(state)))])
            # before anything of it was read the text is still there, after that it is empty
            if self._stats()["n_slots"] == 0:
                llama_cpp.llama_memory_clear(self._memory, True)
                self.model = Model()

    def do_clear(self) -> None:
        llama_cpp.llama_memory_clear(self._memory, bool(self.rng.integers(2)))
        self.model = Model()

    def do_compare(self) -> None:
        """The twin, restored from here, goes on with the same logits; and so it does where it read all of the text itself."""
        if self.model.n_slots == 0:
            return
        tokens = [int(token) for token in self.rng.integers(3, 259, 5)]
        ways = ["restored", "read"] if self.model.is_whole and self.case != "hybrid" else ["restored"]
        state, start, text = read_state(self.llm.ctx), self.model.last + 1, list(self.model.exact.values())
        expected = None
        for way in ["here", *ways]:
            llm = self.llm if way == "here" else self.twin
            if way == "restored":
                assert write_state(llm.ctx, state)
                _api.check_cache(llm.ctx)
            elif way == "read":
                llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(llm.ctx), True)
                for first in range(0, len(text), BATCH):
                    self.batch.fill(text[first : first + BATCH], first, False)
                    assert llama_cpp.llama_decode(llm.ctx, self.batch.native) == 0
            self.batch.fill(tokens, start, False)
            assert llama_cpp.llama_decode(llm.ctx, self.batch.native) == 0
            logits = np.array(np.ctypeslib.as_array(llama_cpp.llama_get_logits(llm.ctx), shape=(llm.n_vocab(),)))
            assert np.isfinite(logits).all()
            if expected is None:
                self.model.append(tokens)
                expected = logits
                continue
            # other batches, and holes that a restored text does not have, are other orders of summation
            exact = way == "restored" and not self.model.has_holes
            error = np.abs(logits - expected).max() / np.abs(expected).max()
            assert error <= (0 if exact else 3e-2), f"logits of the text {way} are off by {error:.1e}"

    # what has to hold

    @property
    def _memory(self) -> Any:
        return llama_cpp.llama_get_memory(self.llm.ctx)

    @property
    def _context(self) -> Any:
        return _api._context(self.llm.ctx)

    def _stats(self) -> dict[str, int]:
        return _api.stats(self.llm.ctx)

    def _look(self) -> list[Any]:
        return [self.llm.asymkv_slots(*index) for index in self.groups]

    def _same(self, before: list[Any]) -> bool:
        return all(map(np.array_equal, before, self._look()))

    def _refused(self, operation: Any) -> None:
        """The operation says that it failed, leaves a sentence, and changes nothing."""
        before = self._look()
        _api.forget_error()
        assert operation(), "was not refused"
        sentence = _api.new_error()
        assert sentence, "was refused without a sentence"
        assert self._same(before), "was refused, but changed something"

    def check(self) -> None:
        _api.check_cache(self.llm.ctx)
        stats, model = self._stats(), self.model
        assert (stats["n_tokens"], stats["n_slots"]) == (model.n_tokens, model.n_slots)
        positions = (
            llama_cpp.llama_memory_seq_pos_min(self._memory, 0),
            llama_cpp.llama_memory_seq_pos_max(self._memory, 0),
        )
        # with a window, or recurrent, llama.cpp's own layers begin later
        assert positions[1] == model.last
        if self.case not in ("sliding windows", "hybrid"):
            assert positions[0] == model.first
        index = self.groups[int(self.rng.integers(len(self.groups)))]
        slots, lost = self.llm.asymkv_slots(*index), self.llm.asymkv_lost(*index)
        assert int(slots["cardinality"].sum()) + lost == model.n_tokens
        outside = [slot for slot in slots if model.span is None or not model.span[0] <= slot["first"] <= model.span[1]]
        assert [int(slot["first"]) for slot in outside] == list(model.exact)
        assert all(slot["cardinality"] == 1 and slot["first"] == slot["last"] for slot in outside)


def write_model(path: Path, case: str) -> None:
    """The model of a case."""
    dummy_models.write(path, CASES[case][0], context_length=TRAINED.get(case, N_CTX))


def run(path: Path, case: str, n: int, seed: int) -> dict[str, int]:
    """`n` operations; returns how often each one came. AssertionError, with the last of them, if something does not hold."""
    machine = Machine(path, case, seed)
    try:
        for i in range(n):
            try:
                machine.step()
            except Exception as error:
                last = "; ".join(machine.history[-12:])
                raise AssertionError(f"{case}, seed {seed}, operation {i}: {error} (the last ones: {last})") from error
    finally:
        machine.close()
    return machine.counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", choices=CASES)
    arguments = parser.parse_args()
    cases = [arguments.case] if arguments.case else list(CASES)
    with tempfile.TemporaryDirectory() as directory:
        for case in cases:
            path = Path(directory) / "model.gguf"
            write_model(path, case)
            counts = run(path, case, arguments.operations // len(cases), arguments.seed)
            print(f"{case}: " + ", ".join(f"{n:,} {name}" for name, n in sorted(counts.items())), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
