"""What the merged cache should do: one frozen, self-checking record."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

# as asymkv.h numbers them
SCORES: Final = {"mass": 0, "output": 1, "exact": 2, "random": 3}
KEY_WEIGHTS: Final = {"mean": 0, "mass": 1, "slimmer": 2, "fisher": 3}

MAX_BATCH: Final = 512  # llama-cpp-python's default
MAX_SLOTS: Final = 1 << 24


@dataclass(frozen=True)
class AsymKVConfig:
    """Settings of the merged cache; ValueError with one sentence if they contradict each other.

    Counts are slots (rows of the cache) or tokens; both are the same for tokens that were never merged.

    budget           slots that are left after a compression
    sinks            first tokens, never merged
    recent           last tokens, never merged
    observe          last tokens whose queries decide what to merge, at most `recent`
    score            what is merged first: "exact" (least change of the attention output, by merging or evicting),
                     "output" (the same with a simpler estimate), "mass" (least attention: the paper), "random"
    key_weights      how two keys become one: "mean", "mass", "slimmer" (KVSlimmer), "fisher" (AsymKV)
    per_head         every KV head decides for itself; False: all heads of a layer together (the paper)
    evict            with "exact": drop a slot where that changes less than a merge
    max_cardinality  most tokens that one slot may count for; None: no limit
    decay            with "mass": divide the score by exp(i / decay), i slots after the sinks; None: no
    accumulate       weight of the scores of earlier compressions, 0 to 1
    seed             with "random"
    chunk            slots that a compression frees at least (at most half of the budget), so that it is rare
    """

    budget: int = 2048
    sinks: int = 4
    recent: int = 64
    observe: int = 32
    score: str = "exact"
    key_weights: str = "mass"
    per_head: bool = True
    evict: bool = True
    max_cardinality: int | None = None
    decay: float | None = None
    accumulate: float = 1.0
    seed: int = 0
    chunk: int = 256

    def __post_init__(self) -> None:
        for name, least in (("budget", 1), ("sinks", 0), ("recent", 1), ("observe", 1), ("seed", 0), ("chunk", 1)):
            _check_integer(name, getattr(self, name), least)
        _check_name("score", self.score, SCORES)
        _check_name("key_weights", self.key_weights, KEY_WEIGHTS)
        for name in ("per_head", "evict"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, not {getattr(self, name)!r}")
        if self.max_cardinality is not None:
            _check_integer("max_cardinality", self.max_cardinality, 1)
        if self.decay is not None and not (_is_number(self.decay) and self.decay > 0):
            raise ValueError(f"decay must be a positive number of slots or None, not {self.decay!r}")
        if not (_is_number(self.accumulate) and 0 <= self.accumulate <= 1):
            raise ValueError(f"accumulate must be between 0 and 1, not {self.accumulate!r}")
        if self.budget > MAX_SLOTS:
            raise ValueError(f"budget must be at most {MAX_SLOTS} slots, not {self.budget}")
        least = self.sinks + self.recent + 1
        if self.budget < least:
            raise ValueError(
                f"budget {self.budget} is too small for {self.sinks} sinks and {self.recent} recent tokens; "
                f"raise it to {least} or more, or lower sinks or recent"
            )
        if self.observe > self.recent:
            raise ValueError(
                f"observe {self.observe} is more than the {self.recent} recent tokens; lower observe or raise recent"
            )

    @classmethod
    def paper(cls) -> AsymKVConfig:
        """The setting of AsymKV (arXiv 2506.05410): a 512-token chunk scores, everything before it may merge."""
        return cls(
            budget=2048 + 32,
            sinks=32,
            recent=512,
            observe=512,
            score="mass",
            key_weights="fisher",
            per_head=False,
            evict=False,
            max_cardinality=5,
            decay=4096 / math.log(512),
            chunk=512,
        )

    @classmethod
    def from_value(cls, value: object) -> AsymKVConfig | None:
        """From what `Llama(asymkv=...)` takes: False or None (None), True (the defaults), a mapping, or a config."""
        if value is None or value is False:
            return None
        if value is True:
            return cls()
        if isinstance(value, AsymKVConfig):
            return value
        if isinstance(value, Mapping):
            return cls().replace(**{str(name): setting for name, setting in value.items()})
        raise ValueError(f"asymkv must be True, False, an AsymKVConfig or a dict, not {value!r}")

    def replace(self, **changes: Any) -> AsymKVConfig:
        """A copy with some settings changed."""
        names = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in names:
                raise ValueError(f"there is no setting {name!r}; there are {', '.join(names)}")
        return dataclasses.replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    # how many tokens are read at once

    def default_batch(self) -> int:
        """The longest batch that leaves the rest of the cache useful: a power of two, at most 512."""
        longest = min(MAX_BATCH, max(self.budget // 2, 1), self.budget - self.sinks - self.recent)
        return 1 << (longest.bit_length() - 1)

    def check_batch(self, n_batch: int) -> None:
        least = self.sinks + self.recent + n_batch
        if self.budget < least:
            raise ValueError(
                f"budget {self.budget} is too small for {self.sinks} sinks, {self.recent} recent tokens and batches "
                f"of {n_batch}; raise it to {least} or more, or lower n_batch (-b; it is {self.default_batch()} by default)"
            )

    def room(self, n_batch: int) -> int:
        """Slots beyond the budget: a batch, and enough that compressions stay rare."""
        return max(n_batch, min(self.chunk, self.budget // 2))

    def native_fields(self, n_batch: int) -> dict[str, int | float]:
        """The fields of struct asymkv_params."""
        return {
            "budget": self.budget,
            "room": self.room(n_batch),
            "sinks": self.sinks,
            "recent": self.recent,
            "observe": self.observe,
            "score": SCORES[self.score],
            "key_weights": KEY_WEIGHTS[self.key_weights],
            "per_head": int(self.per_head),
            "evict": int(self.evict),
            "max_cardinality": self.max_cardinality or 0,
            "decay": self.decay or 0.0,
            "accumulate": float(self.accumulate),
            "seed": self.seed,
        }


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value}")
    if value >= 1 << 32:
        raise ValueError(f"{name} must be less than 2^32, not {value}")


def _check_name(what: str, value: object, known: Mapping[str, int]) -> None:
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}; there are {', '.join(known)}")
