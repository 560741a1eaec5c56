"""Likeness and sigma against the layer, and the map of cardinalities over layers, heads and the text."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")  # a file is written, no window opened

import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.lines import Line2D

from .report import BUCKETS, Report, bucket_name
from .statistics import TOLERABLE_SIGMA, Likeness, mean

# readable with any colour vision, and in grey
_STYLES: Final = {
    "attention": ("#0072b2", "o", "attention (Spearman over slots)"),
    "keys": ("#d55e00", "s", "keys (cosine)"),
    "values": ("#009e73", "^", "values (cosine)"),
}
_LOST: Final = "#e4e4e4"
_MAP_HEIGHT: Final = 8.0  # inches, at most


def plot(report: Report, path: Path) -> None:
    """Writes a PNG."""
    n_rows = len(report.heads)
    map_height = min(max(0.2 * n_rows, 2.0), _MAP_HEIGHT)
    figure = plt.figure(figsize=(12, 4.2 + map_height), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(3, 2), height_ratios=(3.8, map_height))
    layers = [heads[0].layer for heads in report.layers()]
    likeness = [mean([head.likeness for head in heads]) for heads in report.layers()]
    _draw_likeness(figure.add_subplot(grid[0, 0]), layers, likeness)
    _draw_sigma(figure.add_subplot(grid[0, 1]), layers, report)
    _draw_map(figure.add_subplot(grid[1, :]), report)
    figure.suptitle(report.heading())
    figure.savefig(path, dpi=110, format="png")
    plt.close(figure)


def _draw_likeness(axes: Axes, layers: list[int], likeness: list[Likeness]) -> None:
    for name, (color, marker, label) in _STYLES.items():
        contrasts = [getattr(one, name) for one in likeness]
        axes.plot(layers, [one.adjacent for one in contrasts], color=color, marker=marker, markersize=5, label=label)
        axes.plot(layers, [one.random for one in contrasts], color=color, linestyle=":")
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(xlabel="layer", title="Likeness of slots", ylim=(min(-0.1, axes.get_ylim()[0]), 1.03))
    control = Line2D([], [], color="#666666", linestyle=":", label="the same, paired at random")
    axes.legend(handles=[*axes.get_legend_handles_labels()[0], control], fontsize="small")
    _finish(axes, layers)


def _draw_sigma(axes: Axes, layers: list[int], report: Report) -> None:
    for kind, style in (("adjacent", {"marker": "o", "markersize": 5}), ("random", {"linestyle": ":"})):
        of_layers = [[getattr(head.likeness.sigma, kind) for head in heads] for heads in report.layers()]
        axes.plot(layers, [np.mean(one) for one in of_layers], color="#0072b2", label=kind, **style)
        if kind == "adjacent":
            lows, highs = [min(one) for one in of_layers], [max(one) for one in of_layers]
            axes.fill_between(layers, lows, highs, color="#0072b2", alpha=0.15, linewidth=0, label="heads, least to most")
    axes.axhline(
        TOLERABLE_SIGMA, color="#d55e00", linestyle="--", linewidth=1, label=f"{TOLERABLE_SIGMA}: below, merging beats evicting"
    )
    sigmas = [value for head in report.heads for value in vars(head.likeness.sigma).values()]
    if min(sigmas) > 0 and max(sigmas) > 8 * min(sigmas):  # some first layers have much sharper heads than all others
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    else:
        axes.set_ylim(bottom=0)
    axes.set(xlabel="layer", title="Sigma of two slots' logit gap")
    axes.legend(fontsize="small")
    _finish(axes, layers)


def _finish(axes: Axes, layers: list[int]) -> None:
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.set_xlim(layers[0] - 0.4, layers[-1] + 0.4)


def _draw_map(axes: Axes, report: Report) -> None:
    """One row for each head; a token has the colour of the slot that covers it."""
    colors = ListedColormap([_LOST, *plt.get_cmap("viridis_r")(np.linspace(0.08, 1, len(BUCKETS)))])
    edges = [-0.5, *(first - 0.5 for first, _ in BUCKETS), 1e9]
    norm = BoundaryNorm(edges, colors.N)
    image = axes.imshow(cardinality_map(report), aspect="auto", interpolation="nearest", cmap=colors, norm=norm)
    layers = report.layers()
    starts = list(itertools.accumulate(map(len, layers), initial=0))
    for start in starts[1:-1]:
        axes.axhline(start - 0.5, color="white", linewidth=0.8)
    step = -(-len(layers) // 16)
    middles = [(start + end - 1) / 2 for start, end in itertools.pairwise(starts)]
    axes.set_yticks(middles[::step], [str(heads[0].layer) for heads in layers[::step]])
    axes.set(xlabel="token", ylabel="layer, a line for each head")
    axes.set_title(f"Cardinality of the slot that covers a token; {report.footing()}")
    bar = axes.figure.colorbar(image, ax=axes, pad=0.01, boundaries=edges, fraction=0.03)
    bar.set_ticks(
        [(low + high) / 2 for low, high in itertools.pairwise(edges)],
        labels=["lost", *(bucket_name(*bucket) for bucket in BUCKETS)],
    )
    bar.ax.tick_params(length=0)


def cardinality_map(report: Report) -> npt.NDArray[Any]:
    """[heads, tokens]: the cardinality of the slot whose span holds a token; 0: none does."""
    covered = np.zeros((len(report.heads), report.n_tokens), np.int64)
    for row, head in zip(covered, report.heads, strict=True):
        for slot in head.slots:
            row[slot["first"] : slot["last"] + 1] = slot["cardinality"]
    return covered
