"""Recall: which facts of a text can still be told."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from eval_runs import mean, measured

from asymkv_gguf import Llama, recall
from asymkv_gguf.cli import main
from asymkv_gguf.cli.demo import MODEL
from asymkv_gguf.eval.asking import ask_about, contains, is_exactly
from asymkv_gguf.eval.recall_task import RecallInOwnLanguage, RecallInPlainEnglish
from asymkv_gguf.preview import vocabulary


@pytest.fixture(scope="module")
def words() -> Iterator[Llama]:
    llm = vocabulary(str(MODEL))
    yield llm
    llm.close()


def test_an_eighth_of_the_cache_keeps_the_facts_and_random_slots_do_not(words: Llama) -> None:
    outcome = measured(RecallInOwnLanguage(words, length=2048, n_documents=2), "none,asymkv-exact@8x,random@8x,streaming@8x")
    assert [outcome.by_column[column][0].slots for column in outcome.by_column] == [2048, 256, 256, 256]
    assert mean(outcome, "none", "recall") == 1
    assert mean(outcome, "asymkv-exact@8x", "recall") >= 0.9
    assert mean(outcome, "random@8x", "recall") <= 0.3
    assert mean(outcome, "streaming@8x", "recall") <= 0.3
    assert mean(outcome, "asymkv-exact@8x", "log_prob") > mean(outcome, "random@8x", "log_prob") + 2


def test_plain_facts_are_told_as_well(words: Llama) -> None:
    task = RecallInPlainEnglish(words, length=1024, n_facts=4, n_documents=1, chat=False)
    outcome = measured(task, "none,asymkv-exact@160,random@64")
    assert mean(outcome, "none", "recall") == 1
    assert mean(outcome, "asymkv-exact@160", "recall") > mean(outcome, "random@64", "recall")


@pytest.mark.parametrize("length", [256, 700, 2048])
def test_texts_and_questions_fit_the_length(words: Llama, length: int) -> None:
    n_facts = 3
    own = RecallInOwnLanguage(words, length=length, n_facts=n_facts, n_documents=2)
    plain = RecallInPlainEnglish(words, length=length, n_facts=n_facts, n_documents=2, chat=True)
    for sample in (*own.samples(), *plain.samples()):
        assert sample.asked.n_tokens <= sample.n_tokens == length
        assert sample.asked.n_tokens > 0.7 * length
        assert len(sample.asked.questions) == len(sample.answers) == n_facts
        text = words.detokenize(list(sample.asked.text)).decode()
        assert all(answer in text for answer in sample.answers)


def test_in_a_chat_template_the_text_is_read_before_any_question_is_known(words: Llama) -> None:
    facts = recall.make_document(1, tokens=400, facts=3).facts
    text = "The mill was quiet. " + " ".join(fact.statement for fact in facts)
    asked = ask_about(words, text, facts, chat=True)
    read = words.detokenize(list(asked.text), special=True).decode()
    assert text in read
    assert "What" not in read
    assert asked == ask_about(words, text, facts, chat=True)
    assert asked.text == ask_about(words, text, facts[:1], chat=True).text
    for fact, question in zip(facts, asked.questions, strict=True):
        assert f"What is the code of {fact.person.name}?" in words.detokenize(list(question), special=True).decode()


@pytest.mark.parametrize(
    ("said", "has_it", "is_it"),
    [
        ("amber", True, True),
        ("Amber.", True, True),
        ("The code is amber", True, False),
        ("amber or brass", True, False),
        ("chamber", False, False),
        ("", False, False),
    ],
)
def test_an_answer_has_the_word_or_is_the_word(said: str, has_it: bool, is_it: bool) -> None:
    assert contains(said, "amber") == has_it
    assert is_exactly(said, "amber") == is_it


def test_the_packaged_model_is_asked_where_none_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--length", "600", "--facts", "3", "-n", "1", "-t", "1", "--columns", "none", "--json"]
    assert main(["eval", "recall", *arguments]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["settings"]["model"] == str(MODEL)
    assert report["columns"][0]["metrics"]["recall"]["value"]["mean"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-f", "text.txt"], 2, "-f belongs to --plain; add --plain, or leave it out"),
        (["--no-chat"], 2, "--chat belongs to --plain; add --plain, or leave it out"),
        (["--length", "256", "--facts", "50"], 1, "statements do not fit into 208 tokens"),
        (["--length", "256", "--facts", "50", "--plain"], 1, "50 facts do not fit into"),
    ],
)
def test_wrong_use_is_one_sentence(arguments: list[str], code: int, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "recall", "--columns", "none", *arguments]) == code
    captured = capfd.readouterr()
    assert message in captured.err
    assert not captured.out
