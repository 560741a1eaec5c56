"""A cache's size as people give it: slots, or mebibytes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import click

from ..config import AsymKVConfig
from ..preview import bytes_per_slot
from ..stats import size_text

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
        match = re.fullmatch(r"\s*([+-]?\d+(?:\.\d+)?)\s*(kib|mib|gib)?\s*", str(value).lower())
        if match is None or (match[2] is None and "." in match[1]):
            self.fail(f"{value!r} is neither a number of slots nor a size such as 260MiB", param, ctx)
        amount = float(match[1])
        if amount <= 0:
            self.fail(f"{value} is no size for a cache; give 1 or more", param, ctx)
        return Budget(slots=int(match[1])) if match[2] is None else Budget(n_bytes=int(amount * _UNITS[match[2]]))


def config_for_bytes(
    config: AsymKVConfig, n_bytes: int, model: str, n_batch: int | None = None, **options: Any
) -> AsymKVConfig:
    """The largest budget whose cache, room for a batch included, takes at most `n_bytes` with this model."""
    slot_bytes = bytes_per_slot(model, **options)
    capacity = n_bytes // slot_bytes // _CELLS * _CELLS
    least = config.sinks + config.recent + (n_batch or 1)

    def slots(candidate: AsymKVConfig) -> int:
        return candidate.budget + candidate.room(n_batch or candidate.default_batch())

    for budget in range(capacity, least - 1, -1):
        candidate = config.replace(budget=budget)
        if slots(candidate) <= capacity:
            return candidate
    needed = -(-slots(config.replace(budget=least)) // _CELLS) * _CELLS * slot_bytes
    batches = f" with batches of {n_batch}" if n_batch is not None else ""
    raise ValueError(
        f"{size_text(n_bytes)} are too few for this model's cache{batches}; give --asymkv-budget {-(-needed >> 20)}MiB or more"
    )
