"""The cache as a strip of slots, shaded by how many tokens each stands for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.style import Style
from rich.text import Text

# 1, 2, 3-4, 5-8, 9-16, more
_NAMES = ("1", "2", "3-4", "5-8", "9-16", "17+")
_SHADES = (".", ":", "-", "=", "#", "@")
_COLORS = ("grey27", "dark_green", "green4", "gold3", "dark_orange", "red3")
_MAX_LINES = 8


def picture(cardinality: npt.NDArray[Any], width: int, *, color: bool) -> Text:
    """At most 8 lines of `width` characters, and a legend; a character shows the largest of the slots it stands for."""
    width = max(width, 1)
    per_cell = max(math.ceil(len(cardinality) / (width * _MAX_LINES)), 1)
    text = Text()
    for index, start in enumerate(range(0, len(cardinality), per_cell)):
        if index and index % width == 0:
            text.append("\n")
        _append(text, _level(int(cardinality[start : start + per_cell].max())), color)
    text.append("\ntokens in a slot:")
    for level, name in enumerate(_NAMES):
        text.append(", " if level else " ")
        _append(text, level, color)
        text.append(f" {name}")
    if per_cell > 1:
        text.append(f"; a character is {per_cell} slots")
    return text


def _level(cardinality: int) -> int:
    return min(int(np.ceil(np.log2(max(cardinality, 1)))), len(_NAMES) - 1)


def _append(text: Text, level: int, color: bool) -> None:
    if color:
        text.append(" ", Style(bgcolor=_COLORS[level]))
    else:
        text.append(_SHADES[level])
