"""Decode speed and memory against depth, one line for each mode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")  # a file is written, no window opened

from matplotlib import pyplot as plt

# readable with any colour vision, and in grey
_STYLES: Final = {
    "stock": ("#d55e00", "o", "stock llama.cpp"),
    "off": ("#999999", "x", "this library, asymkv off"),
    "on": ("#0072b2", "^", "asymkv on"),
}


def plot(rows: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Writes a PNG from the rows of a report's JSON."""
    figure, (speed, memory) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for mode, (color, marker, label) in _STYLES.items():
        of_mode = sorted((row for row in rows if row["mode"] == mode), key=lambda row: int(row["depth"]))
        if not of_mode:
            continue
        depths = [row["depth"] for row in of_mode]
        # off is expected to lie on stock, which should be seen
        style = {"linestyle": "--" if mode == "off" else "-", "color": color, "marker": marker, "label": label}
        tps = [row["decode_tps"] for row in of_mode]
        spread = [[one["median"] - one["min"] for one in tps], [one["max"] - one["median"] for one in tps]]
        # the middle of all tokens may lie beside the middles of the repetitions
        below, above = ([max(0.0, one) for one in side] for side in spread)
        speed.errorbar(depths, [one["median"] for one in tps], yerr=[below, above], capsize=3, **style)
        kv = [(row["kv_bytes"] or 0) + row["table_bytes"] for row in of_mode]
        # a stock cache is allocated for the deepest row; at less depth it would need less
        used = [row["slots"] * row["slot_bytes"] if mode != "on" else size for row, size in zip(of_mode, kv, strict=True)]
        memory.plot(depths, [size / 2**20 for size in used], **style)
    speed.set(xlabel="depth, tokens", ylabel="decode, tokens per second", title="Decode")
    memory.set(xlabel="depth, tokens", ylabel="KV cache and tables, MiB", title="Memory")
    for axes in (speed, memory):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=110, format="png")
    plt.close(figure)
