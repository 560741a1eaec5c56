"""RULER's score: the share of the expected strings that occur in the answer."""

from __future__ import annotations

from .sample import Sample


def score(sample: Sample, answer: str) -> float:
    """0 to 1. Case does not count; with match "part" one of the strings is enough."""
    lower = answer.lower()
    found = [expected.lower() in lower for expected in sample.expected]
    return float(any(found)) if sample.match == "part" else sum(found) / len(found)
