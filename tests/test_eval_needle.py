"""Needle: one fact in a text, by length and depth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from eval_runs import mean, measured

from asymkv_gguf import Llama
from asymkv_gguf.cli import main
from asymkv_gguf.cli.demo import MODEL
from asymkv_gguf.eval.haystack import Haystack
from asymkv_gguf.eval.needle import Needle
from asymkv_gguf.preview import vocabulary


@pytest.fixture(scope="module")
def words() -> Iterator[Llama]:
    llm = vocabulary(str(MODEL))
    yield llm
    llm.close()


def test_every_depth_is_asked_at_every_length(words: Llama) -> None:
    task = Needle(words, lengths=[256, 512, 768], depths=[0.0, 0.5], n_repeats=2, chat=False)
    assert len(task.samples()) == 3 * 2 * 2
    assert len({sample.id for sample in task.samples()}) == 12
    for sample in task.samples():
        assert 0.8 * sample.n_tokens < sample.asked.n_tokens <= sample.n_tokens
        text = words.detokenize(list(sample.asked.text)).decode()
        at = text.index(sample.answer) / len(text)
        assert abs(at - sample.depth) < 0.1
    values = {sample.id: sample.n_tokens * sample.depth for sample in task.samples()}
    assert task.grid(values) == [[0.0, 0.0, 0.0], [128.0, 256.0, 384.0]]


def test_the_same_place_has_the_same_text_in_any_grid(words: Llama) -> None:
    large = Needle(words, lengths=[256, 512], depths=[0.0, 0.5], n_repeats=2)
    small = Needle(words, lengths=[512], depths=[0.5])
    assert small.samples()[0] in large.samples()
    assert small.fingerprint == large.fingerprint


def test_a_needle_is_found_among_others_in_a_merged_cache_and_not_in_a_random_one(words: Llama) -> None:
    task = Needle(words, lengths=[1024], depths=[0.1, 0.5], n_keys=3, chat=False)
    outcome = measured(task, "none,asymkv-exact@160,random@32")
    assert mean(outcome, "none", "found") == 1
    assert mean(outcome, "asymkv-exact@160", "found") > mean(outcome, "random@32", "found")
    for sample in task.samples():
        assert words.detokenize(list(sample.asked.text)).count(b"The code of") == 3


def test_a_haystack_is_as_long_as_wanted_and_holds_every_fact_in_order(words: Llama) -> None:
    hay = Haystack(words, 'One sentence. "Another one!" And a third? ' * 3)
    text = hay.text(120, [(1.0, "LAST."), (0.0, "FIRST."), (0.5, "MIDDLE.")])
    assert 100 < hay.n_tokens(text) <= 120
    assert text.startswith("FIRST. One sentence.")
    assert text.endswith("LAST.")
    assert text.index("FIRST.") < text.index("MIDDLE.") < text.index("LAST.")
    assert '"Another one!"' in text


def test_what_has_no_sentences_is_cut_between_words(words: Llama) -> None:
    hay = Haystack(words, "word " * 1000)
    assert 250 < hay.n_tokens(hay.text(700, [])) <= 700


@pytest.mark.parametrize("text", ["", " \n\n "])
def test_an_empty_haystack_is_one_sentence(words: Llama, text: str) -> None:
    with pytest.raises(ValueError, match="the text for the haystack is empty; give another file"):
        Haystack(words, text)


def test_the_command_draws_a_heat_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    grid = ["--lengths", "256,300", "--depths", "0,100", "-r", "1", "--no-chat", "-t", "1"]
    columns = ["--columns", "none,h2o@64", "--heat-map", "map.png", "--plot", "plot.png", "--json"]
    assert main(["eval", "needle", "-m", str(MODEL), *grid, *columns]) == 0
    report = json.loads(capfd.readouterr().out)
    assert list(report["columns"][0]["samples"]) == ["256-0-0", "256-1-0", "300-0-0", "300-1-0"]
    for file in ("map.png", "plot.png"):
        assert (tmp_path / file).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give either -m FILE, a GGUF file, or -hf USER/REPO"),
        (["-m", str(MODEL), "--depths", "0,101"], 2, "'0,101' is no list of numbers between 0 and 100 such as 0,25,50"),
        (["-m", str(MODEL), "--lengths", "few"], 2, "'few' is no list of numbers between 128 and"),
        (["-m", str(MODEL), "--heat-map", "map.pdf"], 2, "--heat-map map.pdf should end in .png"),
        (["-m", str(MODEL), "--lengths", "128", "--keys", "50"], 1, "length 128: 50 facts do not fit into"),
    ],
)
def test_wrong_use_is_one_sentence(arguments: list[str], code: int, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "needle", *arguments]) == code
    captured = capfd.readouterr()
    assert message in captured.err
    assert not captured.out
