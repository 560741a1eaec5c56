"""A cache's size as people give it: slots, or mebibytes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import click

from ..config import AsymKVConfig
from ..llama import Llama

_CELLS = 256  # the native cache rounds its capacity up to this
_UNITS = {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


@dataclass(frozen=True)
class Budget:
    """Either slots or bytes."""

    slots: int | None = None
    n_bytes: int | None = None


class BudgetType(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """`2048` slots, or `260MiB`."""

    name = "N|NMiB"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Budget:
        if isinstance(value, Budget):
            return value
        match = re.fullmatch(r"\s*([+-]?\d+)\s*(kib|mib|gib)?\s*", str(value).lower())
        if match is None:
            self.fail(f"{value!r} is neither a number of slots nor a size such as 260MiB", param, ctx)
        amount, unit = int(match.group(1)), match.group(2)
        if amount < 1:
            self.fail(f"{value} is no size for a cache; give 1 or more", param, ctx)
        return Budget(slots=amount) if unit is None else Budget(n_bytes=amount * _UNITS[unit])


def config_for_bytes(config: AsymKVConfig, n_bytes: int, model: str, **options: Any) -> AsymKVConfig:
    """The largest budget whose cache, room for a batch included, takes at most `n_bytes` with this model."""
    slot_bytes = bytes_per_slot(model, **options)
    capacity = n_bytes // slot_bytes // _CELLS * _CELLS
    least = config.sinks + config.recent + 1
    for budget in range(capacity, least - 1, -1):
        candidate = config.replace(budget=budget)
        if budget + candidate.room(candidate.default_batch()) <= capacity:
            return candidate
    needed = config.replace(budget=least)
    slots = -(-(least + needed.room(needed.default_batch())) // _CELLS) * _CELLS
    raise ValueError(
        f"{n_bytes / (1 << 20):g} MiB are too few for this model's cache; give {-(-slots * slot_bytes >> 20)} MiB or more"
    )


def bytes_per_slot(model: str, **options: Any) -> int:
    """Bytes of K and V in one slot, all layers together: asked of a small cache of the same kind."""
    small = AsymKVConfig(budget=8, sinks=1, recent=4, observe=1, chunk=1)
    llm = Llama(model, asymkv=small, n_ctx=_CELLS, n_gpu_layers=0, verbose=False, **options)
    try:
        stats = llm.asymkv_stats()
        return stats.kv_bytes // stats.capacity
    finally:
        llm.close()
