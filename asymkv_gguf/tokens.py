"""Texts as sequences of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.intc]


def common_prefix(a: Sequence[int] | Tokens, b: Sequence[int] | Tokens) -> int:
    """How many tokens two texts have in common at their start."""
    n = min(len(a), len(b))
    different = np.asarray(a[:n], np.intc) != np.asarray(b[:n], np.intc)
    return int(different.argmax()) if different.any() else n
