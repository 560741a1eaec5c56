"""What was found: one line for each layer, one record for each KV head; as JSON, CSV or a table."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .. import __version__
from ..config import AsymKVConfig
from ..native.api import SLOT
from .statistics import NAMES, TOLERABLE_SIGMA, Contrast, Likeness, mean

# cardinalities that are counted together
BUCKETS: Final = ((1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, None))


@dataclass
class Head:
    """One KV head."""

    layer: int  # of those that are merged
    head: int
    group: int  # what it is compressed with
    likeness: Likeness  # before the compression
    slots: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(0, SLOT))  # after it
    n_lost: int = 0  # tokens that no slot counts

    def as_dict(self) -> dict[str, Any]:
        slots = [[int(one["first"]), int(one["last"]), int(one["cardinality"])] for one in self.slots]
        return {"head": self.head, **self.likeness.as_dict(), **counts([self]), "slots": slots}


def counts(heads: Sequence[Head]) -> dict[str, Any]:
    """Tokens that are alone in a slot, merged, or lost, and slots by their cardinality, summed over `heads`."""
    cardinalities = np.concatenate([head.slots["cardinality"] for head in heads]).astype(np.int64)
    histogram = Counter({bucket_name(*bucket): 0 for bucket in BUCKETS})
    for first, last in BUCKETS:
        is_in = (cardinalities >= first) & (cardinalities <= (last or cardinalities.max()))
        histogram[bucket_name(first, last)] = int(is_in.sum())
    return {
        "tokens_alone": int((cardinalities == 1).sum()),
        "tokens_merged": int(cardinalities[cardinalities > 1].sum()),
        "tokens_lost": sum(head.n_lost for head in heads),
        "max_cardinality": int(cardinalities.max()),
        "cardinalities": dict(histogram),
    }


def bucket_name(first: int, last: int | None) -> str:
    return str(first) if first == last else f"{first}+" if last is None else f"{first}-{last}"


@dataclass
class Report:
    """All KV heads, and what has to be known to read them."""

    config: AsymKVConfig
    n_tokens: int
    n_pairs: int
    n_queries: int  # observed tokens
    n_slots: int  # that were left
    merges: int
    evictions: int
    seed: int
    heads: list[Head]
    model: str = ""

    def layers(self) -> list[list[Head]]:
        """The heads of each layer."""
        by_layer: dict[int, list[Head]] = {}
        for head in self.heads:
            by_layer.setdefault(head.layer, []).append(head)
        return list(by_layer.values())

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {
            "version": __version__,
            "model": self.model,
            "tokens": self.n_tokens,
            "pairs": self.n_pairs,
            "queries": self.n_queries,
            "seed": self.seed,
            "slots": self.n_slots,
            "merges": self.merges,
            "evictions": self.evictions,
            "asymkv": self.config.replace(budget=self.n_slots).as_dict(),
            "mean": {**mean([head.likeness for head in self.heads]).as_dict(), **counts(self.heads)},
            "layers": [
                {
                    "layer": heads[0].layer,
                    **mean([head.likeness for head in heads]).as_dict(),
                    **counts(heads),
                    "heads": [head.as_dict() for head in heads],
                }
                for heads in self.layers()
            ],
        }

    def json(self) -> str:
        return json.dumps(self.as_dict(), ensure_ascii=False)

    def csv(self) -> str:
        """One line for each KV head."""
        rows = [_flat(head) for head in self.heads]
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue().rstrip("\n")

    def heading(self) -> str:
        n_heads = len(self.layers()[0])
        return (
            f"{self.model}: {self.n_tokens:,} tokens, {self.n_pairs:,} adjacent pairs, {self.n_queries} queries, "
            f"{n_heads} KV head{'s' * (n_heads != 1)} a layer"
        )

    def footing(self) -> str:
        """What the compression did."""
        all_operations = self.merges + self.evictions
        return (
            f"compressed to {self.n_slots:,} slots: {self.merges:,} merges ({self.merges / all_operations:.0%}), "
            f"{self.evictions:,} evictions ({self.evictions / all_operations:.0%})"
        )

    def table(self) -> str:
        """For people: a line for each layer, the mean of its heads, and the mean of all."""
        titles = ["layer", "attention", "", "response", "", "keys", "", "values", "", "sigma", ""]
        titles += [f"< {TOLERABLE_SIGMA}", "alone", "merged", "lost", "largest"]
        kinds = ["", *["adjacent", "random"] * 5, *[""] * 5]
        rows = [_line(str(heads[0].layer), heads, self.n_tokens) for heads in self.layers()]
        lines = [titles, kinds, *rows, _line("all", self.heads, self.n_tokens)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
        body = ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([self.heading(), "", *body, "", self.footing()])


def _line(name: str, heads: Sequence[Head], n_tokens: int) -> list[str]:
    likeness, counted = mean([head.likeness for head in heads]), counts(heads)
    numbers = [_number(value) for key in NAMES[:-1] for value in _both(getattr(likeness, key))]
    shares = [counted[f"tokens_{fate}"] / (n_tokens * len(heads)) for fate in ("alone", "merged", "lost")]
    return [name, *numbers, *map(_percent, (likeness.tolerable.adjacent, *shares)), str(counted["max_cardinality"])]


def _flat(head: Head) -> dict[str, Any]:
    flat: dict[str, Any] = {"layer": head.layer, "head": head.head}
    for name, contrast in head.likeness.as_dict().items():
        flat |= {f"{name}_{kind}": value for kind, value in contrast.items()}
    counted = counts([head])
    histogram = counted.pop("cardinalities")
    return {**flat, **counted, **{f"cardinality_{bucket}": n for bucket, n in histogram.items()}}


def _both(contrast: Contrast) -> tuple[float, float]:
    return contrast.adjacent, contrast.random


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.0%}"
