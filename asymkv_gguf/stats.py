"""What a merged cache holds and has cost so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

NATIVE_ATTN: Final = 1  # enum asymkv_native
NATIVE_COMPRESS: Final = 2


@dataclass(frozen=True)
class AsymKVStats:
    """Counters of one context. Sizes are bytes, times are seconds since the context was made."""

    tokens: int  # read, and not removed again
    slots: int  # live; the same in all layers and heads
    capacity: int  # allocated slots
    budget: int
    layers: int  # merged layers
    groups: int  # plans per layer: 1, or the number of KV heads
    kv_heads: int
    compressions: int
    merges: int  # summed over layers and groups
    evictions: int  # summed as well
    kv_bytes: int  # K and V, as allocated
    table_bytes: int  # cardinalities, observed queries and tables
    stock_kv_bytes: int  # K and V of a stock cache for the longest text (n_ctx)
    observe_seconds: float
    plan_seconds: float
    merge_seconds: float
    compress_seconds: float  # wall clock, all of it
    native_attention: bool  # cardinalities are added inside ggml's attention kernels (docs/build.md, bundled mode)
    device_compressions: int  # of `compressions`, those that ran where the cache is: their time is in `observe_seconds`

    @classmethod
    def from_native(cls, stats: Mapping[str, int]) -> AsymKVStats:
        """From the fields of struct asymkv_stats."""
        return cls(
            tokens=stats["n_tokens"],
            slots=stats["n_slots"],
            capacity=stats["n_capacity"],
            budget=stats["budget"],
            layers=stats["n_layer"],
            groups=stats["n_group"],
            kv_heads=stats["n_head_kv"],
            compressions=stats["n_compressions"],
            merges=stats["n_merges"],
            evictions=stats["n_evictions"],
            kv_bytes=stats["kv_bytes"],
            table_bytes=stats["table_bytes"],
            stock_kv_bytes=stats["stock_kv_bytes"],
            observe_seconds=stats["t_observe_us"] / 1e6,
            plan_seconds=stats["t_plan_us"] / 1e6,
            merge_seconds=stats["t_merge_us"] / 1e6,
            compress_seconds=stats["t_compress_us"] / 1e6,
            native_attention=bool(stats["native_ops"] & NATIVE_ATTN),
            device_compressions=stats["n_device_compressions"],
        )

    def as_dict(self) -> dict[str, int | float]:
        return dataclasses.asdict(self)

    def notice(self, stock_kv_bytes: int | None = None) -> str:
        """One line for people: `18,432 tokens in 2,080 slots (260 MiB instead of 2,304 MiB)`.

        `stock_kv_bytes`: what to compare with, instead of a cache for the longest text.
        """
        full = self.stock_kv_bytes if stock_kv_bytes is None else stock_kv_bytes
        instead = f" instead of {size_text(full)}" if full > self.kv_bytes else ""
        return f"{self.tokens:,} tokens in {self.slots:,} slots ({size_text(self.kv_bytes)}{instead})"


def size_text(n_bytes: int) -> str:
    """`260 MiB`, `1.5 MiB`, `96 KiB`."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if n_bytes >= 10 * size or (unit == "MiB" and n_bytes >= size):
            amount = n_bytes / size
            return f"{amount:,.0f} {unit}" if amount >= 10 else f"{amount:.1f} {unit}"
    return f"{n_bytes / 1024:.1f} KiB"
