"""AsymKVConfig checks itself, and says in one sentence what is wrong."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest

from asymkv_gguf import AsymKVConfig
from asymkv_gguf.config import KEY_WEIGHTS, SCORES
from asymkv_gguf.llama import _api


def test_defaults_are_the_librarys_defaults() -> None:
    native = _api.fields(_api.params())
    assert AsymKVConfig().native_fields(512) == pytest.approx(native)


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_numbered_as_in_the_header(name: str) -> None:
    assert SCORES[name] == getattr(_api.lib, f"ASYMKV_SCORE_{name.upper()}")


@pytest.mark.parametrize("name", KEY_WEIGHTS)
def test_key_weights_are_numbered_as_in_the_header(name: str) -> None:
    assert KEY_WEIGHTS[name] == getattr(_api.lib, f"ASYMKV_KEYS_{name.upper()}")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"budget": 0}, "budget must be 1 or more, not 0"),
        ({"budget": -5}, "budget must be 1 or more, not -5"),
        ({"budget": 1 << 25}, "budget must be at most 16777216 slots"),
        ({"budget": 2048.0}, "budget must be a whole number, not 2048.0"),
        ({"budget": True}, "budget must be a whole number, not True"),
        ({"budget": "2048"}, "budget must be a whole number, not '2048'"),
        ({"budget": 68}, "budget 68 is too small for 4 sinks and 64 recent tokens; raise it to 69 or more"),
        ({"sinks": -1}, "sinks must be 0 or more"),
        ({"recent": 0}, "recent must be 1 or more"),
        ({"observe": 65}, "observe 65 is more than the 64 recent tokens; lower observe or raise recent"),
        ({"observe": 0}, "observe must be 1 or more"),
        ({"score": "foo"}, "unknown score 'foo'; there are mass, output, exact, random"),
        ({"key_weights": "foo"}, "unknown key_weights 'foo'; there are mean, mass, slimmer, fisher"),
        ({"per_head": 1}, "per_head must be True or False, not 1"),
        ({"evict": None}, "evict must be True or False, not None"),
        ({"merge": 1}, "merge must be True or False, not 1"),
        ({"score": "h2o", "evict": False}, "score 'h2o' only evicts; leave evict at True"),
        ({"merge": False, "evict": False}, "score 'exact' is not to merge; leave evict at True"),
        (
            {"score": "mass", "merge": False},
            "score 'mass' cannot evict; leave merge at True, or choose one of exact, random",
        ),
        ({"max_cardinality": 0}, "max_cardinality must be 1 or more"),
        ({"decay": 0.0}, "decay must be a number of slots, 1 to 16777216, or None, not 0.0"),
        ({"decay": math.nan}, "decay must be a number of slots, 1 to 16777216, or None, not nan"),
        ({"decay": 1e-60}, "decay must be a number of slots, 1 to 16777216, or None, not 1e-60"),  # 0, in single precision
        ({"accumulate": 1.5}, "accumulate must be between 0 and 1, not 1.5"),
        ({"accumulate": "1"}, "accumulate must be between 0 and 1, not '1'"),
        ({"history": -0.1}, "history must be between 0 and 1000, not -0.1"),
        ({"history": math.inf}, "history must be between 0 and 1000, not inf"),
        ({"history": 3.4028235677973366e38}, "history must be between 0 and 1000, not 3.4028235677973366e+38"),  # inf, there
        ({"horizon": 63}, "horizon must be 64 or more, not 63"),
        ({"horizon": 1 << 31}, "horizon must be at most 2147483647 tokens, not 2147483648"),
        (
            {"horizon": 500, "score": "mass"},
            "beyond a horizon slots leave, but score 'mass' cannot evict; leave horizon at None",
        ),
        ({"horizon": 500, "evict": False}, "beyond a horizon slots leave, but evict is False; leave horizon at None"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"chunk": 0}, "chunk must be 1 or more"),
        ({"sink": 4}, "there is no setting 'sink'; there are budget, sinks"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        AsymKVConfig.from_value(changes)
    assert "\n" not in str(caught.value)


def test_what_the_config_accepts_the_library_accepts() -> None:
    for config in (
        AsymKVConfig(),
        AsymKVConfig.paper(),
        AsymKVConfig(budget=69),
        AsymKVConfig(budget=2, recent=1, observe=1, sinks=0),
    ):
        _api.params_check(_api.params(**config.native_fields(config.default_batch())))


def test_the_paper_preset_is_the_papers_setting() -> None:
    paper = AsymKVConfig.paper()
    assert (paper.score, paper.key_weights, paper.per_head, paper.max_cardinality) == ("mass", "fisher", False, 5)
    assert (paper.sinks, paper.recent, paper.observe, paper.default_batch()) == (32, 512, 512, 512)
    assert paper.decay == pytest.approx(656.6, abs=0.1)


def test_asymkv_takes_a_switch_a_dict_or_a_config() -> None:
    config = AsymKVConfig(budget=300)
    assert AsymKVConfig.from_value(False) is None
    assert AsymKVConfig.from_value(None) is None
    assert AsymKVConfig.from_value(True) == AsymKVConfig()
    assert AsymKVConfig.from_value({"budget": 300}) == config
    assert AsymKVConfig.from_value(config) is config
    with pytest.raises(
        ValueError, match="asymkv must be True, False, an AsymKVConfig, a dict or the name of a policy, not 2048"
    ):
        AsymKVConfig.from_value(2048)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        AsymKVConfig().budget = 1  # type: ignore[misc]


@pytest.mark.parametrize("budget", [69, 80, 100, 192, 256, 1000, 2048, 100_000])
def test_the_default_batch_always_fits_its_budget(budget: int) -> None:
    config = AsymKVConfig(budget=budget)
    n_batch = config.default_batch()
    config.check_batch(n_batch)
    assert n_batch & (n_batch - 1) == 0
    assert n_batch <= min(512, max(budget // 2, 1))
    assert config.room(n_batch) >= n_batch


def test_a_batch_that_does_not_fit_is_one_sentence() -> None:
    with pytest.raises(
        ValueError, match="budget 256 is too small for 4 sinks, 64 recent tokens and batches of 512; raise it to 580"
    ):
        AsymKVConfig(budget=256).check_batch(512)
