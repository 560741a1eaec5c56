"""Every error of the C API that a context can raise: one sentence, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import random_tokens, read, settings

from asymkv_gguf import Llama
from asymkv_gguf.errors import AsymKVError, ParameterError, UnsupportedError
from asymkv_gguf.llama import _api
from asymkv_gguf.native.groups import read_group

CONFIG = {"budget": 128, "sinks": 4, "recent": 40, "observe": 32}


@pytest.fixture
def merged(tiny: Callable[[str], Path]) -> Iterator[Llama]:
    llm = Llama(str(tiny("llama")), asymkv=CONFIG, **settings())
    read(llm, random_tokens(200), 64)
    yield llm
    llm.close()


@pytest.fixture
def stock(tiny: Callable[[str], Path]) -> Iterator[Llama]:
    llm = Llama(str(tiny("llama")), **settings())
    yield llm
    llm.close()


def test_a_context_without_a_merged_cache_says_so(stock: Llama) -> None:
    for call in (stock.asymkv_stats, stock.asymkv_compress, stock.asymkv_slots, stock.asymkv_lost):
        with pytest.raises(AsymKVError, match="no merged cache"):
            call()
    with pytest.raises(AsymKVError, match="no merged cache"):
        _api.context_params(stock.ctx)


def test_no_context_is_an_error_and_no_crash() -> None:
    with pytest.raises(AsymKVError, match="no merged cache"):
        _api.stats(0)
    with pytest.raises(ParameterError, match="no model"):
        _api.model_check(0, _api.params())


@pytest.mark.parametrize(("layer", "group", "message"), [(3, 0, "layer 3 is out of range"), (0, 2, "group 2 is out of range")])
def test_layers_and_groups_that_do_not_exist_are_named(merged: Llama, layer: int, group: int, message: str) -> None:
    for call in (merged.asymkv_slots, merged.asymkv_lost, lambda x, y: read_group(_api, merged.ctx, x, y)):
        with pytest.raises(ParameterError, match=message):
            call(layer, group)


def test_keeping_fewer_slots_than_are_protected_is_refused_and_changes_nothing(merged: Llama) -> None:
    before = merged.asymkv_stats()
    with pytest.raises(ParameterError, match="keep at least 45"):
        merged.asymkv_compress(44)
    assert merged.asymkv_stats() == before
    merged.asymkv_compress(45)
    assert merged.asymkv_stats().slots == 45


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"budget": 0}, "budget of 0 slots is out of range"),
        ({"budget": 1 << 25}, "budget of 33554432 slots is out of range"),
        ({"room": 0}, "room of 0 slots"),
        ({"budget": 60}, "use at least 69"),
        ({"score": 9}, "unknown score 9: use one of mass \\(0\\), .*keydiff \\(8\\)"),
        ({"evict": 3}, "unknown evict 3: use never \\(0\\), too \\(1\\) or only \\(2\\)"),
        ({"score": 4, "evict": 0}, "the score h2o only evicts: leave evict at 1"),
        ({"score": 0, "evict": 2}, "the score mass cannot evict: leave evict at 1"),
        ({"key_weights": 4}, "unknown key weights 4"),
        ({"observe": 65}, "observe = 65"),
        ({"observe": 0}, "observe = 0"),
        ({"decay": -1.0}, "decay has to be 0 \\(none\\) or a number of slots, 1 to 16777216"),
        ({"decay": 0.5}, "decay has to be 0"),
        ({"accumulate": 1.5}, "accumulate"),
        ({"history": -1.0}, "history has to lie in \\[0, 1000\\]"),
        ({"horizon": 63}, "a horizon of 63 tokens is less than the 64 recent tokens, which stay: use at least that, or 0"),
        ({"horizon": 500, "score": 0}, "beyond a horizon slots leave, but the score mass cannot evict: use a horizon of 0"),
        ({"horizon": 500, "evict": 0}, "beyond a horizon slots leave, but evict is never \\(0\\): use a horizon of 0"),
        ({"size": 8}, "different versions"),
    ],
)
def test_parameters_out_of_range_are_named(fields: dict[str, Any], message: str) -> None:
    params = _api.params(**fields)
    with pytest.raises(ParameterError, match=message):
        _api.params_check(params)
    with pytest.raises(ParameterError, match=message):
        _api.set_next(params)


@pytest.mark.parametrize("name", ["stats", "params", "group"])
def test_a_struct_of_another_version_is_refused(merged: Llama, name: str) -> None:
    struct = _api.new(name)
    struct.size += 8
    pointer = _api._context(merged.ctx)
    status = {
        "stats": lambda: _api.lib.asymkv_get_stats(pointer, struct),
        "params": lambda: _api.lib.asymkv_get_params(pointer, struct),
        "group": lambda: _api.lib.asymkv_read_group(pointer, 0, 0, struct),
    }[name]()
    assert status == _api.lib.ASYMKV_ERR_PARAMS
    assert "different versions" in _api.last_error()


def test_the_parameters_of_a_context_can_be_read_back(merged: Llama) -> None:
    params = _api.context_params(merged.ctx)
    assert {name: params[name] for name in CONFIG} == CONFIG


def test_a_wish_is_for_one_context_only(tiny: Callable[[str], Path]) -> None:
    """asymkv_set_next() is used up by the next context, and taken back when that one fails."""
    merged = Llama(str(tiny("llama")), asymkv=CONFIG, **settings())
    stock = Llama(str(tiny("llama")), **settings())
    with pytest.raises(AsymKVError):
        stock.asymkv_stats()
    merged.close()
    stock.close()
    with pytest.raises(UnsupportedError):
        Llama(str(tiny("bloom")), asymkv=CONFIG, **settings())
    stock = Llama(str(tiny("llama")), **settings())
    with pytest.raises(AsymKVError):
        stock.asymkv_stats()
    stock.close()
