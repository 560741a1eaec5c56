"""The task types by name, and samples of them."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Final

from .common_words import common_words
from .fit import fit
from .frequent_words import frequent_words
from .niah_multikey import niah_multikey
from .niah_multiquery import niah_multiquery
from .niah_multivalue import niah_multivalue
from .niah_single import niah_single
from .options import RulerOptions
from .qa import qa
from .sample import Draft, Sample
from .variable_tracking import variable_tracking

TYPES: Final[dict[str, Callable[[RulerOptions, random.Random, int], Draft]]] = {
    "niah_single": niah_single,
    "niah_multikey": niah_multikey,
    "niah_multivalue": niah_multivalue,
    "niah_multiquery": niah_multiquery,
    "variable_tracking": variable_tracking,
    "common_words": common_words,
    "frequent_words": frequent_words,
    "qa": qa,
}


def generate(
    name: str, options: RulerOptions, count: Callable[[Sample], int], length: int, seed: int = 0, index: int = 0
) -> Sample:
    """Sample `index` of a task type: prompt and answer take `length` tokens, or a few less; `count` tells a prompt's.

    The same arguments give the same sample. ValueError if the length is too short for the task.
    """

    def draft(options: RulerOptions) -> Draft:
        return TYPES[name](options, random.Random(f"{seed}/{name}/{length}/{index}"), index)

    if name == "common_words" and options.long_word_lists:
        least = draft(options)(0)
        if 2 * (count(least) + least.max_tokens) > length:  # the common words alone would be more than half of the text
            options = dataclasses.replace(options, long_word_lists=False)
    return fit(draft(options), count, length, name)
