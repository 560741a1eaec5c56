"""What the merged cache should do: one frozen, self-checking record."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

# as asymkv.h numbers them
SCORES: Final = {
    "mass": 0,
    "output": 1,
    "exact": 2,
    "random": 3,
    "h2o": 4,
    "snapkv": 5,
    "tova": 6,
    "streaming": 7,
    "keydiff": 8,
}
ONLY_EVICT: Final = ("h2o", "snapkv", "tova", "streaming", "keydiff")
CAN_EVICT: Final = ("exact", "random", *ONLY_EVICT)
KEY_WEIGHTS: Final = {"mean": 0, "mass": 1, "slimmer": 2, "fisher": 3}

POSITIONS: Final = {"original": 0, "compact": 0x7FFFFFFF}  # struct asymkv_params, span

MAX_BATCH: Final = 512  # llama-cpp-python's default
MAX_SLOTS: Final = 1 << 24
MAX_HORIZON: Final = (1 << 31) - 1
MAX_HISTORY: Final = 1000  # far beyond any use, and within what single precision sums


@dataclass(frozen=True)
class AsymKVConfig:
    """Settings of the merged cache; ValueError with one sentence if they contradict each other.

    Counts are slots (rows of the cache) or tokens; both are the same for tokens that were never merged.

    budget           slots that are left after a compression
    sinks            first tokens, never merged
    recent           last tokens, never merged
    observe          queries that decide what to merge, spread evenly over the `recent` tokens
    score            what is merged first: "exact" (least change of the attention output, by merging or evicting),
                     "output" (the same with a simpler estimate), "mass" (least attention: the paper), "random";
                     scores that only evict: "h2o", "snapkv", "tova", "streaming", "keydiff"
    key_weights      how two keys become one: "mean", "mass", "slimmer" (KVSlimmer), "fisher" (AsymKV)
    per_head         every KV head decides for itself; False: all heads of a layer together (the paper)
    evict            with "exact": drop a slot where that changes less than a merge
    merge            False: never merge, only evict ("exact", "random", and the scores that only evict)
    max_cardinality  most tokens that one slot may count for; None: no limit
    decay            with "mass": divide the score by exp(i / decay), i slots after the sinks; None: no
    accumulate       weight of what a slot had before, at each compression, 0 to 1: below 1, what was long ago is forgotten
    history          with "exact": weight of what earlier compressions saw of a slot, on average; 0: none
    horizon          slots whose last token lies further back than this many tokens leave before all others, for texts
                     without an end; None: what is old stays as long as it is worth it
    seed             with "random"
    positions        "original": slots stay where their tokens were, so the text has to fit the model's context; "compact":
                     where they would span more than that, older slots move up (their keys are rotated), for texts of any
                     length; set n_ctx to the longest text
    chunk            slots that a compression frees at least (at most half of the budget), so that it is rare
    """

    budget: int = 2048
    sinks: int = 4
    recent: int = 64
    observe: int = 32
    score: str = "exact"
    key_weights: str = "fisher"
    per_head: bool = True
    evict: bool = True
    merge: bool = True
    max_cardinality: int | None = None
    decay: float | None = None
    accumulate: float = 0.95
    history: float = 0.15
    horizon: int | None = None
    seed: int = 0
    chunk: int = 256
    positions: str = "original"

    def __post_init__(self) -> None:
        for name, least in (("budget", 1), ("sinks", 0), ("recent", 1), ("observe", 1), ("seed", 0), ("chunk", 1)):
            _check_integer(name, getattr(self, name), least)
        _check_name("score", self.score, SCORES)
        _check_name("key_weights", self.key_weights, KEY_WEIGHTS)
        _check_name("positions", self.positions, POSITIONS)
        for name in ("per_head", "evict", "merge"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, not {getattr(self, name)!r}")
        if not self.evict and (self.score in ONLY_EVICT or not self.merge):
            raise ValueError(f"score {self.score!r} {'only evicts' if self.merge else 'is not to merge'}; leave evict at True")
        if not self.merge and self.score not in CAN_EVICT:
            raise ValueError(f"score {self.score!r} cannot evict; leave merge at True, or choose one of {', '.join(CAN_EVICT)}")
        if self.max_cardinality is not None:
            _check_integer("max_cardinality", self.max_cardinality, 1)
        if self.decay is not None and not (_is_number(self.decay) and 1 <= self.decay <= MAX_SLOTS):
            raise ValueError(f"decay must be a number of slots, 1 to {MAX_SLOTS}, or None, not {self.decay!r}")
        if not (_is_number(self.accumulate) and 0 <= self.accumulate <= 1):
            raise ValueError(f"accumulate must be between 0 and 1, not {self.accumulate!r}")
        if not (_is_number(self.history) and 0 <= self.history <= MAX_HISTORY):
            raise ValueError(f"history must be between 0 and {MAX_HISTORY}, not {self.history!r}")
        if self.horizon is not None:
            _check_integer("horizon", self.horizon, max(self.recent, 1))
            if self.horizon > MAX_HORIZON:
                raise ValueError(f"horizon must be at most {MAX_HORIZON} tokens, not {self.horizon}")
            if not self.evict or self.score not in CAN_EVICT:
                cannot = f"score {self.score!r} cannot evict" if self.evict else "evict is False"
                raise ValueError(f"beyond a horizon slots leave, but {cannot}; leave horizon at None")
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
        return cls.of_policy("asymkv-paper")

    @classmethod
    def of_policy(cls, policy: str) -> AsymKVConfig:
        """The settings of a policy by its name; asymkv_gguf.policies has them all. ValueError if there is no such one."""
        from .policies import POLICIES

        if not isinstance(policy, str) or policy not in POLICIES:
            raise ValueError(f"unknown policy {policy!r}; there are {', '.join(POLICIES)}")
        return cls(**POLICIES[policy].settings)

    @classmethod
    def from_value(cls, value: object) -> AsymKVConfig | None:
        """From what `Llama(asymkv=...)` takes: False, None or "none" (None), True (the defaults), a policy's name, a mapping
        of settings (beside `policy`, if it is to start from one), or a config."""
        if value is None or value is False or value == "none":
            return None
        if value is True:
            return cls()
        if isinstance(value, AsymKVConfig):
            return value
        if isinstance(value, str):
            return cls.of_policy(value)
        if isinstance(value, Mapping):
            changes = {str(name): setting for name, setting in value.items()}
            if changes.get("policy") == "none":
                return None
            return cls.of_policy(changes.pop("policy", "asymkv-exact")).replace(**changes)
        raise ValueError(f"asymkv must be True, False, an AsymKVConfig, a dict or the name of a policy, not {value!r}")

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
            "evict": int(self.evict) if self.merge else 2,
            "max_cardinality": self.max_cardinality or 0,
            "decay": self.decay or 0.0,
            "accumulate": float(self.accumulate),
            "history": float(self.history),
            "horizon": self.horizon or 0,
            "seed": self.seed,
            "span": POSITIONS[self.positions],
        }


def _is_number(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _check_integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value}")
    if value >= 1 << 32:
        raise ValueError(f"{name} must be less than 2^32, not {value}")


def _check_name(what: str, value: object, known: Mapping[str, int]) -> None:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"unknown {what} {value!r}; there are {', '.join(known)}")
