"""LongBench's metrics on examples whose scores are worked out by hand, English and Chinese."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from rouge import Rouge

from asymkv_gguf.eval.longbench import chinese, metrics
from asymkv_gguf.eval.longbench.rouge_l import rouge_l
from asymkv_gguf.eval.longbench.tasks import TASKS

# questions


@pytest.mark.parametrize(
    ("prediction", "truth", "f1"),
    [
        ("The cat sat.", "a cat", 2 / 3),  # cat, sat against cat: precision 1/2, recall 1
        ("Paris", "paris!", 1.0),
        ("the a an", "the", 0.0),  # articles are nothing
        ("red red blue", "red blue blue", 2 / 3),  # as often as in both: red once, blue once
        ("", "x", 0.0),
        ("well-known", "well known", 0.0),  # a hyphen joins, it does not part
        ("It is in New York City", "New York", 4 / 8),  # precision 2/6, recall 1: 2 * 2 / (6 + 2)
    ],
)
def test_qa_f1_counts_words_without_case_articles_and_punctuation(prediction: str, truth: str, f1: float) -> None:
    assert metrics.qa_f1(prediction, truth) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("prediction", "truth", "f1"),
    [
        ("北京。", "北京", 1.0),
        ("今天天气很好", "今天天气", 2 * (1 / 3) / (1 / 3 + 1)),  # 今天天气 | 很 | 好
        ("北京》，上海！", "上海", 2 / 3),  # noqa: RUF001
        ("《上海》", "上海", 2 / 3),  # LongBench's punctuation has 》, but not 《
        ("上海", "北京", 0.0),
        ("", "北京", 0.0),
    ],
)
def test_qa_f1_in_chinese_counts_jiebas_words_without_punctuation(prediction: str, truth: str, f1: float) -> None:
    assert metrics.qa_f1_zh(prediction, truth) == pytest.approx(f1)


# summaries


@pytest.mark.parametrize(
    ("prediction", "truth", "precision", "recall"),
    [
        ("the cat sat", "the cat sat", 1, 1),
        ("the cat", "the dog and the cat", 2 / 2, 2 / 4),  # different words: the, dog, and, cat
        ("cat the", "the cat", 1 / 2, 1 / 2),  # in order, one alone
        ("w1 w2 w6 w7 w8. w1 w3 w8 w9 w5", "w1 w2 w3 w4 w5", 4 / 8, 4 / 5),  # the union over sentences, as in Lin's paper
        ("a a a b", "a b", 1, 1),  # repetitions do not count
        ("x y", "a b", 0, 0),
    ],
)
def test_rouge_l_compares_the_words_of_common_subsequences(
    prediction: str, truth: str, precision: float, recall: float
) -> None:
    f1 = 2 * precision * recall / (precision + recall) if precision else 0
    assert metrics.rouge(prediction, truth) == pytest.approx(f1, abs=1e-7)


def test_rouge_l_of_nothing_is_nothing() -> None:
    assert metrics.rouge("", "a b") == metrics.rouge("a b", "") == metrics.rouge("...", "a.") == 0


def test_rouge_l_in_chinese_compares_jiebas_words() -> None:
    assert metrics.rouge_zh("今天天气很好", "今天天气很好") == pytest.approx(1, abs=1e-7)
    # 今天 | 的 | 天气 | 非常 | 好 against 今天天气 | 很 | 好
    assert chinese.words("今天的天气非常好") == ["今天", "的", "天气", "非常", "好"]
    assert metrics.rouge_zh("今天的天气非常好", "今天天气很好") == pytest.approx(2 / 8, abs=1e-7)


def random_texts(seed: int, n: int) -> Sequence[tuple[str, str]]:
    rng = random.Random(seed)
    pieces = ["a ", "b ", "c ", "d ", "e ", ". ", ".", "f", "\n", "gh"]
    texts = ["".join(rng.choices(pieces, k=rng.randrange(30))) for _ in range(2 * n)]
    return list(zip(texts[:n], texts[n:], strict=True))


def test_rouge_l_is_that_of_the_package_that_longbench_uses() -> None:
    rouge = Rouge()
    for prediction, truth in random_texts(1, 300):
        try:
            official = rouge.get_scores([prediction], [truth], avg=True)["rouge-l"]["f"]
        except ValueError:  # no sentence
            official = 0.0
        assert rouge_l(prediction, truth) == official, (prediction, truth)


def test_rouge_l_of_long_sentences_does_not_recurse() -> None:
    text = " ".join(f"word{i}" for i in range(1200))
    assert rouge_l(text, text) == pytest.approx(1, abs=1e-7)


# classes


@pytest.mark.parametrize(
    ("prediction", "truth", "classes", "value"),
    [
        ("Type: City", "City", ["City", "Country"], 1.0),
        ("City or Country", "City", ["City", "Country"], 1 / 2),
        ("Country", "City", ["City", "Country"], 0.0),
        ("none of them", "City", ["City", "Country"], 0.0),
        ("Other location", "Other location", ["Other", "Other location", "Country"], 1.0),  # a part of the right name
        ("ab abc", "abc", ["a", "ab", "abc"], 1 / 2),  # of two neighbours that are parts, the second is left
    ],
)
def test_classification_wants_the_right_class_and_no_other(
    prediction: str, truth: str, classes: list[str], value: float
) -> None:
    assert metrics.classification(prediction, truth, classes) == value


# numbers


@pytest.mark.parametrize(
    ("metric", "prediction", "truth", "value"),
    [
        (metrics.count, "There are 7 paragraphs.", "7", 1.0),
        (metrics.count, "7 of 30", "7", 1 / 2),
        (metrics.count, "17", "7", 0.0),
        (metrics.count, "seven", "7", 0.0),
        (metrics.retrieval, "Paragraph 3", "Paragraph 3", 1.0),
        (metrics.retrieval, "3, 4 or 3", "Paragraph 3", 2 / 3),
        (metrics.retrieval, "", "Paragraph 3", 0.0),
        (metrics.retrieval_zh, "段落12", "段落12", 1.0),
        (metrics.retrieval_zh, "段落1和段落12", "段落12", 1 / 2),
    ],
)
def test_numbers_in_the_prediction_are_compared_with_the_right_one(
    metric: metrics.Metric, prediction: str, truth: str, value: float
) -> None:
    assert metric(prediction, truth, ()) == value


# code


def test_code_is_compared_by_the_first_line_that_is_no_comment() -> None:
    assert metrics.code_similarity("\n\n# note\n```python\nreturn x\nreturn y", "return x") == 1.0
    assert metrics.code_similarity("// all\n# comments", "return x") == 0.0
    assert metrics.code_similarity("abcd\nbcde", "bcde") == 0.75


@pytest.mark.parametrize(
    ("a", "b", "ratio"),
    [
        ("abcd", "bcde", 0.75),  # bcd: 2 * 3 / 8
        ("return a + b", "return a - b", 0.92),  # 11 of 12 on both sides: 0.9167, in whole per cent
        ("same", "same", 1.0),
        ("", "", 1.0),
        ("", "x", 0.0),
        ("ab", "ba", 0.5),
    ],
)
def test_similarity_is_a_ratio_in_whole_per_cent(a: str, b: str, ratio: float) -> None:
    assert metrics.similarity(a, b) == ratio


@pytest.mark.parametrize(
    ("a", "b", "percent"),
    [
        ("return a + b", "return b + a", 83),
        ("for i in range(10):", "for j in range(n):", 86),
        ("", "x", 0),
        ("same", "same", 100),
        ("int main() {", "void main(int argc) {", 61),
        ("x" * 250 + "abc", "abc" + "x" * 250, 1),
        ("self.value = value", "self._value = None", 78),
        ("你好世界", "世界你好", 50),
    ],
)
def test_similarity_is_that_of_the_package_that_longbench_uses(a: str, b: str, percent: int) -> None:
    """fuzzywuzzy 0.18.0, whose licence keeps it out of the test extra."""
    assert metrics.similarity(a, b) == percent / 100


# all of them


def test_the_best_of_several_answers_counts() -> None:
    assert metrics.best(metrics.qa_f1, "Paris", ["Rome", "Paris, France", "London"]) == pytest.approx(2 / 3)
    assert metrics.best(metrics.qa_f1, "Paris", []) == 0


def test_of_few_shot_answers_the_first_line_counts() -> None:
    assert metrics.first_line("\n\nParis\nQuestion: next") == "Paris"
    assert metrics.first_line("") == ""


def test_each_of_the_21_tasks_has_its_metric() -> None:
    by_metric: dict[Callable[..., float], set[str]] = {}
    for name, kind in TASKS.items():
        by_metric.setdefault(kind.metric, set()).add(name)
    assert by_metric == {
        metrics.qa_f1: {"narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique", "triviaqa"},
        metrics.qa_f1_zh: {"multifieldqa_zh"},
        metrics.rouge: {"gov_report", "qmsum", "multi_news", "samsum"},
        metrics.rouge_zh: {"dureader", "vcsum"},
        metrics.classification: {"trec", "lsht"},
        metrics.retrieval: {"passage_retrieval_en"},
        metrics.retrieval_zh: {"passage_retrieval_zh"},
        metrics.count: {"passage_count"},
        metrics.code_similarity: {"lcc", "repobench-p"},
    }
    assert {name for name, kind in TASKS.items() if kind.first_line} == {"trec", "triviaqa", "samsum", "lsht"}
    without_template = {"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"}
    assert {name for name, kind in TASKS.items() if not kind.chat} == without_template
    assert {name for name, kind in TASKS.items() if kind.needs_jieba} == {"multifieldqa_zh", "dureader", "vcsum"}
