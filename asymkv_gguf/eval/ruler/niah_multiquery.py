"""Several needles with different keys, all of which are asked for."""

from __future__ import annotations

import random

from .needles import needles_draft
from .options import RulerOptions
from .sample import Draft


def niah_multiquery(options: RulerOptions, rng: random.Random, index: int) -> Draft:
    n = options.needles
    return needles_draft(rng, options.kinds, options.haystack(rng), n_keys=n, n_queries=n)
