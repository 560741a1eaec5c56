"""What was measured: each column's means with their intervals, and how far they are from the full cache's."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..markdown_table import table
from ..stats import size_text
from .bootstrap import LEVEL, Interval, interval, paired_difference
from .columns import FULL, Column
from .results import Result
from .runner import Outcome
from .task import Metric

_ENDS = ("mean", "low", "high")


@dataclass(frozen=True)
class Cell:
    """One metric of one column; the difference is to the full cache, on the same samples."""

    value: Interval
    difference: Interval | None


@dataclass(frozen=True)
class Row:
    """One column. Slots and bytes are as allocated for the longest sample."""

    column: Column
    slots: int
    kv_bytes: int
    seconds: float  # of all samples
    cells: Mapping[str, Cell]


class Report:
    """The outcome of one evaluation, as a table, JSON or CSV."""

    def __init__(
        self, task: str, metrics: Sequence[Metric], columns: Sequence[Column], outcome: Outcome, settings: Mapping[str, Any]
    ) -> None:
        self.task, self.metrics, self.outcome, self.settings = task, metrics, outcome, settings
        full = outcome.by_column.get(FULL, [])
        self.rows = [_row(one, outcome.by_column[one.label], full, metrics) for one in columns if outcome.by_column[one.label]]

    def text(self) -> str:
        """For people: a Markdown table, and a line about it."""
        has_full = any(row.column.label == FULL for row in self.rows)
        titles = ["column", "slots", "KV cache"]
        for metric in self.metrics:
            titles += [metric.title, *([f"to {FULL}"] if has_full else [])]
        body = [_line(row, self.metrics, has_full) for row in self.rows]
        n = self.outcome.n_samples
        note = f"{n:,} sample{'s' * (n != 1)}; in brackets: {LEVEL:.0%} intervals (bootstrap over samples)"
        return f"{table(titles, body)}\n\n{note}"

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {
            "version": __version__,
            "eval": self.task,
            "settings": {**self.settings, "n_batch": self.outcome.n_batch},
            "metrics": [dataclasses.asdict(metric) for metric in self.metrics],
            "columns": [
                {
                    "column": row.column.label,
                    "policy": row.column.policy,
                    "kv_type": row.column.kv_type,
                    **{name: getattr(row, name) for name in ("slots", "kv_bytes", "seconds")},
                    "metrics": {name: dataclasses.asdict(cell) for name, cell in row.cells.items()},
                    "samples": {one.key.sample: one.values for one in self.outcome.by_column[row.column.label]},
                }
                for row in self.rows
            ],
        }

    def json(self) -> str:
        return json.dumps(self.as_dict(), ensure_ascii=False)

    def csv(self) -> str:
        """One line for each column and metric."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        sizes = ["slots", "kv_bytes"]
        differences = [f"difference_{end}" for end in _ENDS]
        writer.writerow(["column", "policy", "kv_type", *sizes, "metric", "n", *_ENDS, *differences])
        for row in self.rows:
            head = [row.column.label, row.column.policy, row.column.kv_type, *(getattr(row, size) for size in sizes)]
            for name, cell in row.cells.items():
                ends = [getattr(cell.value, end) for end in _ENDS]
                apart = [getattr(cell.difference, end) if cell.difference is not None else "" for end in _ENDS]
                writer.writerow([*head, name, cell.value.n, *ends, *apart])
        return out.getvalue().rstrip("\n")


def _row(column: Column, results: Sequence[Result], full: Sequence[Result], metrics: Sequence[Metric]) -> Row:
    reference = {one.key.sample: one.values for one in full}
    cells = {}
    for metric in metrics:
        own = [one for one in results if metric.name in one.values]  # a metric may be of some samples only
        values = [one.values[metric.name] for one in own]
        theirs = [reference[one.key.sample][metric.name] for one in own if one.key.sample in reference]
        difference = paired_difference(values, theirs) if len(theirs) == len(values) else None
        cells[metric.name] = Cell(interval(values), difference)
    return Row(
        column,
        slots=max(one.slots for one in results),
        kv_bytes=max(one.kv_bytes for one in results),
        seconds=sum(one.seconds for one in results),
        cells=cells,
    )


def _line(row: Row, metrics: Sequence[Metric], has_full: bool) -> list[str]:
    cells = [row.column.label, f"{row.slots:,}", size_text(row.kv_bytes)]
    for metric in metrics:
        cell = row.cells[metric.name]
        cells.append(_text(cell.value, metric))
        if has_full:
            apart = cell.difference if row.column.label != FULL else None
            cells.append(_text(apart, metric, sign=True) if apart is not None else "")
    return cells


def _text(value: Interval, metric: Metric, sign: bool = False) -> str:
    plus = "+" if sign else ""
    if metric.is_share:
        return f"{100 * value.mean:{plus}.1f} % [{100 * value.low:{plus}.1f}, {100 * value.high:{plus}.1f}]"
    mean, low, high = (_number(one, plus) for one in (value.mean, value.low, value.high))
    return f"{mean} [{low}, {high}]"


def _number(value: float, plus: str) -> str:
    return f"{value:{plus}.4f}" if abs(value) >= 0.1 or value == 0 else f"{value:{plus}.2g}"
