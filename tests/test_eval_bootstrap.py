"""Intervals of known data."""

from __future__ import annotations

import numpy as np
import pytest

from asymkv_gguf.eval.bootstrap import interval, paired_difference


def test_the_interval_of_a_mean_is_about_two_standard_errors() -> None:
    values = np.random.default_rng(3).normal(5.0, 2.0, 400).tolist()
    found = interval(values)
    error = np.std(values) / 20
    assert found.mean == pytest.approx(np.mean(values))
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.2 * error)
    assert found.n == 400


def test_the_same_values_give_the_same_interval() -> None:
    assert interval([1.0, 2.0, 5.0]) == interval([1.0, 2.0, 5.0])


@pytest.mark.parametrize("values", [[2.5], [2.5, 2.5, 2.5]])
def test_values_without_spread_have_a_point_for_an_interval(values: list[float]) -> None:
    found = interval(values)
    assert (found.mean, found.low, found.high) == (2.5, 2.5, 2.5)


def test_a_difference_is_taken_sample_by_sample() -> None:
    hard_and_easy = [1.0, 9.0, 4.0, 7.0]
    found = paired_difference([value + 0.5 for value in hard_and_easy], hard_and_easy)
    assert (found.low, found.high) == (0.5, 0.5)  # unpaired, it would be as wide as the texts differ


def test_nothing_has_no_mean() -> None:
    with pytest.raises(ValueError, match="there are no values to take a mean of"):
        interval([])


def test_other_samples_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="3 values cannot be paired with 2"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0])
