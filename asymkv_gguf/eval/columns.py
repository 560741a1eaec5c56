"""What is compared: a column is one cache, written `policy@budget:kvtype,setting=value`."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Final

from ..cache_types import KV_TYPES
from ..config import AsymKVConfig
from ..policies import POLICIES

FULL: Final = "none"
CELLS: Final = 256  # llama.cpp rounds the slots of any cache up to this, and a merged one uses what that adds
_LARGE: Final = 1 << 20  # a budget that any setting fits

_SHAPE: Final = re.compile(r"(?P<policy>[^@:]*)(?:@(?P<budget>[^:]*))?(?::(?P<kv_type>.*))?", re.DOTALL)
_FIELDS: Final = {one.name: str(one.type) for one in dataclasses.fields(AsymKVConfig) if one.name != "budget"}
_WORDS: Final = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}


@dataclass(frozen=True)
class Column:
    """One cache. `budget` slots stay after a compression; or, with `ratio`, the cache has 1/ratio of the full one's slots.

    A full cache has neither. `settings` are fields of AsymKVConfig that differ from the policy's.
    """

    policy: str
    budget: int | None = None
    ratio: float | None = None
    kv_type: str = "f16"
    settings: tuple[tuple[str, Any], ...] = field(default=())

    @property
    def label(self) -> str:
        """The column as it is written; parsing it gives the column again."""
        ratio = f"{str(self.ratio).removesuffix('.0')}x"
        size = "" if self.is_full else f"@{self.budget if self.budget is not None else ratio}"
        kv_type = "" if self.kv_type == "f16" else f":{self.kv_type}"
        return f"{self.policy}{size}{kv_type}{self.settings_text}"

    @property
    def line(self) -> str:
        """What columns that differ in their budget alone have in common: a line of the plot."""
        kv_type = "" if self.kv_type == "f16" else f":{self.kv_type}"
        return f"{self.policy}{kv_type}{self.settings_text}"

    @property
    def settings_text(self) -> str:
        return "".join(f",{name}={_written(value)}" for name, value in self.settings)

    @property
    def is_full(self) -> bool:
        return self.policy == FULL

    def config(self, n_tokens: int, n_batch: int | None = None) -> AsymKVConfig | None:
        """The settings of a cache for texts of `n_tokens`, read `n_batch` at a time; None: the full cache.

        With a ratio, the slots as allocated (budget and room for a batch, rounded up) are at most 1/ratio of those that a
        full cache would have for this text; the budget is the largest for which that holds. ValueError if there is none.
        """
        if self.is_full:
            return None
        try:
            if self.budget is not None:
                return self._with_budget(self.budget)
            assert self.ratio is not None
            return self._within(padded(n_tokens), n_batch)
        except ValueError as error:
            raise ValueError(f"column {self.label!r}: {error}") from error

    def _with_budget(self, budget: int) -> AsymKVConfig:
        """Sinks and recent tokens that were not asked for take at most half of the budget."""
        policy, typed = POLICIES[self.policy].settings, dict(self.settings)
        whole = {**AsymKVConfig().as_dict(), **policy}
        fitted: dict[str, Any] = {}
        half = budget // 2
        if not {"sinks", "recent"} & set(typed) and whole["sinks"] + whole["recent"] > half:
            sinks = min(whole["sinks"], half // 4)
            fitted = {"sinks": sinks, "recent": max(min(whole["recent"], half - sinks), 1)}
        fitted["observe"] = min(whole["observe"], typed.get("recent", fitted.get("recent", whole["recent"])))
        # at once: the policy's own settings need not fit this budget
        return AsymKVConfig(**{**policy, **fitted, **typed, "budget": budget})

    def _within(self, n_tokens: int, n_batch: int | None) -> AsymKVConfig:
        assert self.ratio is not None
        n_slots = int(n_tokens / self.ratio) // CELLS * CELLS
        if n_slots == 0:
            raise ValueError(
                f"of a text of {n_tokens:,} tokens, {self.ratio:g}x leaves {n_tokens / self.ratio:,.0f} slots, and no cache "
                f"has less than {CELLS}; take longer texts, a smaller ratio, or a budget in slots"
            )
        for budget in range(n_slots - 1, 0, -1):
            try:
                config = self._with_budget(budget)
            except ValueError:  # nor would a smaller budget do
                break
            if budget + config.room(n_batch or config.default_batch()) <= n_slots:
                return config
        raise ValueError(
            f"its protected slots and batches{f' of {n_batch} tokens' if n_batch else ''} do not fit into {n_slots} slots; "
            "lower sinks, recent or -b, or take a smaller ratio"
        )


def padded(n_tokens: int) -> int:
    """Slots of a full cache for that many tokens."""
    return -(-n_tokens // CELLS) * CELLS


def parse_column(text: str) -> Column:
    """ValueError with one sentence if `text` is no column."""
    head, *settings = text.strip().split(",")
    match = _SHAPE.fullmatch(head.strip())
    assert match is not None
    policy, size, kv_type = match["policy"], match["budget"], match["kv_type"] or "f16"
    if policy != FULL and policy not in POLICIES:
        raise ValueError(f"column {text!r}: unknown policy {policy!r}; there are {FULL}, {', '.join(POLICIES)}")
    if kv_type not in KV_TYPES:
        raise ValueError(f"column {text!r}: unknown cache type {kv_type!r}; there are {', '.join(KV_TYPES)}")
    if policy == FULL:
        if size is not None or settings:
            raise ValueError(f"column {text!r}: the full cache has no budget and no settings; write {FULL} or {FULL}:q8_0")
        return Column(FULL, kv_type=kv_type)
    if size is None:
        raise ValueError(
            f"column {text!r} has no budget; write {policy}@256 for slots, or {policy}@8x for an eighth of the text"
        )
    budget, ratio = _parse_size(size, text)
    column = Column(policy, budget, ratio, kv_type, tuple(_parse_setting(one, text) for one in settings))
    try:
        column._with_budget(budget if budget is not None else _LARGE)  # its settings fit each other
    except (ValueError, TypeError) as error:
        raise ValueError(f"column {text!r}: {error}") from error
    return column


def parse_columns(text: str) -> tuple[Column, ...]:
    """Columns with commas or blanks between them; `name=value` belongs to the column before it."""
    parts: list[str] = []
    for part in re.split(r"[,\s;]+", text.strip()):
        if "=" in part.split("@")[0] and parts:
            parts[-1] += f",{part}"
        elif part:
            parts.append(part)
    if not parts:
        raise ValueError("there are no columns; give some such as none,asymkv-exact@8x,h2o@8x")
    return tuple(dict.fromkeys(parse_column(part) for part in parts))


def default_columns(budgets: str) -> tuple[Column, ...]:
    """Full caches in three types, then every policy at each of the budgets (`8x,4x` or `256`)."""
    sizes = [size for size in re.split(r"[,\s]+", budgets.strip()) if size]
    if not sizes:
        raise ValueError("there are no budgets; give some such as 8x,4x or 256")
    full = [Column(FULL), Column(FULL, kv_type="q8_0"), Column(FULL, kv_type="q4_0")]
    merged = [parse_column(f"{policy}@{size}") for size in sizes for policy in POLICIES]
    return tuple(dict.fromkeys([*full, *merged]))


def _parse_size(size: str, column: str) -> tuple[int | None, float | None]:
    if re.fullmatch(r"\d+", size) and int(size) > 0:
        return int(size), None
    if re.fullmatch(r"\d+(\.\d+)?x", size) and 1 < float(size[:-1]) <= _LARGE:
        return None, float(size[:-1])
    raise ValueError(f"column {column!r}: budget {size!r} is neither a number of slots nor a ratio above 1 such as 8x")


def _parse_setting(text: str, column: str) -> tuple[str, Any]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name or not value:
        raise ValueError(f"column {column!r}: {text!r} is no setting; write name=value")
    if name == "budget":
        raise ValueError(f"column {column!r}: the budget stands behind the policy's name, as in h2o@{value}")
    if name not in _FIELDS:
        raise ValueError(f"column {column!r}: there is no setting {name!r}; there are {', '.join(_FIELDS)}")
    kind = _FIELDS[name]
    try:
        return name, _typed(value, kind)
    except ValueError:
        wanted = {"int": "a whole number", "float": "a number", "bool": "true or false"}[kind.split(" | ")[0]]
        either = " or none" if "None" in kind else ""
        raise ValueError(f"column {column!r}: {name} must be {wanted}{either}, not {value!r}") from None


def _typed(value: str, kind: str) -> Any:
    if "None" in kind and value.lower() == "none":
        return None
    if kind == "bool":
        if value.lower() not in _WORDS:
            raise ValueError(value)
        return _WORDS[value.lower()]
    return {"int": int, "float": float, "str": str}[kind.split(" | ")[0]](value)


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
