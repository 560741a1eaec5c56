"""ROUGE-L as LongBench has it: that of the Python package `rouge` 1.0.1, summary level over different words.

Sentences end at full stops. Of each pair of sentences the longest common subsequence is taken, and the union of the words
in them is compared with the words of each text. The package itself gives up on sentences of some hundred words, where it
recurses too deep, and LongBench counts 0 then; here they are compared as well.
"""

from __future__ import annotations

from collections.abc import Sequence


def rouge_l(prediction: str, truth: str) -> float:
    """F1; 0 where one of both has no sentence."""
    predicted, expected = _sentences(prediction), _sentences(truth)
    if not predicted or not expected:
        return 0.0
    common: set[str] = set()
    for sentence in expected:
        for other in predicted:
            common.update(_longest_common_subsequence(sentence, other))
    precision = len(common) / len({word for sentence in predicted for word in sentence})
    recall = len(common) / len({word for sentence in expected for word in sentence})
    return 2 * precision * recall / (precision + recall + 1e-8)


def _sentences(text: str) -> list[list[str]]:
    # a sentence of blanks has one word, the empty one: so it is counted there
    return [" ".join(sentence.split()).split(" ") for sentence in text.split(".") if sentence]


def _longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """Its words. Of several as long, the one that drops the end of `b` first."""
    lengths = [[0] * (len(b) + 1)]
    for word in a:
        above, row = lengths[-1], [0]
        for j, other in enumerate(b):
            row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
        lengths.append(row)
    found = []
    i, j = len(a), len(b)
    while i > 0 and j > 0:
        if a[i - 1] == b[j - 1]:
            found.append(a[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found[::-1]
