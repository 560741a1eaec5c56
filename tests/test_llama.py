"""`asymkv_gguf.Llama` is llama_cpp.Llama: everything works with a merged cache as without, or is refused clearly."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from tiny_models import REFUSED

from asymkv_gguf import AsymKVConfig, AsymKVError, Llama, ModelFileError, ModelNotFoundError, UnsupportedError, recall
from asymkv_gguf.cli.demo import MODEL

SMALL = AsymKVConfig(budget=192, chunk=64)
QUIET: dict[str, Any] = {"verbose": False, "n_threads": 1, "n_threads_batch": 1}
TEXT = recall.make_document(3, tokens=700).text


def small(**options: Any) -> Llama:
    return Llama(str(MODEL), asymkv=SMALL, **{**QUIET, **options})


@pytest.fixture
def llm() -> Iterator[Llama]:
    llm = small()
    yield llm
    llm.close()


def text_of(result: Any) -> str:
    text = result["choices"][0]["text"]
    assert isinstance(text, str)
    return text


def test_with_asymkv_off_it_is_llama_cpps_class_with_its_defaults() -> None:
    ours, stock = Llama(str(MODEL), **QUIET), llama_cpp.Llama(str(MODEL), **QUIET)
    assert ours.n_ctx() == stock.n_ctx() == 512
    assert ours.context_params.flash_attn_type == stock.context_params.flash_attn_type
    assert ours.asymkv is None
    prompt = TEXT[:600]
    assert text_of(ours(prompt, max_tokens=12, temperature=0)) == text_of(stock(prompt, max_tokens=12, temperature=0))
    with pytest.raises(AsymKVError, match="no merged cache"):
        ours.asymkv_stats()


def test_with_asymkv_on_the_context_is_the_trained_one_and_memory_is_the_budget(llm: Llama) -> None:
    stats = llm.asymkv_stats()
    assert llm.n_ctx() == int(llm.metadata["llama.context_length"])
    assert llm.n_batch == 64
    assert llm.context_params.flash_attn_type == llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    assert (stats.budget, stats.capacity) == (192, 256)
    assert stats.stock_kv_bytes == stats.kv_bytes * llm.n_ctx() // stats.capacity


def test_arguments_that_are_given_win() -> None:
    llm = small(n_ctx=1024, n_batch=32, flash_attn=False, type_k=llama_cpp.GGML_TYPE_Q8_0)
    assert (llm.n_ctx(), llm.n_batch) == (1024, 32)
    assert llm.context_params.flash_attn_type == llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    assert llm.context_params.type_k == llama_cpp.GGML_TYPE_Q8_0


def test_statistics_count_what_was_read() -> None:
    llm = small(n_ctx=2048)
    tokens = llm.tokenize(TEXT.encode())
    llm.eval(tokens)
    stats = llm.asymkv_stats()
    assert stats.tokens == len(tokens) == llm.n_tokens
    assert 192 <= stats.slots <= 256
    assert stats.compressions > 0
    assert stats.merges + stats.evictions > 0
    assert stats.compress_seconds > 0
    slots = llm.asymkv_slots(0, 0)
    assert len(slots) == stats.slots
    assert int(slots["cardinality"].sum()) + llm.asymkv_lost(0, 0) == stats.tokens
    assert f"{stats.tokens:,} tokens in {stats.slots:,} slots (320 KiB instead of 2.5 MiB)" == stats.notice()


def test_compressing_by_hand_leaves_as_many_slots_as_wished(llm: Llama) -> None:
    llm.eval(llm.tokenize(TEXT.encode()))
    llm.asymkv_compress(100)
    assert llm.asymkv_stats().slots == 100
    llm.asymkv_compress(100)
    assert llm.asymkv_stats().slots == 100
    for wrong in (-1, 1.5, True):
        with pytest.raises(ValueError, match="n_keep must be a number of slots"):
            llm.asymkv_compress(wrong)  # type: ignore[arg-type]


def test_a_layer_or_group_that_does_not_exist_is_one_sentence(llm: Llama) -> None:
    with pytest.raises(ValueError, match="layer 99 is out of range"):
        llm.asymkv_slots(99)
    with pytest.raises(ValueError, match="group 2 is out of range"):
        llm.asymkv_slots(0, 2)
    with pytest.raises(ValueError, match="layer must be 0 or more, not -1"):
        llm.asymkv_slots(-1)


def test_streaming_writes_what_completion_writes(llm: Llama) -> None:
    whole = text_of(llm(TEXT, max_tokens=20, temperature=0))
    llm.reset()
    streamed = "".join(text_of(chunk) for chunk in llm(TEXT, max_tokens=20, temperature=0, stream=True))
    assert streamed == whole != ""


def test_reset_forgets_everything(llm: Llama) -> None:
    first = text_of(llm(TEXT, max_tokens=8, temperature=0))
    llm.reset()
    llm.eval(llm.tokenize(b"The harbour was quiet."))
    assert llm.asymkv_stats().slots == llm.n_tokens < 20
    llm.reset()
    assert text_of(llm(TEXT, max_tokens=8, temperature=0)) == first


def test_chat_completion_works(llm: Llama) -> None:
    messages: list[Any] = [{"role": "user", "content": TEXT}]
    reply = llm.create_chat_completion(messages, max_tokens=8, temperature=0)
    assert isinstance(reply["choices"][0]["message"]["content"], str)
    assert llm.asymkv_stats().compressions > 0


def test_a_text_that_goes_on_reuses_what_was_read(llm: Llama) -> None:
    tokens = llm.tokenize(TEXT.encode())
    llm.create_completion(tokens, max_tokens=1, temperature=0)
    before = llm.asymkv_stats()
    read: list[int] = []
    llm.on_progress = lambda done, total: read.append(total)
    llm.create_completion([*tokens, *llm.tokenize(b" The harbour was quiet.", add_bos=False)], max_tokens=1, temperature=0)
    assert sum(read) < 20
    assert llm.asymkv_stats().tokens > before.tokens


def test_a_text_that_differs_early_is_read_again(llm: Llama) -> None:
    tokens = llm.tokenize(TEXT.encode())
    other = [*tokens[:50], *llm.tokenize(b" The harbour was quiet.", add_bos=False), *tokens[200:600]]
    llm.create_completion(tokens, max_tokens=1, temperature=0)
    result = text_of(llm.create_completion(other, max_tokens=8, temperature=0))
    assert llm.asymkv_stats().tokens == llm.n_tokens
    fresh = small()
    assert text_of(fresh.create_completion(other, max_tokens=8, temperature=0)) == result


def test_taking_back_merged_tokens_reads_the_rest_again(llm: Llama, capfd: pytest.CaptureFixture[str]) -> None:
    tokens = llm.tokenize(TEXT.encode())
    llm.eval(tokens)
    llm.n_tokens = 100  # what llama_cpp does to roll back; these tokens are long merged
    llm.verbose = True
    llm.eval(tokens[100:110])
    assert llm.n_tokens == llm.asymkv_stats().tokens == 110
    assert "asymkv: merged tokens cannot be taken back, reading 100 tokens again" in capfd.readouterr().err
    fresh = small()
    fresh.eval(tokens[:100])
    fresh.eval(tokens[100:110])
    assert np.array_equal(logits(llm), logits(fresh))


def logits(llm: Llama) -> Any:
    return np.array(np.ctypeslib.as_array(llm._ctx.get_logits_ith(-1), shape=(llm.n_vocab(),)))


def test_a_restored_state_goes_on_as_the_saved_one(llm: Llama) -> None:
    llm.eval(llm.tokenize(TEXT.encode()))
    state = llm.save_state()
    question = llm.tokenize(b"The code of", add_bos=False)
    llm.eval(question)
    expected = logits(llm)
    other = small()
    other.load_state(state)
    assert other.asymkv_stats().tokens == state.n_tokens
    other.eval(question)
    assert np.array_equal(logits(other), expected)


@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_a_copy_has_the_same_cache(llm: Llama, way: str) -> None:
    other = pickle.loads(pickle.dumps(llm)) if way == "pickle" else copy.deepcopy(llm)
    assert other.asymkv == SMALL
    assert other.asymkv_stats().capacity == 256
    assert other.n_ctx() == llm.n_ctx()
    assert other.n_batch == llm.n_batch
    stock = Llama(str(MODEL), **QUIET)
    assert pickle.loads(pickle.dumps(stock)).asymkv is None


def test_from_pretrained_passes_asymkv_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    class Files:
        def ls(self, repo: str, recursive: bool) -> list[str]:
            return [f"{repo}/{MODEL.name}"]

    monkeypatch.setattr(huggingface_hub, "HfFileSystem", Files)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda **_: str(MODEL))
    llm = Llama.from_pretrained("someone/recall", "*.gguf", asymkv={"budget": 192, "chunk": 64}, **QUIET)
    assert isinstance(llm, Llama)
    assert llm.asymkv == SMALL
    assert llm.asymkv_stats().capacity == 256


def test_only_the_context_that_asked_gets_a_merged_cache(llm: Llama) -> None:
    with pytest.raises(ModelFileError):
        Llama(__file__, asymkv=SMALL, **QUIET)
    stock = Llama(str(MODEL), **QUIET)
    with pytest.raises(AsymKVError, match="no merged cache"):
        stock.asymkv_stats()


def test_threads_do_not_disturb_each_other() -> None:
    made: dict[str, Llama] = {}
    threads = [
        threading.Thread(target=lambda: made.update(merged=small())),
        threading.Thread(target=lambda: made.update(stock=Llama(str(MODEL), **QUIET))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made["merged"].asymkv_stats().capacity == 256
    assert made["stock"].asymkv is None


# what is refused


@pytest.mark.parametrize("name", REFUSED)
def test_an_architecture_that_cannot_be_merged_is_refused_with_its_reason(tiny: Callable[[str], Path], name: str) -> None:
    with pytest.raises(UnsupportedError, match=REFUSED[name][1]) as caught:
        Llama(str(tiny(name)), asymkv=SMALL, n_ctx=512, **QUIET)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["bloom"])
def test_an_architecture_that_cannot_be_merged_works_with_asymkv_off(tiny: Callable[[str], Path], name: str) -> None:
    llm = Llama(str(tiny(name)), n_ctx=512, **QUIET)
    llm.eval([1, 5, 6])
    assert np.isfinite(logits(llm)).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"embedding": True}, "embedding=True cannot be used with asymkv"),
        ({"vocab_only": True}, "vocab_only=True cannot be used with asymkv"),
        ({"n_batch": 512}, "budget 192 is too small for 4 sinks, 64 recent tokens and batches of 512"),
        ({"n_batch": 0}, "n_batch must be 1 or more, not 0"),
        ({"flash_attn": False, "type_v": llama_cpp.GGML_TYPE_Q8_0}, "V cache"),
    ],
    ids=str,
)
def test_an_argument_that_does_not_go_with_asymkv_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises((ValueError, AsymKVError)) as caught:
        small(**options)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_text_longer_than_the_context_is_refused_and_nothing_is_lost() -> None:
    llm = small(n_ctx=2048)
    llm.eval(llm.tokenize(TEXT.encode()))
    before = llm.asymkv_stats()
    with pytest.raises(ValueError, match=r"Requested tokens \(3001\) exceed context window of 2048"):
        llm.create_completion([5] * 3001, max_tokens=1)
    with pytest.raises(ValueError, match=r"2,\d+ tokens are more than n_ctx = 2,048; raise n_ctx"):
        llm.eval([5] * 2000)
    after = llm.asymkv_stats()
    assert (after.tokens, after.slots) == (before.tokens, before.slots)
    llm.eval([5])


# model files


def test_a_missing_file_is_one_sentence() -> None:
    with pytest.raises(ModelNotFoundError, match=r"^model file no/such.gguf does not exist$"):
        Llama("no/such.gguf", asymkv=True)
    assert issubclass(ModelNotFoundError, FileNotFoundError)
    assert issubclass(ModelNotFoundError, ValueError)  # what llama_cpp raises


@pytest.mark.parametrize("asymkv", [False, True])
@pytest.mark.parametrize(
    ("n_bytes", "sentence"),
    [
        (0, "is empty; download it again"),
        (10, "is truncated after 10 bytes; download it again"),
        (100, r"is truncated or damaged \(100 bytes\); download it again"),
        (50_000, "is truncated or damaged"),
        (-1000, "is truncated or damaged"),
    ],
)
def test_a_truncated_file_is_one_sentence(tmp_path: Path, n_bytes: int, sentence: str, asymkv: bool) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(MODEL.read_bytes()[:n_bytes])
    with pytest.raises(ModelFileError, match=sentence):
        Llama(str(path), asymkv=asymkv, verbose=False)


def test_a_file_of_another_kind_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not a model" * 100)
    with pytest.raises(ModelFileError, match="is not a GGUF file; convert the model to GGUF first"):
        Llama(str(path), asymkv=True)
    with pytest.raises(ModelFileError, match="is a directory"):
        Llama(str(tmp_path), asymkv=True)


def test_an_unknown_architecture_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "unknown.gguf"
    name = (5).to_bytes(8, "little")
    path.write_bytes(MODEL.read_bytes().replace(name + b"llama", name + b"llamo", 1))
    with pytest.raises(ModelFileError, match="could not be loaded: unknown model architecture: 'llamo'"):
        Llama(str(path), asymkv=True, verbose=False)


def test_a_failed_construction_leaves_no_noise_behind(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelNotFoundError):
        Llama("no/such.gguf")
    with pytest.raises(UnsupportedError):
        small(embedding=True)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("asymkv", [False, True])
def test_a_text_that_the_vocabulary_cannot_spell_is_one_sentence(
    tiny: Callable[[str], Path], tmp_path: Path, asymkv: bool
) -> None:
    path = tmp_path / "no-a.gguf"
    path.write_bytes(tiny("llama").read_bytes().replace(b"<0x41>", b"<0xZZ>"))  # has no token for "A"
    llm = Llama(str(path), asymkv=asymkv, **QUIET)
    assert llm.tokenize(b"B")
    with pytest.raises(ValueError, match=r"no-a.gguf cannot spell this text of 3 bytes$"):
        llm.tokenize(b"BAB")


def test_a_log_function_that_the_user_set_stays_set_and_sees_everything() -> None:
    lines: list[bytes] = []
    callback = llama_cpp.llama_log_callback(lambda level, text, data: lines.append(text))
    llama_cpp.llama_log_set(callback, None)
    try:
        small(verbose=True)
        assert any(b"llama_model_loader" in line for line in lines)
        lines.clear()
        small(verbose=True)
        assert lines
    finally:
        llama_cpp.llama_log_set(llama_cpp._logger.llama_log_callback, None)


def test_n_ctx_is_rounded_up_as_llama_cpp_rounds_it() -> None:
    """Otherwise llama_cpp's list of tokens would be shorter than the context, and lose what lies beyond."""
    llm = small(n_ctx=300)
    assert llm.n_ctx() == len(llm.input_ids) == 512
    for n_ctx in (-1, None, 1.5, 1 << 40):
        with pytest.raises(ValueError, match="n_ctx must be a number of tokens"):
            small(n_ctx=n_ctx)
    llm.close()
