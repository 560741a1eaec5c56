"""Whatever comes in, a config or a column comes out, or a ValueError with one sentence."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from asymkv_gguf import AsymKVConfig
from asymkv_gguf.cache_types import KV_TYPES
from asymkv_gguf.config import KEY_WEIGHTS, POSITIONS, SCORES
from asymkv_gguf.eval.columns import parse_column, parse_columns
from asymkv_gguf.llama import _api
from asymkv_gguf.policies import POLICIES

FIELDS = [one.name for one in dataclasses.fields(AsymKVConfig)]

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
counts = st.integers(0, 600) | st.integers(-1, 1 << 33)
likely: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("budget", "sinks", "recent", "observe", "seed", "chunk", "max_cardinality", "horizon"), counts),
    "score": st.sampled_from(sorted(SCORES)),
    "key_weights": st.sampled_from(sorted(KEY_WEIGHTS)),
    "positions": st.sampled_from(sorted(POSITIONS)),
    **dict.fromkeys(("per_head", "evict", "merge"), st.booleans()),
    **dict.fromkeys(("decay", "accumulate", "history"), st.floats(0, 1) | st.floats() | st.integers()),
}
sensible = st.fixed_dictionaries({}, optional={**likely, "policy": st.sampled_from([*POLICIES, "none"])})
wild = st.dictionaries(st.sampled_from([*FIELDS, "policy"]) | st.text(max_size=6), anything, max_size=5)

names = st.sampled_from(["none", *POLICIES]) | st.text(max_size=6)
sizes = st.integers(0, 5000).map(str) | st.floats(0, 40).map(lambda x: f"{x}x") | st.text("0123456789.xe²٣", max_size=400)
values = st.one_of(
    st.integers(-1, 600).map(str),
    st.floats().map(str),
    st.sampled_from(["true", "no", "none", *SCORES, *KEY_WEIGHTS]),
    st.text(max_size=6),
    st.just("9" * 5000),
)
written = st.builds(
    lambda policy, size, kv_type, pairs: policy + size + kv_type + "".join(f",{name}={value}" for name, value in pairs),
    names,
    sizes.map(lambda size: f"@{size}") | st.just(""),
    st.sampled_from(["", *(f":{name}" for name in KV_TYPES), ":q9"]),
    st.lists(st.tuples(st.sampled_from(FIELDS) | st.text(max_size=4), values), max_size=3),
)
texts = written | st.text(max_size=30)
# in the suite the same inputs in every run; scripts/nightly.sh wants more, and others each time
EXAMPLES = int(os.environ.get("ASYMKV_FUZZ_EXAMPLES", "0"))
fuzzed = settings(max_examples=EXAMPLES or 400, deadline=None, derandomize=not EXAMPLES)


def made_or_one_sentence(make: Callable[[], Any]) -> Any:
    """What `make` gives; None where it refuses, with one sentence."""
    try:
        return make()
    except ValueError as error:
        sentence = str(error)
        assert sentence
        assert len(sentence.splitlines()) == 1, sentence
        return None


@fuzzed
@given(sensible | wild)
def test_any_mapping_is_a_config_or_one_sentence(value: dict[str, Any]) -> None:
    config = made_or_one_sentence(lambda: AsymKVConfig.from_value(value))
    if config is None:
        return
    assert AsymKVConfig(**config.as_dict()) == config
    assert config.replace() == config
    n_batch = config.default_batch()
    config.check_batch(n_batch)
    _api.params_check(_api.params(**config.native_fields(n_batch)))  # and the library takes it


@fuzzed
@given(anything)
def test_any_value_is_a_config_or_one_sentence(value: object) -> None:
    made_or_one_sentence(lambda: AsymKVConfig.from_value(value))


@fuzzed
@given(texts)
def test_any_text_is_a_column_that_is_written_as_it_was_or_one_sentence(text: str) -> None:
    column = made_or_one_sentence(lambda: parse_column(text))
    if column is not None:
        assert parse_column(column.label) == column
        made_or_one_sentence(lambda: column.config(4096))


@fuzzed
@given(st.lists(texts, max_size=3).map(" ".join))
def test_any_text_is_columns_or_one_sentence(text: str) -> None:
    columns = made_or_one_sentence(lambda: parse_columns(text))
    if columns is not None:
        assert parse_columns(",".join(column.label for column in columns)) == columns
