"""A sibling shares the weights and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from asymkv_gguf import AsymKVConfig, Llama, recall
from asymkv_gguf.cli.demo import MODEL
from asymkv_gguf.sibling import sibling

SMALL = AsymKVConfig(budget=192, chunk=64)
FIRST, SECOND = recall.make_document(1, tokens=700), recall.make_document(2, tokens=700)

# read only, or a setting
SHARED = {"metadata", "_chat_handlers", "context_params", "_model_params", "_model", "_asymkv", "_elder", "tokenizer_"}


@pytest.fixture
def llm() -> Iterator[Llama]:
    llm = Llama(str(MODEL), asymkv=SMALL, n_ctx=2048, n_threads=1, n_threads_batch=1, verbose=False)
    yield llm
    llm.close()


def read(llm: Llama, document: recall.Document) -> np.ndarray:
    llm.eval(llm.tokenize(document.text.encode()))
    return np.array(np.ctypeslib.as_array(llm._ctx.get_logits_ith(-1), shape=(llm.n_vocab(),)))


def test_nothing_that_changes_is_shared(llm: Llama) -> None:
    other = sibling(llm)
    plain = (int, float, str, bytes, bool, tuple, type(None))
    same = {name for name, value in vars(llm).items() if vars(other).get(name) is value and not isinstance(value, plain)}
    assert same <= SHARED
    assert other.model == llm.model
    assert vars(other).keys() >= vars(llm).keys()


def test_a_sibling_computes_what_a_model_of_its_own_would(llm: Llama) -> None:
    other = sibling(llm)
    read(llm, FIRST)
    alone = Llama(str(MODEL), asymkv=SMALL, n_ctx=2048, n_threads=1, n_threads_batch=1, verbose=False)
    assert np.array_equal(read(other, SECOND), read(alone, SECOND))
    assert other.asymkv == SMALL
    mine, its = other.asymkv_stats(), alone.asymkv_stats()
    assert (mine.tokens, mine.slots, mine.merges, mine.capacity) == (its.tokens, its.slots, its.merges, its.capacity)
    assert llm.asymkv_stats().tokens == llm.n_tokens
    alone.close()


def test_two_threads_do_not_disturb_each_other(llm: Llama) -> None:
    other = sibling(llm)
    expected = [read(llm, FIRST), read(other, SECOND)]
    for each in (llm, other):
        each.reset()
    found: dict[int, np.ndarray] = {}
    pairs: list[Any] = [(0, llm, FIRST), (1, other, SECOND)]
    threads = [threading.Thread(target=lambda i, each, text: found.update({i: read(each, text)}), args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])


def test_a_stock_cache_has_siblings_too() -> None:
    llm = Llama(str(MODEL), n_ctx=2048, n_threads=1, n_threads_batch=1, verbose=False)
    other = sibling(llm)
    assert other.asymkv is None
    assert np.array_equal(read(llm, FIRST), read(other, FIRST))
    llm.close()


def test_closing_in_any_order_is_safe(llm: Llama) -> None:
    first, second = sibling(llm), sibling(llm)
    second.close()
    llm.close()
    first.close()
    assert first._ctx.ctx is None
