"""RULER: what the generated texts hide, how long they are, and how answers are scored."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from asymkv_gguf import Llama, recall
from asymkv_gguf.cli import main
from asymkv_gguf.cli.demo import MODEL
from asymkv_gguf.eval.prompts import prompt_tokens
from asymkv_gguf.eval.ruler.frequent_words import zeta
from asymkv_gguf.eval.ruler.generate import TYPES, generate
from asymkv_gguf.eval.ruler.haystack import NOISE, Haystack, depths, hide, split_sentences
from asymkv_gguf.eval.ruler.needles import Kinds
from asymkv_gguf.eval.ruler.options import RulerOptions
from asymkv_gguf.eval.ruler.questions import Document, Question, read_documents, read_questions
from asymkv_gguf.eval.ruler.sample import Sample
from asymkv_gguf.eval.ruler.score import score
from asymkv_gguf.eval.ruler.words import ADJECTIVES, NOUNS
from asymkv_gguf.preview import vocabulary

Count = Callable[[Sample], int]
InProcess = Callable[..., tuple[int, str, str]]

DOCUMENTS = [Document(f"{name}.txt", f"{name} was built by the {name} brothers. " * 12) for name in NOUNS[:40]]
QUESTIONS = [Question("Who built the acorn?", ("acorn brothers", "the brothers"), DOCUMENTS[0])]
WITH_QA = RulerOptions(documents=DOCUMENTS, questions=QUESTIONS)


def words_of(sample: Sample) -> int:
    """A tokenizer for texts that no model reads."""
    return len(sample.prompt.split()) + len(sample.answer_prefix.split())


@pytest.fixture(scope="module")
def count() -> Iterator[Count]:
    llm = vocabulary(str(MODEL))
    yield lambda sample: len(prompt_tokens(llm, sample.prompt, sample.answer_prefix, chat=True))
    llm.close()


@pytest.fixture
def in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> InProcess:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["eval", "ruler", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


# every task type


@pytest.mark.parametrize("length", [2500, 7000])
@pytest.mark.parametrize("name", TYPES)
def test_prompt_and_answer_take_the_length_in_tokens_or_less_than_one_entry_fewer(name: str, length: int, count: Count) -> None:
    sample = generate(name, WITH_QA, count, length)
    # the packaged model spells most words in bytes: an entry is `1234. adjective-noun `
    assert length - 28 < count(sample) + sample.max_tokens <= length


@pytest.mark.parametrize("name", TYPES)
def test_what_is_asked_for_stands_in_the_text(name: str) -> None:
    sample = generate(name, WITH_QA, words_of, 1500)
    found = [expected in sample.prompt for expected in sample.expected]
    assert any(found) if name == "qa" else all(found)


@pytest.mark.parametrize("name", TYPES)
def test_the_same_seed_gives_the_same_sample_and_another_one_does_not(name: str) -> None:
    sample = generate(name, WITH_QA, words_of, 1500, seed=3)
    assert sample == generate(name, WITH_QA, words_of, 1500, seed=3)
    assert sample.prompt != generate(name, WITH_QA, words_of, 1500, seed=4).prompt
    if name != "qa":
        assert sample.prompt != generate(name, WITH_QA, words_of, 1500, seed=3, index=1).prompt


@pytest.mark.parametrize("name", TYPES)
def test_a_length_that_the_question_alone_exceeds_is_refused_in_a_sentence(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"{name} takes at least \d+ tokens, more than the length of 40; ask for a longer one"
    ):
        generate(name, WITH_QA, words_of, 40)


# needles


def needles_of(sample: Sample) -> list[tuple[str, str, float]]:
    """Key, value, and place in the text from 0 to 1."""
    text = sample.prompt.split("\n\n")[1]
    found = re.finditer(r"One of the secret \w+ of (\S+) is (\S+)\.", text)
    return [(match[1], match[2], match.start() / len(text)) for match in found]


def test_a_single_needle_is_everywhere_in_the_text_over_many_samples() -> None:
    places = [needles_of(generate("niah_single", RulerOptions(), words_of, 700, index=i))[0][2] for i in range(60)]
    assert all(any(low <= place < low + 0.25 for place in places) for low in (0, 0.25, 0.5, 0.75))
    assert 0.35 < sum(places) / len(places) < 0.65


@pytest.mark.parametrize("name", ["niah_multikey", "niah_multivalue", "niah_multiquery"])
def test_several_needles_are_spread_one_in_each_part_of_the_text(name: str) -> None:
    places = [place for _, _, place in needles_of(generate(name, RulerOptions(needles=5), words_of, 3000))]
    assert [int(5 * place) for place in places] == [0, 1, 2, 3, 4]


def test_one_of_several_keys_is_asked_for() -> None:
    sample = generate("niah_multikey", RulerOptions(needles=6), words_of, 1500)
    needles = needles_of(sample)
    asked = [key for key, value, _ in needles if value in sample.expected]
    assert len({key for key, _, _ in needles}) == len(needles) == 6
    assert len(asked) == len(sample.expected) == 1
    assert f"What is the secret number of {asked[0]} that" in sample.prompt
    assert sample.answer_prefix == f"The secret number of {asked[0]} that the text mentions is"


def test_all_values_of_one_key_are_asked_for() -> None:
    sample = generate("niah_multivalue", RulerOptions(needles=3), words_of, 1500)
    needles = needles_of(sample)
    assert len({key for key, _, _ in needles}) == 1
    assert {value for _, value, _ in needles} == set(sample.expected)
    assert len(sample.expected) == 3


def test_all_keys_are_asked_for_in_the_order_of_the_expected_values() -> None:
    sample = generate("niah_multiquery", RulerOptions(needles=3), words_of, 1500)
    values = {key: value for key, value, _ in needles_of(sample)}
    question = re.search(r"What are all the secret numbers of (\S+), (\S+) and (\S+) that", sample.prompt)
    assert question is not None
    assert [values[key] for key in question.groups()] == list(sample.expected)


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        ("numbers", r"\d{7}"),
        ("words", "[a-z]+-[a-z]+"),
        ("uuids", "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    ],
)
def test_keys_and_values_are_words_numbers_or_uuids(kind: str, pattern: str) -> None:
    for kinds in (Kinds(keys=kind), Kinds(values=kind)):
        ((key, value, _),) = needles_of(generate("niah_single", RulerOptions(kinds=kinds), words_of, 700))
        assert re.fullmatch(pattern, key if kinds.keys == kind else value)


def test_in_a_haystack_of_needles_one_alone_has_the_key_that_is_asked_for() -> None:
    sample = generate("niah_multikey", RulerOptions(needle_haystack=True, needles=2), words_of, 1500)
    needles = needles_of(sample)
    assert len(needles) > 100
    asked = [key for key, value, _ in needles if value in sample.expected]
    assert sum(key == asked[0] for key, _, _ in needles) == 1
    assert not any(sentence in sample.prompt for sentence in NOISE)


# haystacks


def test_a_text_is_taken_in_order_from_some_sentence_on_and_again_from_its_beginning() -> None:
    text = "  ".join(f"This is sentence {i}." for i in range(50))
    numbers = [int(n) for n in re.findall(r"sentence (\d+)\.", " ".join(Haystack.of_text(text, random.Random(1)).take(3000)))]
    assert len(numbers) > 100
    assert all((b - a) % 50 == 1 for a, b in pairwise(numbers))


@pytest.mark.parametrize("n", [0, 1, 25, 26, 27, 100, 3001])
def test_a_haystack_has_no_more_characters_than_it_may_and_ends_after_a_word(n: int) -> None:
    text = " ".join(Haystack.of_noise().take(n))
    assert n - 12 < len(text) <= n
    assert set(re.findall(r"\w+", text)) <= set(re.findall(r"\w+", " ".join(NOISE)))


def test_sentences_end_at_full_stops_english_and_chinese_and_endless_ones_are_cut() -> None:
    assert split_sentences("One.  Two!\nThree? 四。五！六") == ["One.", "Two!", "Three?", "四。", "五！", "六"]  # noqa: RUF001
    cut = split_sentences("word " * 300)
    assert max(map(len, cut)) <= 400
    assert " ".join(cut) == ("word " * 300).strip()
    assert "".join(split_sentences("x" * 1000)) == "x" * 1000


def test_an_empty_text_is_no_haystack() -> None:
    with pytest.raises(ValueError, match="the text for the haystack is empty; give a file with some sentences"):
        Haystack.of_text(" \n", random.Random(0))


def test_needles_are_hidden_between_sentences_in_order() -> None:
    assert hide(["N", "M"], [0.0, 1.0], ["a", "b"]) == ["N", "a", "b", "M"]
    assert hide(["N", "M"], [0.5, 0.6], ["a", "b"]) == ["a", "N", "M", "b"]
    assert hide(["N"], [0.3], []) == ["N"]
    drawn = depths(random.Random(2), 4)
    assert [int(4 * depth) for depth in drawn] == [0, 1, 2, 3]


def test_words_are_different_ones() -> None:
    assert len(set(ADJECTIVES)) == len(ADJECTIVES) > 200
    assert len(set(NOUNS)) == len(NOUNS) > 200


# tracking and counting


@pytest.mark.parametrize(("chains", "hops"), [(1, 4), (3, 2)])
def test_following_the_assignments_gives_the_variables_that_are_expected(chains: int, hops: int) -> None:
    sample = generate("variable_tracking", RulerOptions(chains=chains, hops=hops), words_of, 2000)
    example, text = sample.prompt.split("Follow the variables")[1:]
    for part, prefix in ((example, None), (text, sample.answer_prefix)):
        values: dict[str, str] = {}
        for name, source in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)\.", part):
            values[name] = values.get(source, source)
        asked = re.search(r"have the value (\d+)\?", part)
        assert asked is not None
        found = [name for name, value in values.items() if value == asked[1]]
        if prefix is None:
            assert part.strip().endswith(f"have the value {asked[1]}: {', '.join(found)}")
        else:
            assert found == list(sample.expected)
            assert len(found) == hops + 1
            assert len(values) == chains * (hops + 1)


@pytest.mark.parametrize(("length", "often", "rarely"), [(2200, 30, 3), (600, 6, 1)])
def test_the_common_words_are_the_ten_that_occur_most_often(length: int, often: int, rarely: int) -> None:
    sample = generate("common_words", RulerOptions(), words_of, length)
    listed = Counter(re.findall(r"\d+\. (\S+)", sample.prompt.split("\n\n")[-2]))
    common = {word for word, n in listed.items() if n == often}
    assert common == set(sample.expected)
    assert len(common) == 10
    assert max(n for word, n in listed.items() if word not in common) == rarely


@pytest.mark.parametrize("alpha", [1.5, 2.0, 3.0])
def test_the_frequent_words_fall_as_a_power_and_three_are_expected(alpha: float) -> None:
    sample = generate("frequent_words", RulerOptions(alpha=alpha), words_of, 3000)
    listed = Counter(sample.prompt.split("\n\n")[1].split()).most_common()
    assert listed[0][0] == "..."
    assert tuple(word for word, _ in listed[1:4]) == sample.expected
    counts = [n for _, n in listed]
    assert counts[3] > counts[4]
    assert counts[1] / counts[0] == pytest.approx(2**-alpha, rel=0.02)


def test_zeta_is_what_it_is_known_to_be() -> None:
    assert zeta(2.0) == pytest.approx(math.pi**2 / 6, rel=1e-12)
    assert zeta(4.0) == pytest.approx(math.pi**4 / 90, rel=1e-12)
    assert zeta(1.5) == pytest.approx(2.6123753486854883, rel=1e-9)


@pytest.mark.parametrize(("name", "value", "least"), [("needles", 1, 2), ("chains", 0, 1), ("hops", 0, 1)])
def test_options_out_of_range_are_refused(name: str, value: int, least: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be {least} or more, not {value}"):
        RulerOptions(**{name: value})  # type: ignore[arg-type]


def test_alpha_must_be_more_than_one() -> None:
    with pytest.raises(ValueError, match="alpha must be more than 1, not 1"):
        RulerOptions(alpha=1)


# questions about documents


def test_the_questions_document_is_there_as_a_whole_between_others() -> None:
    sample = generate("qa", WITH_QA, words_of, 1500)
    texts = re.split(r"Document \d+:\n", sample.prompt)
    assert DOCUMENTS[0].text in sample.prompt
    assert len(texts) > 8
    assert sample.answer_prefix == "Answer:"
    assert sample.match == "part"


def test_a_text_ends_where_the_documents_do() -> None:
    sample = generate("qa", WITH_QA, words_of, 100_000)
    assert all(document.text in sample.prompt for document in DOCUMENTS)
    assert words_of(sample) < 100_000


@pytest.fixture
def questions_file(tmp_path: Path) -> Callable[..., str]:
    def write(*lines: object) -> str:
        file = tmp_path / "questions.jsonl"
        file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
        return str(file)

    return write


def test_questions_name_a_document_or_bring_their_text(questions_file: Callable[..., str]) -> None:
    asked = questions_file(
        {"question": "Q1?", "answers": ["a", "b"], "document": "acorn.txt"},
        "",
        {"question": "Q2?", "answer": "c", "context": "Some text."},
        {"question": "Q3?", "answers": "d", "context": "Some text."},
    )
    first, second, third = read_questions(asked, DOCUMENTS)
    assert (first.text, first.answers, first.document) == ("Q1?", ("a", "b"), DOCUMENTS[0])
    assert (second.answers, second.document.text) == (("c",), "Some text.")
    assert third.document == second.document
    alone = questions_file({"question": "Q?", "answers": ["a"]})
    assert read_questions(alone, DOCUMENTS[:1])[0].document == DOCUMENTS[0]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 is not a JSON object"),
        ({"answers": ["a"]}, "line 2: 'question' is missing"),
        ({"question": 3, "answers": ["a"]}, "line 2: 'question' must be a string that is not empty"),
        ({"question": "Q?"}, "line 2: 'answers' must be a string or a list of strings, none of them empty"),
        ({"question": "Q?", "answers": []}, "line 2: 'answers' must be a string or a list of strings, none of them empty"),
        (
            {"question": "Q?", "answers": ["a"], "document": "b.txt"},
            "line 2: there is no document 'b.txt'; there are ",
        ),
        ({"question": "Q?", "answers": ["a"]}, "line 2: 'document' .* or 'context' .* is missing"),
    ],
)
def test_a_wrong_question_is_named_by_file_and_line(line: object, sentence: str, questions_file: Callable[..., str]) -> None:
    file = questions_file({"question": "Q?", "answers": ["a"], "context": "Text."}, line)
    with pytest.raises(ValueError, match=f"questions.jsonl, {sentence}"):
        read_questions(file, DOCUMENTS[:2])


def test_a_file_without_questions_and_unusable_documents_are_refused(
    tmp_path: Path, questions_file: Callable[..., str]
) -> None:
    with pytest.raises(ValueError, match="questions.jsonl has no questions; give one JSON object"):
        read_questions(questions_file(""), DOCUMENTS)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text.txt").write_text("x" if name == "a" else " ")
    with pytest.raises(ValueError, match="two documents are called text.txt; rename one of them"):
        read_documents([str(tmp_path / "a" / "text.txt"), str(tmp_path / "b" / "text.txt")])
    with pytest.raises(ValueError, match="the document .*text.txt is empty; leave it out"):
        read_documents([str(tmp_path / "b" / "text.txt")])


# scores


def test_the_score_is_the_share_of_the_strings_that_occur_whatever_their_case() -> None:
    sample = Sample("", "", ("Amber-Lamp", "1234567", "x", "y"), 8)
    assert score(sample, "an amber-lamp, and 1234567.") == 0.5
    assert score(sample, "") == 0.0
    assert score(Sample("", "", ("one", "two"), 8), "TWO ONE") == 1.0


def test_one_of_several_answers_about_a_document_is_enough() -> None:
    sample = Sample("", "", ("Paris", "the capital"), 8, "part")
    assert score(sample, "It is paris.") == 1.0
    assert score(sample, "It is Rome.") == 0.0


# the command


def test_columns_are_scored_over_all_samples_and_by_task_type(in_process: InProcess) -> None:
    arguments = ["-m", MODEL, "-t", "1", "--columns", "none,asymkv-exact@256", "--lengths", "700,1000", "-n", "1", "--json"]
    code, out, err = in_process(*arguments, "--tasks", "niah_single,niah_multikey", "--needles", "2", "--work", "work")
    assert code == 0, err
    report = json.loads(out)
    assert [metric["name"] for metric in report["metrics"]] == ["score", "niah_single", "niah_multikey"]
    assert [column["column"] for column in report["columns"]] == ["none", "asymkv-exact@256"]
    samples = report["columns"][0]["samples"]
    assert list(samples) == ["niah_single/700/0", "niah_single/1000/0", "niah_multikey/700/0", "niah_multikey/1000/0"]
    assert all(0 <= values["score"] <= 1 for values in samples.values())
    assert all(set(values) == {"score", name.split("/")[0]} for name, values in samples.items())
    assert report["columns"][0]["metrics"]["niah_single"]["value"]["n"] == 2
    assert report["settings"]["chat"] is True
    code, again, err = in_process(*arguments, "--tasks", "niah_single,niah_multikey", "--needles", "2", "--work", "work")
    assert code == 0
    assert json.loads(again)["columns"] == report["columns"]
    assert "8 of 8 results are in the work directory" in err


def test_of_the_questions_about_a_document_all_are_asked_but_none_twice(in_process: InProcess, tmp_path: Path) -> None:
    document = recall.make_document(seed=1, tokens=600, facts=4, mentioned=0)
    (tmp_path / "codes.txt").write_text(document.text)
    questions = [{"question": q.prompt.strip(), "answers": [q.answer.strip()]} for q in document.questions]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, questions)))
    code, out, err = in_process(
        "-m", MODEL, "-t", "1", "--columns", "none", "--tasks", "qa", "--lengths", "2000", "-f", "codes.txt",
        "--questions", "q.jsonl", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert list(json.loads(out)["columns"][0]["samples"]) == [f"qa/2000/{i}" for i in range(4)]


def test_a_table_has_a_column_for_each_task_type(in_process: InProcess) -> None:
    code, out, err = in_process(
        "-m", MODEL, "-t", "1", "--columns", "none", "--tasks", "niah_single,frequent_words", "--lengths", "800", "-n", "1"
    )
    assert code == 0, err
    assert re.match(r"\| column .*\| score .*\| niah_single .*\| frequent_words", out)
    assert "2 samples" in out


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--tasks", "niah"], 2, "RULER has no task 'niah'; there are niah_single, "),
        (["--tasks", "qa"], 2, "the task qa needs --questions FILE"),
        (["--tasks", ","], 2, "the list is empty"),
        (["--lengths", "4k"], 2, "'4k' is no list of lengths such as 4096,8192"),
        (["--lengths", "50", "--tasks", "niah_single"], 1, "niah_single takes at least "),
        (["-f", "nothing.txt"], 1, "text file nothing.txt cannot be read: No such file or directory"),
    ],
)
def test_wrong_uses_are_one_sentence(arguments: list[str], code: int, sentence: str, in_process: InProcess) -> None:
    got, out, err = in_process("-m", MODEL, "-t", "1", "--columns", "none", *arguments)
    assert (got, out) == (code, "")
    assert sentence in err


def test_a_class_refuses_what_it_cannot_generate() -> None:
    from asymkv_gguf.eval.ruler.task import Ruler

    llm: Any = vocabulary(str(MODEL))
    try:
        with pytest.raises(ValueError, match="RULER has no task 'x'; there are niah_single"):
            Ruler(llm, ["x"], [1000], 1, RulerOptions())
        with pytest.raises(ValueError, match="the task qa needs questions"):
            Ruler(llm, ["qa"], [1000], 1, RulerOptions())
    finally:
        llm.close()


def test_the_prompt_ends_with_the_answers_first_words() -> None:
    from asymkv_gguf.eval.ruler.task import Ruler

    llm: Llama = vocabulary(str(MODEL))
    try:
        for chat in (True, False):
            (sample,) = Ruler(llm, ["niah_single"], [900], 1, RulerOptions(), chat=chat).samples()
            assert llm.detokenize(list(sample.tokens)).decode().endswith(sample.question.answer_prefix)
    finally:
        llm.close()
