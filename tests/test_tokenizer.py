"""The tokenizer spells as llama_cpp's does, without asking llama.cpp for the same again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import llama_cpp
import pytest

from asymkv_gguf import Llama, recall
from asymkv_gguf.cli.demo import MODEL


@pytest.fixture(scope="module")
def llm() -> Iterator[Llama]:
    llm = Llama(str(MODEL), n_threads=1, verbose=False)
    yield llm
    llm.close()


def test_every_token_is_spelled_as_llama_cpp_spells_it(llm: Llama) -> None:
    for special in (False, True):
        for token in range(llm.n_vocab()):
            assert llm.detokenize([token], special=special) == llm._model.detokenize([token], special=special)


def test_a_text_comes_back(llm: Llama, tiny: Callable[[str], Path]) -> None:
    text = recall.make_document(1, tokens=300).text
    tokens = llm.tokenize(text.encode())
    assert llm.detokenize(tokens).decode() == text == llm._model.detokenize(tokens).decode()
    other = Llama(str(tiny("llama")), n_threads=1, verbose=False)
    for tokens in ([], [1], [1, 35, 36], other.tokenize("caf\xe9 \N{SNOWMAN}".encode())):
        assert other.detokenize(tokens) == other._model.detokenize(tokens)
    other.close()


def test_a_piece_longer_than_llama_cpps_buffer_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "long.gguf"
    word = max(recall.vocabulary(), key=len)
    longer = word.encode() + b"z" * 32  # which is the file's alignment: nothing after it moves out of place
    old, new = (len(text).to_bytes(8, "little") + text for text in (word.encode(), longer))
    data = MODEL.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    llm = Llama(str(path), n_threads=1, verbose=False)
    token = recall.vocabulary().index(word)
    assert llm.detokenize([token]).decode() == recall.detokenize([token]) + "z" * 32
    llm.close()


def test_a_piece_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = llama_cpp.llama_token_to_piece

    def counting(vocab: object, token: int, *rest: object) -> int:
        asked.append(token)
        n_bytes: int = original(vocab, token, *rest)
        return n_bytes

    monkeypatch.setattr(llama_cpp, "llama_token_to_piece", counting)
    llm = Llama(str(MODEL), n_threads=1, verbose=False)
    llm("The code of", max_tokens=20, temperature=0)
    assert len(asked) == len(set(asked)) > 0
    llm.close()
