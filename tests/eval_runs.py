"""Evaluations of the packaged model, without the command."""

from __future__ import annotations

from typing import Any

from asymkv_gguf.cli.demo import MODEL
from asymkv_gguf.eval.columns import parse_columns
from asymkv_gguf.eval.results import Results
from asymkv_gguf.eval.runner import Engine, Outcome, run
from asymkv_gguf.eval.task import Task

ENGINE = Engine(str(MODEL), arguments={"n_threads": 1, "n_threads_batch": 1})


class Quiet:
    """A progress that keeps what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def start(self, total: int, done: int) -> None:
        self.notes.append(f"{done}/{total}")

    def step(self, what: str, n: int = 1) -> None:
        pass


def measured(task: Task[Any], columns: str, results: Results | None = None, engine: Engine = ENGINE) -> Outcome:
    return run(task, parse_columns(columns), engine, results if results is not None else Results(), Quiet())


def mean(outcome: Outcome, column: str, metric: str) -> float:
    values = [one.values[metric] for one in outcome.by_column[column]]
    return sum(values) / len(values)
