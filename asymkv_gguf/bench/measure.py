"""The measurements: all modes take turns, in small steps, so that a machine that gets slower gets slower for all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from ..config import AsymKVConfig
from .bandwidth import METHOD, read_bandwidth
from .process import Worker
from .report import Report, Row, Spread
from .weights import ModelFacts, model_facts

MODES: Final = ("stock", "off", "on")
SLICE: Final = 8  # tokens that one mode decodes before it is the next one's turn
SUFFIX: Final = 32  # new tokens after a reused prefix
_ANSWER: Final = 8  # tokens after that prefix that are cut off
_CELLS: Final = 256  # llama.cpp rounds a context up to this
_SEED: Final = 1


@dataclass(frozen=True)
class Plan:
    """What is measured; counts are tokens."""

    model: Path
    modes: tuple[str, ...]
    depths: tuple[int, ...]
    n_prompt: int
    n_decode: int
    repetitions: int
    config: AsymKVConfig
    arguments: dict[str, Any]  # of llama_cpp.Llama; n_ctx is up to the plan
    bandwidth: float | None = None  # bytes per second; None: measured
    reuse: bool = True
    sample: int = 1  # of so many windows, modes without merging read one

    @property
    def n_ctx(self) -> int:
        """The deepest measurement, and all that comes after it if nothing can be taken back."""
        behind = (self.n_decode + (_ANSWER + SUFFIX) * self.reuse) * self.repetitions
        deepest = max(max(self.depths) + behind, self.n_prompt)
        return -(-deepest // _CELLS) * _CELLS

    @property
    def window(self) -> int:
        """Tokens that are read before it is the next mode's turn."""
        return self.n_prompt or int(self.arguments["n_batch"])

    def check(self, facts: ModelFacts) -> None:
        if facts.n_ctx_train and self.n_ctx > facts.n_ctx_train:
            raise ValueError(
                f"depth {max(self.depths):,} and what is measured there need a context of {self.n_ctx:,} tokens, but "
                f"{self.model.name} was trained for {facts.n_ctx_train:,}; lower -d, -p or -n"
            )


@dataclass(frozen=True)
class _Window:
    """Tokens of the prefill that were read in one go, or left out."""

    start: int
    n: int
    seconds: float | None

    @property
    def middle(self) -> float:
        return self.start + self.n / 2


@dataclass
class _Mode:
    """One worker, and what has been measured since the text's start."""

    worker: Worker
    windows: list[_Window] = field(default_factory=list)
    prefill_costs: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.worker.mode

    @property
    def prefill_tokens(self) -> int:
        return sum(window.n for window in self.windows)

    @property
    def prefill_read_tokens(self) -> int:
        return sum(window.n for window in self.windows if window.seconds is not None)

    @property
    def prefill_seconds(self) -> float:
        """Of all windows; what a token took in those that were left out lies on the line between their neighbours."""
        read = [(window.middle, window.seconds / window.n) for window in self.windows if window.seconds is not None]
        if not read:
            return 0.0
        middles, costs = zip(*read, strict=True)
        return sum(
            window.seconds if window.seconds is not None else window.n * float(np.interp(window.middle, middles, costs))
            for window in self.windows
        )


Progress = Callable[[str, int, int], None]


def measure(plan: Plan, progress: Progress, report: Report) -> None:
    """Fills `report` with all that `plan` asks for, row by row. `progress` is told what is measured, and how many prompt
    tokens of how many have been read."""
    facts = model_facts(plan.model)
    plan.check(facts)
    report.model, report.bandwidth = facts, plan.bandwidth
    with contextlib.ExitStack() as stack:
        modes = []
        for name in plan.modes:
            progress(f"opening {name}", 0, 0)
            arguments = {**plan.arguments, "model_path": str(plan.model), "n_ctx": plan.n_ctx, "asymkv": plan.config.as_dict()}
            modes.append(_Mode(stack.enter_context(Worker(name, _SEED, arguments))))
        report.system = modes[0].worker.state["system"]
        for mode in modes:  # weights are read into memory, buffers touched
            progress(f"warming up {mode.name}", 0, 0)
            mode.worker.ask("prefill", to=plan.window)
            mode.worker.ask("decode", n=1)
            mode.worker.ask("clear")
        for depth in plan.depths:
            windows = _prefill(plan, modes, depth, progress)
            at_depth = {mode.name: mode.worker.position for mode in modes}
            progress(f"decode at {depth:,}", 0, 0)
            times = _decode(plan, modes, at_depth)
            # before suffixes are read, which may compress
            rows = [_row(plan, facts, mode, depth, windows[mode.name], times[mode.name]) for mode in modes]
            if plan.reuse and depth:
                progress(f"prefix reuse at {depth:,}", 0, 0)
                seconds = _reuse(plan, modes, at_depth)
                rows = [replace(row, reuse_seconds=Spread.of(seconds[row.mode])) for row in rows]
            report.rows += rows
            if plan.bandwidth is None and not plan.arguments["n_gpu_layers"]:
                progress("memory bandwidth", 0, 0)
                # the best of all depths: what else runs on the machine only takes away from it
                report.bandwidth = max(read_bandwidth(plan.arguments["n_threads"]), report.bandwidth or 0.0)
                report.bandwidth_method = METHOD
            report.compare()


def _prefill(plan: Plan, modes: Sequence[_Mode], depth: int, progress: Progress) -> dict[str, list[float]]:
    """Read up to `depth`; tokens per second of the last windows of n_prompt tokens, for each mode."""
    windows: dict[str, list[float]] = {mode.name: [] for mode in modes}
    if depth == 0:  # n_prompt tokens of an empty context, again and again
        for _ in range(plan.repetitions if plan.n_prompt else 0):
            for mode in modes:
                answer = mode.worker.ask("prefill", to=plan.n_prompt)
                windows[mode.name].append(answer["n"] / answer["seconds"])
                mode.worker.ask("clear")
        return windows
    start = min(mode.worker.position for mode in modes)
    ends = window_ends(start, depth, plan.window, plan.n_decode)
    for index, end in enumerate(ends):
        # the last ones before the depth are what prefill_tps says
        is_sampled = index % plan.sample == 0 or len(ends) - index <= plan.repetitions
        for mode in modes:
            progress(f"prefill to {depth:,}", end, max(plan.depths))
            before = _costs(mode.worker.state)
            if not before and not is_sampled:
                mode.windows.append(_Window(ends[index - 1], end - ends[index - 1], None))
                continue
            if not before and index and mode.worker.position < ends[index - 1]:
                mode.worker.ask("fill", to=ends[index - 1])
            first = mode.worker.position
            answer = mode.worker.ask("prefill", to=end)
            if not answer["n"]:
                continue
            mode.windows.append(_Window(first, answer["n"], answer["seconds"]))
            for name, cost in _costs(answer).items():
                mode.prefill_costs[name] = mode.prefill_costs.get(name, 0) + cost - before[name]
            if plan.n_prompt:
                windows[mode.name].append(answer["n"] / answer["seconds"])
    # the first window of a stretch is a remainder, and would count as much as a whole one
    return {name: speeds[-plan.repetitions :] for name, speeds in windows.items()}


def window_ends(start: int, depth: int, window: int, n_decode: int) -> list[int]:
    """Where the windows end between `start` and `depth`: counted from `depth` backwards, the last one short by what will be
    decoded there. So a full cache is measured at its fullest, instead of just after a compression."""
    last = window - n_decode if 0 < n_decode < window else window
    ends = [depth]
    end = depth - last
    while end > start:
        ends.append(end)
        end -= window
    return ends[::-1]


@dataclass
class _Decoded:
    """What one mode needed for its tokens at one depth."""

    position: int
    medians: list[float] = field(default_factory=list)  # seconds per token, of each repetition
    seconds: list[float] = field(default_factory=list)  # of each token
    slots: list[int] = field(default_factory=list)  # live after each slice


def _decode(plan: Plan, modes: Sequence[_Mode], at_depth: dict[str, int]) -> dict[str, _Decoded]:
    decoded = {mode.name: _Decoded(at_depth[mode.name]) for mode in modes}
    for _ in range(plan.repetitions):
        for first in range(0, plan.n_decode, SLICE):
            for mode in modes:
                answer = mode.worker.ask("decode", n=min(SLICE, plan.n_decode - first))
                decoded[mode.name].seconds += answer["seconds"]
                decoded[mode.name].slots.append(_slots(answer))
        for mode in modes:
            one = decoded[mode.name]
            one.medians.append(median(one.seconds[-plan.n_decode :]))
            mode.worker.ask("rewind", to=one.position)
    return decoded


def _reuse(plan: Plan, modes: Sequence[_Mode], at_depth: dict[str, int]) -> dict[str, list[float]]:
    """Seconds until a new suffix is read, after what followed the prefix was cut off."""
    seconds: dict[str, list[float]] = {mode.name: [] for mode in modes}
    for _ in range(plan.repetitions):
        for mode in modes:
            mode.worker.ask("decode", n=_ANSWER)
            seconds[mode.name].append(mode.worker.ask("reuse", to=at_depth[mode.name], suffix=SUFFIX)["seconds"])
            mode.worker.ask("rewind", to=at_depth[mode.name])
    return seconds


def _row(
    plan: Plan,
    facts: ModelFacts,
    mode: _Mode,
    depth: int,
    windows: list[float],
    decoded: _Decoded,
) -> Row:
    state, costs = mode.worker.state, mode.prefill_costs
    cache: dict[str, Any] | None = state["asymkv"]
    seconds = median(decoded.seconds)
    slots = round(median(decoded.slots))
    slot_bytes = facts.slot_bytes(plan.arguments["type_k"], plan.arguments["type_v"])
    # layers with a sliding window read less than that: no bound is better than a wrong one
    token_bytes = None if facts.windowed else facts.weight_bytes + slots * slot_bytes
    return Row(
        mode=mode.name,
        depth=depth,
        position=decoded.position,
        slots=slots,
        capacity=cache["capacity"] if cache is not None else None,
        prefill_tps=Spread.of(windows) if windows else None,
        prefill_tokens=mode.prefill_tokens,
        prefill_read_tokens=mode.prefill_read_tokens,
        prefill_seconds=mode.prefill_seconds,
        first_token_seconds=mode.prefill_seconds + seconds,
        decode_tps=Spread.of([1 / one for one in decoded.medians], middle=1 / seconds),
        decode_tokens=len(decoded.seconds),
        decode_compressing_tps=_with_compression(seconds, cache) if cache is not None else None,
        compressions=round(costs["compressions"]) if costs else None,
        observe_seconds=costs.get("observe_seconds"),
        plan_seconds=costs.get("plan_seconds"),
        merge_seconds=costs.get("merge_seconds"),
        compress_seconds=costs.get("compress_seconds"),
        compress_share=costs["compress_seconds"] / mode.prefill_seconds if costs and mode.prefill_seconds else None,
        kv_bytes=cache["kv_bytes"] if cache is not None else state["kv_bytes"],
        slot_bytes=slot_bytes,
        table_bytes=cache["table_bytes"] if cache is not None else 0,
        compute_buffer_bytes=state["compute_buffer_bytes"],
        rss_bytes=state["rss_bytes"],
        rss_anon_bytes=state["rss_anon_bytes"],
        peak_rss_bytes=state["peak_rss_bytes"],
        token_bytes=token_bytes,
        asymkv=cache,
    )


def _with_compression(seconds: float, cache: dict[str, Any]) -> float | None:
    """Tokens per second where each one pays its part of the next compression."""
    if not cache["compressions"] or cache["tokens"] <= cache["slots"]:
        return None
    freed_slots = cache["tokens"] - cache["slots"]
    return 1.0 / (seconds + float(cache["compress_seconds"]) / int(freed_slots))


_COSTS: Final = ("compressions", "observe_seconds", "plan_seconds", "merge_seconds", "compress_seconds")


def _costs(state: dict[str, Any]) -> dict[str, float]:
    cache = state["asymkv"]
    return {name: cache[name] for name in _COSTS} if cache is not None else {}


def _slots(state: dict[str, Any]) -> int:
    cache = state["asymkv"]
    return int(cache["slots"] if cache is not None else state["position"])
