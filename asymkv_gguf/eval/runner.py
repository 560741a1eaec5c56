"""Every column on every sample: a model is opened once for each cache, and what was measured before is not measured again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..cache_types import KV_TYPES
from ..config import MAX_BATCH, AsymKVConfig
from ..fingerprint import file_hash, library_version, model_files
from ..llama import Llama
from ..preview import bytes_per_slot
from .columns import Column, padded
from .results import Key, Result, Results
from .task import NeedsFullCache, Sample, Task


class Progress(Protocol):
    """Told what happens; a terminal shows it."""

    def note(self, sentence: str) -> None: ...

    def start(self, total: int, done: int) -> None: ...

    def step(self, what: str, n: int = 1) -> None: ...


@dataclass(frozen=True)
class Engine:
    """The model, and how it runs: the same for all columns."""

    model: str
    n_batch: int | None = None  # None: the longest that fits all columns
    n_ubatch: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)  # threads, devices, verbose

    @property
    def fingerprint(self) -> str:
        return "".join(file_hash(file) for file in model_files(self.model))


@dataclass(frozen=True)
class Outcome:
    """What was measured, in the order of columns and samples."""

    n_batch: int
    n_samples: int
    n_measured: int  # now; the others were there
    by_column: Mapping[str, Sequence[Result]]


@dataclass(frozen=True)
class _Plan:
    """A task's samples and the caches they are measured with."""

    engine: Engine
    samples: Sequence[Sample]
    n_ctx: int
    n_batch: int
    n_ubatch: int

    def config(self, column: Column, sample: Sample) -> AsymKVConfig | None:
        return column.config(sample.n_tokens, self.n_batch)

    def settings(self, config: AsymKVConfig | None, kv_type: str) -> str:
        """A digest of all that changes numbers."""
        arguments = self.engine.arguments
        parts = [config.as_dict() if config is not None else None, kv_type, self.n_batch, self.n_ubatch]
        parts += [arguments.get("n_gpu_layers", 0), bool(arguments.get("rpc_servers")), library_version()]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()

    def open(self, config: AsymKVConfig | None, kv_type: str) -> Llama:
        return Llama(
            self.engine.model,
            asymkv=config if config is not None else False,
            n_ctx=self.n_ctx,
            n_batch=self.n_batch,
            n_ubatch=self.n_ubatch,
            type_k=KV_TYPES[kv_type],
            type_v=KV_TYPES[kv_type],
            flash_attn=True,
            swa_full=False,
            **{"verbose": False, **self.engine.arguments},
        )


def run(task: Task[Any], columns: Sequence[Column], engine: Engine, results: Results, progress: Progress) -> Outcome:
    """ValueError before anything is measured, if a column cannot have this task's texts."""
    samples: Sequence[Sample] = task.samples()
    if not samples:
        raise ValueError(f"eval {task.name} has no samples; give a longer text")
    plan = _plan(columns, engine, samples)
    keys = _keys(task, columns, plan)
    missing = sum(results.get(key) is None for key in keys.values())
    progress.note(
        f"{_count(len(samples), 'sample')}, {_count(len(columns), 'column')}; "
        f"texts are read {plan.n_batch} tokens at a time in all of them"
    )
    progress.start(len(keys), len(keys) - missing)
    if missing and isinstance(task, NeedsFullCache):
        _read_references(task, plan, [s for s in samples if any(results.get(keys[c.label, s.id]) is None for c in columns)])
    for column in columns:
        left = [sample for sample in samples if results.get(keys[column.label, sample.id]) is None]
        if left:
            _measure(task, column, left, plan, keys, results, progress)
    found = {c.label: [r for s in samples if (r := results.get(keys[c.label, s.id])) is not None] for c in columns}
    return Outcome(plan.n_batch, len(samples), missing, found)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def _plan(columns: Sequence[Column], engine: Engine, samples: Sequence[Sample]) -> _Plan:
    sizes = {padded(sample.n_tokens) for sample in samples}
    n_ctx = max(sizes)
    if engine.n_batch is None:
        configs = [config for column in columns for size in sizes if (config := column.config(size)) is not None]
        n_batch = min([MAX_BATCH, *(config.default_batch() for config in configs)])
    else:
        n_batch = engine.n_batch
        for column in columns:
            for size in sizes:
                config = column.config(size, n_batch)
                if config is not None:
                    config.check_batch(n_batch)
    return _Plan(engine, samples, n_ctx, n_batch, min(engine.n_ubatch or MAX_BATCH, n_batch))


def _keys(task: Task[Any], columns: Sequence[Column], plan: _Plan) -> dict[tuple[str, str], Key]:
    model, name = plan.engine.fingerprint, f"{task.name}-{task.fingerprint}"
    keys = {}
    for column in columns:
        digests = {
            size: plan.settings(column.config(size, plan.n_batch), column.kv_type)
            for size in {padded(sample.n_tokens) for sample in plan.samples}
        }
        for sample in plan.samples:
            keys[column.label, sample.id] = Key(model, name, column.label, digests[padded(sample.n_tokens)], sample.id)
    if len(keys) != len(columns) * len(plan.samples):
        raise ValueError(f"samples of eval {task.name} share an id")
    return keys


def _read_references(task: NeedsFullCache, plan: _Plan, samples: Sequence[Sample]) -> None:
    settings = f"{plan.engine.fingerprint}-{plan.settings(None, 'f16')}"
    left = [sample for sample in samples if not task.has_reference(sample, settings)]
    if not left:
        return
    llm = plan.open(None, "f16")
    try:
        for sample in left:
            llm.reset()
            task.read_reference(llm, sample, settings)
    finally:
        llm.close()


def _measure(
    task: Task[Any],
    column: Column,
    samples: Sequence[Sample],
    plan: _Plan,
    keys: Mapping[tuple[str, str], Key],
    results: Results,
    progress: Progress,
) -> None:
    kv_type = KV_TYPES[column.kv_type]
    shape = {"flash_attn": True, "type_k": kv_type, "type_v": kv_type}
    slot_bytes = bytes_per_slot(plan.engine.model, **shape) if column.is_full else 0
    by_config: dict[AsymKVConfig | None, list[Sample]] = {}
    for sample in samples:
        by_config.setdefault(plan.config(column, sample), []).append(sample)
    for config, same in _caches(by_config):
        llm = plan.open(config, column.kv_type)
        try:
            for sample in same:
                progress.step(f"{column.label} {sample.id}", 0)
                llm.reset()
                started = time.perf_counter()
                values = {name: float(value) for name, value in task.measure(llm, sample).items()}
                seconds = time.perf_counter() - started
                slots, n_bytes = _size(llm, sample, slot_bytes)
                budget = config.budget if config is not None else None
                results.add(Result(keys[column.label, sample.id], values, budget, slots, n_bytes, seconds))
                progress.step(f"{column.label} {sample.id}")
        finally:
            llm.close()


def _caches(
    by_config: Mapping[AsymKVConfig | None, list[Sample]],
) -> Iterator[tuple[AsymKVConfig | None, list[Sample]]]:
    """A cache and the samples that it gets, one after the other."""
    for config, samples in by_config.items():
        if config is not None and config.score == "random":  # its dice would go on from one text to the next
            yield from ((config, [sample]) for sample in samples)
        else:
            yield config, samples


def _size(llm: Llama, sample: Sample, slot_bytes: int) -> tuple[int, int]:
    """Slots and their bytes, as allocated; a full cache as large as this sample needs it."""
    if llm.asymkv is None:
        return padded(sample.n_tokens), padded(sample.n_tokens) * slot_bytes
    stats = llm.asymkv_stats()
    return stats.capacity, stats.kv_bytes
