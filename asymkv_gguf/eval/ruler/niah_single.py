"""One needle in a haystack."""

from __future__ import annotations

import random

from .needles import needles_draft
from .options import RulerOptions
from .sample import Draft


def niah_single(options: RulerOptions, rng: random.Random, index: int) -> Draft:
    return needles_draft(rng, options.kinds, options.haystack(rng))
