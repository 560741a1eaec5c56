"""LongBench's 21 tasks: how each is asked, and what measures it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from . import metrics
from .chinese import has_jieba
from .metrics import Metric

_NEED_JIEBA: Final = (metrics.qa_f1_zh, metrics.rouge_zh)


@dataclass(frozen=True)
class Kind:
    """One task."""

    metric: Metric
    chat: bool = True  # in the model's chat template
    first_line: bool = False  # only the answer's first line counts

    @property
    def needs_jieba(self) -> bool:
        return self.metric in _NEED_JIEBA

    @property
    def needs_classes(self) -> bool:
        return self.metric is metrics.classification


def _few_shot(metric: Metric) -> Kind:
    return Kind(metric, chat=False, first_line=True)


_CODE: Final = Kind(metrics.code_similarity, chat=False)

TASKS: Final[dict[str, Kind]] = {
    # questions about one document
    "narrativeqa": Kind(metrics.qa_f1),
    "qasper": Kind(metrics.qa_f1),
    "multifieldqa_en": Kind(metrics.qa_f1),
    "multifieldqa_zh": Kind(metrics.qa_f1_zh),
    # about several
    "hotpotqa": Kind(metrics.qa_f1),
    "2wikimqa": Kind(metrics.qa_f1),
    "musique": Kind(metrics.qa_f1),
    "dureader": Kind(metrics.rouge_zh),
    # summaries
    "gov_report": Kind(metrics.rouge),
    "qmsum": Kind(metrics.rouge),
    "multi_news": Kind(metrics.rouge),
    "vcsum": Kind(metrics.rouge_zh),
    # examples first
    "trec": _few_shot(metrics.classification),
    "triviaqa": _few_shot(metrics.qa_f1),
    "samsum": _few_shot(metrics.rouge),
    "lsht": _few_shot(metrics.classification),
    # synthetic
    "passage_count": Kind(metrics.count),
    "passage_retrieval_en": Kind(metrics.retrieval),
    "passage_retrieval_zh": Kind(metrics.retrieval_zh),
    # code
    "lcc": _CODE,
    "repobench-p": _CODE,
}


def base_name(name: str) -> str:
    """Of a file of LongBench-E, which has the same task in other lengths: `hotpotqa` for `hotpotqa_e`."""
    return name.removesuffix("_e")


def kind_of(name: str) -> Kind:
    """ValueError in one sentence if there is no such task."""
    if base_name(name) not in TASKS:
        raise ValueError(f"LongBench has no task {name!r}; there are {', '.join(TASKS)}")
    return TASKS[base_name(name)]


def check_jieba(names: Iterable[str]) -> None:
    """ValueError if one of the tasks needs jieba, and it is not installed."""
    chinese = [name for name in names if kind_of(name).needs_jieba]
    if chinese and not has_jieba():
        raise ValueError(
            f"{', '.join(chinese)}: Chinese answers are measured in jieba's words; pip install 'asymkv-gguf[eval]', "
            "or leave these tasks out (--tasks)"
        )
