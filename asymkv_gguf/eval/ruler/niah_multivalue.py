"""Several needles with the same key, all of whose values are asked for."""

from __future__ import annotations

import random

from .needles import needles_draft
from .options import RulerOptions
from .sample import Draft


def niah_multivalue(options: RulerOptions, rng: random.Random, index: int) -> Draft:
    return needles_draft(rng, options.kinds, options.haystack(rng), n_values=options.needles)
