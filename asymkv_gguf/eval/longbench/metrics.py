"""LongBench's metrics, as its published scores define them: oddities included, since figures are to be compared.

Each compares a prediction with one right answer, and gives 0 to 1.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from difflib import SequenceMatcher

from . import chinese
from .rouge_l import rouge_l

Metric = Callable[[str, str, Sequence[str]], float]  # prediction, right answer, all classes

_ASCII = frozenset(string.punctuation)
_CHINESE = frozenset(
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."  # noqa: RUF001
)


def qa_f1(prediction: str, truth: str, classes: Sequence[str] = ()) -> float:
    """F1 of words: case, punctuation and articles do not count, nor does their order."""
    return _f1(_english_words(prediction), _english_words(truth))


def qa_f1_zh(prediction: str, truth: str, classes: Sequence[str] = ()) -> float:
    """F1 of jieba's words, without punctuation."""
    return _f1(_chinese_words(prediction), _chinese_words(truth))


def rouge(prediction: str, truth: str, classes: Sequence[str] = ()) -> float:
    return rouge_l(prediction, truth)


def rouge_zh(prediction: str, truth: str, classes: Sequence[str] = ()) -> float:
    """ROUGE-L of jieba's words. A Chinese text without an ASCII full stop is one sentence."""
    return rouge_l(" ".join(chinese.words(prediction)), " ".join(chinese.words(truth)))


def classification(prediction: str, truth: str, classes: Sequence[str] = ()) -> float:
    """1 where the right class is named, or a share of it where others are named too.

    A class whose name is part of the right one's is not counted, except that of two such neighbours the second is.
    """
    named = [name for name in classes if name in prediction]
    for name in named:  # LongBench removes while it goes through the same list, which leaves out the next one
        if name in truth and name != truth:
            named.remove(name)
    return 1 / len(named) if truth in named else 0.0


def retrieval(prediction: str, truth: str, classes: Sequence[str] = ()) -> float:
    """The share of the numbers in the prediction that are the one of `Paragraph N`."""
    return _share_of_number(prediction, _paragraph(r"Paragraph (\d+)", truth))


def retrieval_zh(prediction: str, truth: str, classes: Sequence[str] = ()) -> float:
    return _share_of_number(prediction, _paragraph(r"段落(\d+)", truth))


def count(prediction: str, truth: str, classes: Sequence[str] = ()) -> float:
    """The share of the numbers in the prediction that are the right one."""
    return _share_of_number(prediction, truth)


def code_similarity(prediction: str, truth: str, classes: Sequence[str] = ()) -> float:
    """Similarity, in whole per cent, of the first line that is no comment and no fence of a code block."""
    lines = prediction.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")
    return similarity(line, truth)


def similarity(a: str, b: str) -> float:
    """The ratio of the package fuzzywuzzy, with which LongBench compares code: difflib's, in whole per cent."""
    if a == b:
        return 1.0
    if not a or not b:
        return 0.0
    return round(100 * SequenceMatcher(None, a, b).ratio()) / 100


def _english_words(text: str) -> list[str]:
    letters = "".join(c for c in text.lower() if c not in _ASCII)
    return re.sub(r"\b(a|an|the)\b", " ", letters).split()


def _chinese_words(text: str) -> list[str]:
    words = ("".join(c for c in word.lower() if c not in _ASCII and c not in _CHINESE) for word in chinese.words(text))
    return [kept for word in words if (kept := "".join(word.split()))]


def _f1(prediction: Sequence[str], truth: Sequence[str]) -> float:
    n_common = (Counter(prediction) & Counter(truth)).total()
    if n_common == 0:
        return 0.0
    precision, recall = n_common / len(prediction), n_common / len(truth)
    return 2 * precision * recall / (precision + recall)


def _share_of_number(prediction: str, number: str) -> float:
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(number) / len(numbers) if numbers else 0.0


def _paragraph(pattern: str, truth: str) -> str:
    match = re.search(pattern, truth)
    if match is None:
        raise ValueError(f"the right answer {truth!r} names no paragraph")
    return match[1]


def first_line(prediction: str) -> str:
    """What counts of an answer that goes on with more examples."""
    return prediction.lstrip("\n").split("\n")[0]


def best(metric: Metric, prediction: str, answers: Iterable[str], classes: Sequence[str] = ()) -> float:
    """The score for the answer that fits best."""
    return max([0.0, *(metric(prediction, answer, classes) for answer in answers)])
