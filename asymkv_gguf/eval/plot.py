"""Quality against bytes, one line for each policy; and a needle's heat maps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")  # a file is written, no window opened

from matplotlib import pyplot as plt

from .bootstrap import Interval
from .columns import FULL
from .needle import Needle
from .report import Report, Row
from .task import Metric

# as many markers as are no divisor of the colours, so that no two lines look alike
_COLORS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#f0e442")
_FULL_COLORS: Final = ("#000000", "#666666", "#aaaaaa")
_MARKERS: Final = "o^sDvPX<>"


def plot_frontier(report: Report, title: str, path: Path) -> None:
    """Writes a PNG: the task's first metric against the bytes of keys and values; the full cache is a dashed line.

    What is no share is drawn as the difference to the full cache, whose interval does not tell how texts differ.
    """
    metric = report.metrics[0]
    lines: dict[str, list[Row]] = {}
    for row in report.rows:
        lines.setdefault(row.column.line, []).append(row)
    apart = FULL in lines and not metric.is_share
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    full = merged = 0
    for label, rows in lines.items():
        if rows[0].column.is_full:
            color, marker, full = _FULL_COLORS[full % len(_FULL_COLORS)], _MARKERS[-1 - full % len(_MARKERS)], full + 1
        else:
            color, marker, merged = _COLORS[merged % len(_COLORS)], _MARKERS[merged % len(_MARKERS)], merged + 1
        in_order = sorted(rows, key=lambda row: row.kv_bytes)
        _draw(axes, label, in_order, [_shown(row, metric, apart) for row in in_order], color, marker)
        if label == FULL:
            axes.axhline(_shown(rows[0], metric, apart).mean, color="#000000", linestyle="--", linewidth=0.8)
    axes.set_xscale("log", base=2)
    what = f"{metric.title}, difference to the full cache" if apart else metric.title
    axes.set(xlabel="keys and values for the longest text, MiB", ylabel=what, title=title)
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=110, format="png")
    plt.close(figure)


def _shown(row: Row, metric: Metric, apart: bool) -> Interval:
    cell = row.cells[metric.name]
    return cell.difference if apart and cell.difference is not None else cell.value


def _draw(axes: Any, label: str, rows: Sequence[Row], values: Sequence[Interval], color: str, marker: str) -> None:
    axes.errorbar(
        [row.kv_bytes / 2**20 for row in rows],
        [value.mean for value in values],
        # a mean may lie outside by rounding
        yerr=[[max(0.0, value.mean - value.low) for value in values], [max(0.0, value.high - value.mean) for value in values]],
        capsize=2,
        elinewidth=0.8,
        label=label,
        color=color,
        marker=marker,
        linestyle="none" if rows[0].column.is_full else "-",
    )


def plot_heat_maps(report: Report, task: Needle, path: Path) -> None:
    """Writes a PNG: depth x length for each column, in the colours of one scale."""
    across = min(4, len(report.rows))
    down = -(-len(report.rows) // across)
    figure, panels = plt.subplots(down, across, figsize=(3.2 * across, 2.6 * down), layout="constrained", squeeze=False)
    for row, axes in itertools.zip_longest(report.rows, panels.flat):
        if row is None:
            axes.set_axis_off()
            continue
        found = {one.key.sample: one.values["found"] for one in report.outcome.by_column[row.column.label]}
        image = axes.imshow(task.grid(found), vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axes.set_xticks(range(len(task.lengths)), [f"{length:,}" for length in task.lengths], fontsize="small")
        axes.set_yticks(range(len(task.depths)), [f"{depth:.0%}" for depth in task.depths], fontsize="small")
        axes.set_title(row.column.label, fontsize="small")
    figure.supxlabel("tokens of the text")
    figure.supylabel("depth of the needle")
    figure.colorbar(image, ax=panels.ravel().tolist(), label="found")
    figure.savefig(path, dpi=110, format="png")
    plt.close(figure)
