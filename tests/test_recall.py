"""The shipped model: it recalls with the full cache, still does with an eighth of it, and merging at random forgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

import asymkv_gguf
from asymkv_gguf import AsymKVConfig, Llama, recall

MODEL = Path(asymkv_gguf.__file__).parent / "data" / "recall.gguf"
DOCUMENTS = [recall.make_document(1000 + seed) for seed in range(6)]  # persons and codes that training never saw
QUESTIONS = sum(len(document.questions) for document in DOCUMENTS)

FULL_SLOTS = 2048
BUDGET, BATCH = 192, 64  # 256 slots allocated


def right_answers(config: AsymKVConfig | None, **kwargs: Any) -> int:
    """Reads each document once, and asks every question from the state after reading, greedily."""
    llm = Llama(
        str(MODEL), asymkv=config or False, n_ctx=FULL_SLOTS, n_batch=BATCH, flash_attn=True, verbose=False, n_threads=1,
        n_threads_batch=1, **kwargs,
    )  # fmt: skip
    right = 0
    for document in DOCUMENTS:
        llm.reset()
        llm.eval(llm.tokenize(document.text.encode()))
        if config is not None:
            assert llm.asymkv_stats().capacity * 8 <= FULL_SLOTS
            assert llm.asymkv_stats().kv_bytes * 8 <= llm.asymkv_stats().stock_kv_bytes
        n_read = llm.n_tokens
        memory = llama_cpp.llama_get_memory(llm.ctx)
        for question in document.questions:
            llm.eval(llm.tokenize(question.prompt.encode(), add_bos=False))
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llm.ctx, -1), shape=(llm.n_vocab(),))
            answer = llm.detokenize([int(logits.argmax())]).decode(errors="replace").strip()
            right += answer == question.answer
            assert llama_cpp.llama_memory_seq_rm(memory, 0, n_read, -1)  # inside the recent window: exact
            llm.n_tokens = n_read
    llm.close()
    return right


def test_the_tests_documents_are_long_and_their_persons_were_held_out_of_training() -> None:
    assert QUESTIONS >= 60
    for document in DOCUMENTS:
        assert 1800 <= document.n_tokens <= 1900
        assert all(recall.is_held_out(question.fact.person) for question in document.questions)


def test_with_the_full_cache_it_recalls_95_percent() -> None:
    assert right_answers(None) >= 0.95 * QUESTIONS


@pytest.mark.parametrize("cache_type", [llama_cpp.GGML_TYPE_F16, llama_cpp.GGML_TYPE_Q8_0], ids=["f16", "q8_0"])
def test_with_an_eighth_of_the_cache_it_recalls_90_percent_by_default(cache_type: int) -> None:
    assert right_answers(AsymKVConfig(budget=BUDGET, chunk=BATCH), type_k=cache_type, type_v=cache_type) >= 0.9 * QUESTIONS


def test_merging_at_random_forgets() -> None:
    config = AsymKVConfig(budget=BUDGET, chunk=BATCH, score="random")
    assert right_answers(config) <= 0.2 * QUESTIONS
