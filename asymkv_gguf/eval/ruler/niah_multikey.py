"""Several needles with different keys, one of which is asked for."""

from __future__ import annotations

import random

from .needles import needles_draft
from .options import RulerOptions
from .sample import Draft


def niah_multikey(options: RulerOptions, rng: random.Random, index: int) -> Draft:
    haystack = None if options.needle_haystack else options.haystack(rng)
    return needles_draft(rng, options.kinds, haystack, n_keys=options.needles)
