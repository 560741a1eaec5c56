"""Policies: what becomes of slots that do not fit the budget, by name. All run in the same cache, on the same statistics, with
the same protected slots; a policy is a line here and, where its order of slots is new, a file in native/plan/scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True)
class Policy:
    """Settings of AsymKVConfig that differ from its defaults, and what they mean."""

    summary: str
    settings: Mapping[str, Any] = field(default_factory=dict)


POLICIES: Final[Mapping[str, Policy]] = {
    "asymkv-exact": Policy("merge or evict, whichever changes the attention output less (the default)"),
    "asymkv-paper": Policy(
        "AsymKV as published (arXiv 2506.05410): attention mass x cardinality, all heads of a layer together",
        {
            "budget": 2048 + 32,
            "sinks": 32,
            "recent": 512,
            "observe": 512,
            "score": "mass",
            "key_weights": "fisher",
            "per_head": False,
            "evict": False,
            "max_cardinality": 5,
            "accumulate": 1.0,
            "decay": 4096 / math.log(512),
            "chunk": 512,
            "positions": "compact",
        },
    ),
    "evict-same": Policy("the default's output change, but slots are evicted and never merged", {"merge": False}),
    "h2o": Policy("H2O (arXiv 2306.14048): evict the least accumulated attention", {"score": "h2o", "accumulate": 1.0}),
    "snapkv": Policy(
        "SnapKV (arXiv 2404.14469): evict the least attention of the last queries, pooled over neighbours",
        {"score": "snapkv"},
    ),
    "tova": Policy("TOVA (arXiv 2401.06104): evict what the last query looks at least", {"score": "tova"}),
    "streaming": Policy("StreamingLLM (arXiv 2309.17453): evict the oldest after the sinks", {"score": "streaming"}),
    "keydiff": Policy("KeyDiff (arXiv 2504.15364): evict the key that is most like all others", {"score": "keydiff"}),
    "random": Policy("evict at random: the control that every policy must beat", {"score": "random", "merge": False}),
}
