"""What `Llama` itself costs beside llama.cpp's decoding: counted, not timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import random_tokens

from asymkv_gguf import AsymKVConfig, AsymKVError, Llama, ModelFileError, ModelNotFoundError
from asymkv_gguf.cache_types import KV_TYPES
from asymkv_gguf.cli.demo import MODEL
from asymkv_gguf.prompt_tokens import Joined, PromptTokens
from asymkv_gguf.tokens import common_prefix

SMALL = AsymKVConfig(budget=192, chunk=64)
QUIET: dict[str, Any] = {"verbose": False, "n_threads": 1, "n_threads_batch": 1}
N_CTX = 131_072


@pytest.fixture
def llm(tiny: Callable[[str], Path]) -> Iterator[Llama]:
    llm = Llama(str(tiny("llama")), asymkv=SMALL, n_ctx=2048, **QUIET)
    yield llm
    llm.close()


@pytest.mark.parametrize("asymkv", [SMALL, False], ids=["merged", "stock"])
def test_a_long_context_takes_no_memory_in_python_but_its_tokens(tiny: Callable[[str], Path], asymkv: Any) -> None:
    llm = Llama(str(tiny("llama")), asymkv=asymkv, n_ctx=N_CTX if asymkv else 4096, n_batch=64, **QUIET)
    assert llm.input_ids.nbytes == 4 * llm.n_ctx()
    assert llm.scores.nbytes == 4 * llm.n_vocab()  # llama_cpp: times n_batch, and nothing fills them
    assert llm._decode_batch.n_bytes == 9 * 64
    assert llm._batch.n_seq_max == 1  # llama_cpp: n_ctx, 4 bytes for each of them and each token of a batch
    llm.close()


def test_with_logits_all_there_are_scores_for_the_whole_text(tiny: Callable[[str], Path]) -> None:
    llm = Llama(str(tiny("llama")), n_ctx=512, logits_all=True, **QUIET)
    llm.eval(random_tokens(100))
    assert llm.scores.shape == (512, llm.n_vocab())
    logits = llm.last_logits()
    assert logits is not None
    assert np.array_equal(llm.scores[99], logits)
    assert len(llm.eval_logits) == 100
    llm.close()


def test_a_state_holds_what_is_live_and_no_scores(llm: Llama) -> None:
    llm.eval(random_tokens(1000))
    state = llm.save_state()
    stats = llm.asymkv_stats()
    assert state.scores.nbytes == 4 * llm.n_vocab()
    assert state.llama_state_size == len(state.llama_state) < stats.kv_bytes + 2 * stats.table_bytes
    llm.load_state(state)
    assert llm.n_tokens == 1000


def test_a_state_of_llama_cpps_own_class_fits(tiny: Callable[[str], Path]) -> None:
    """It has n_batch rows of scores, which stay what they are: nobody's."""
    import llama_cpp

    theirs = llama_cpp.Llama(str(tiny("llama")), n_ctx=512, **QUIET)
    theirs.eval(random_tokens(100))
    ours = Llama(str(tiny("llama")), n_ctx=512, **QUIET)
    ours.load_state(theirs.save_state())
    assert next(ours.generate(random_tokens(100), temp=0.0)) == next(theirs.generate(random_tokens(100), temp=0.0))
    ours.close()
    theirs.close()


def test_the_common_prefix_of_two_texts() -> None:
    a = np.arange(10, dtype=np.intc)
    for b, n in ((a, 10), (a[:4], 4), (a[:0], 0), (np.array([0, 1, 5, 3], np.intc), 2), (a + 1, 0)):
        assert common_prefix(a, b) == common_prefix(b, a) == n


class Listening(Llama):
    """Notes what the tokenizer is told about the tokens that came before."""

    before: list[Any]

    def detokenize(self, tokens: list[int], prev_tokens: Any = None, special: bool = False) -> bytes:
        self.before.append(prev_tokens)
        return super().detokenize(tokens, prev_tokens, special)


@pytest.mark.parametrize("kind", ["text", "tokens"])
def test_a_long_prompt_is_not_copied_for_each_token_of_its_answer(kind: str) -> None:
    llm = Listening(str(MODEL), asymkv=SMALL, n_ctx=2048, seed=3, **QUIET)
    text = "The harbour was quiet. " * 40
    prompt: Any = text if kind == "text" else llm.tokenize(text.encode())
    assert type(llm.tokenize(b"x")) is list  # what users get
    llm.before = []
    chunks = list(llm.create_completion(prompt, max_tokens=30, temperature=0, stream=True))
    copies = [tokens for tokens in llm.before if tokens is not None and not isinstance(tokens, (PromptTokens, Joined))]
    assert copies == []
    prompts = {id(tokens.first if isinstance(tokens, Joined) else tokens) for tokens in llm.before if tokens is not None}
    assert len(prompts) == 1
    llm.reset()
    whole: Any = llm.create_completion(prompt, max_tokens=30, temperature=0)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    assert whole["usage"]["prompt_tokens"] == len(llm.tokenize(text.encode()))
    llm.close()


def test_llama_cpps_own_cache_of_states_still_finds_a_prompt(tiny: Callable[[str], Path]) -> None:
    import llama_cpp

    llm = Llama(str(tiny("llama")), n_ctx=512, **QUIET)
    llm.set_cache(llama_cpp.LlamaRAMCache())
    first: Any = llm.create_completion("The harbour was quiet.", max_tokens=5, temperature=0)
    llm.create_completion("Another text.", max_tokens=5, temperature=0)
    counts: list[int] = []
    llm.on_progress = lambda done, total: counts.append(done)
    again: Any = llm.create_completion("The harbour was quiet.", max_tokens=5, temperature=0)
    assert again["choices"] == first["choices"]
    assert max(counts) == 1  # from the cache, whose last token is read once more
    llm.close()


def test_a_sum_of_tokens_is_read_as_a_list_is() -> None:
    prompt = PromptTokens([1, 2, 3])
    joined = add(prompt, [4, 5])
    assert isinstance(joined, Joined)
    assert joined.first is prompt
    assert (len(joined), list(joined), tuple(joined)) == (5, [1, 2, 3, 4, 5], (1, 2, 3, 4, 5))
    assert [joined[0], joined[3], joined[-1], joined[1:4]] == [1, 4, 5, [2, 3, 4]]
    with pytest.raises(IndexError):
        joined[5]
    assert add(prompt, []) is prompt
    assert add([], prompt) is prompt
    bos = add([0], prompt)
    assert isinstance(bos, PromptTokens)
    assert (bos, prompt) == ([0, 1, 2, 3], [1, 2, 3])


# what llama.cpp would abort on, or say in numbers


def test_a_closed_model_is_one_sentence(llm: Llama) -> None:
    llm.eval([1, 5])
    state = llm.save_state()
    llm.close()
    calls: list[Callable[[], Any]] = [
        lambda: llm.eval([5]),
        lambda: llm.tokenize(b"x"),
        lambda: llm.detokenize([5]),
        lambda: llm.reset(),
        lambda: llm.sample(),
        lambda: next(llm.generate([1, 5])),
        lambda: llm("x", max_tokens=1),
        lambda: llm.create_chat_completion([{"role": "user", "content": "x"}]),
        lambda: llm.save_state(),
        lambda: llm.load_state(state),
        lambda: llm.checkpoint(),
        lambda: llm.n_ctx(),
        lambda: llm.asymkv_stats(),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"^the model .*llama.gguf is closed; open it again with Llama\(\.\.\.\)$"):
            call()
    llm.close()


@pytest.mark.parametrize("asymkv", [True, False])
@pytest.mark.parametrize("value", [999, -1, 12, "q8_0"])  # 12: Q4_K, a type of weights
def test_an_unknown_cache_type_is_one_sentence(tiny: Callable[[str], Path], value: Any, asymkv: bool) -> None:
    for name in ("type_k", "type_v"):
        with pytest.raises(ValueError, match=f"^{name} {value!r} is no type for a cache; there are {', '.join(KV_TYPES)}$"):
            Llama(str(tiny("llama")), asymkv=asymkv, **{name: value}, **QUIET)


def test_a_missing_or_wrong_lora_file_is_one_sentence(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"^LoRA file no/such.gguf does not exist$"):
        Llama(str(tiny("llama")), lora_path="no/such.gguf", **QUIET)
    (tmp_path / "lora.bin").write_bytes(b"x" * 100)
    with pytest.raises(ModelFileError, match=r"lora.bin is not a GGUF file; convert the LoRA to GGUF first$"):
        Llama(str(tiny("llama")), asymkv=True, lora_path=str(tmp_path / "lora.bin"), **QUIET)


def test_a_batch_that_the_cache_refuses_is_its_sentence_and_loses_nothing(
    tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp's own answer is the number 1. The cache is made too small for its batches, which the config forbids."""
    monkeypatch.setattr(AsymKVConfig, "room", lambda self, n_batch: 6)
    llm = Llama(str(tiny("llama")), asymkv=AsymKVConfig(budget=250), n_ctx=2048, n_batch=64, **QUIET)
    tokens = random_tokens(400)
    with pytest.raises(AsymKVError, match="a batch of 64 tokens does not fit into the 6 free slots beside the budget"):
        llm.eval(tokens)
    assert llm.n_tokens == llm.asymkv_stats().tokens == 256
    llm.eval(tokens[256:260])
    assert llm.n_tokens == 260
    llm.close()


@pytest.mark.parametrize("asymkv", [SMALL, False], ids=["merged", "stock"])
def test_a_failure_that_is_not_the_caches_keeps_llama_cpps_words(tiny: Callable[[str], Path], asymkv: Any) -> None:
    llm = Llama(str(tiny("llama")), asymkv=asymkv, n_ctx=512, **QUIET)
    if asymkv:
        with pytest.raises(ValueError, match="layer 99"):
            llm.asymkv_slots(99)  # an old error, which is not the reason of what follows
    llm.eval([1, 5])
    with pytest.raises(RuntimeError, match=r"^llama_decode returned -1$"):
        llm.eval([1_000_000])
    assert llm.n_tokens == 2
    llm.close()


def test_a_text_longer_than_a_stock_context_is_one_sentence(tiny: Callable[[str], Path]) -> None:
    llm = Llama(str(tiny("llama")), n_ctx=512, **QUIET)
    with pytest.raises(ValueError, match=r"600 tokens are more than n_ctx = 512; raise n_ctx"):
        llm.eval(random_tokens(600))
    assert llm.n_tokens == 0
    llm.close()


@pytest.mark.parametrize("asymkv", [SMALL, False], ids=["merged", "stock"])
def test_drafts_are_taken_back_as_llama_cpp_does_it(tiny: Callable[[str], Path], asymkv: Any) -> None:
    """Its speculative decoding reads a draft, samples along it, and cuts where that differs."""
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    prompt = random_tokens(60) * 2
    options: dict[str, Any] = {"asymkv": asymkv, "n_ctx": 2048, "n_batch": 64, "logits_all": True, **QUIET}
    plain = Llama(str(tiny("llama")), **options)
    drafting = Llama(str(tiny("llama")), draft_model=LlamaPromptLookupDecoding(num_pred_tokens=5), **options)
    results: list[Any] = [llm.create_completion(prompt, max_tokens=40, temperature=0) for llm in (plain, drafting)]
    assert results[0]["choices"] == results[1]["choices"]
    if asymkv:
        assert drafting.asymkv_stats().tokens == drafting.n_tokens
    plain.close()
    drafting.close()
