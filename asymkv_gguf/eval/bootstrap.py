"""How sure a mean is: the percentile bootstrap over samples (Efron 1979), with a fixed seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

N_RESAMPLES: Final = 2000
LEVEL: Final = 0.95
_SEED: Final = 20250


@dataclass(frozen=True)
class Interval:
    """A mean over samples, and where it would lie in 95 of 100 other draws of them."""

    mean: float
    low: float
    high: float
    n: int


def interval(values: Sequence[float]) -> Interval:
    """Of one column. A single sample has no spread to tell from: its interval is a point."""
    if not values:
        raise ValueError("there are no values to take a mean of")
    sample = np.asarray(values, np.float64)
    n = len(sample)
    rng = np.random.default_rng(_SEED)
    # a few resamples at a time, however many values there are
    means = np.concatenate([sample[rng.integers(0, n, (100, n))].mean(axis=1) for _ in range(N_RESAMPLES // 100)])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(sample.mean()), float(low), float(high), n)


def paired_difference(values: Sequence[float], reference: Sequence[float]) -> Interval:
    """Of two columns on the same samples: how much the first is above the second."""
    if len(values) != len(reference):
        raise ValueError(f"{len(values)} values cannot be paired with {len(reference)}")
    return interval([a - b for a, b in zip(values, reference, strict=True)])
