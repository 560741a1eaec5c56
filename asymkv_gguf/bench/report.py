"""What was measured: one row for each mode and depth; as JSON, CSV or Markdown."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from .. import __version__
from ..markdown_table import table
from ..stats import size_text
from .weights import ModelFacts


@dataclass(frozen=True)
class Spread:
    """A measurement that was repeated."""

    median: float
    min: float
    max: float
    n: int

    @classmethod
    def of(cls, values: list[float], middle: float | None = None) -> Spread:
        return cls(median(values) if middle is None else middle, min(values), max(values), len(values))

    def text(self, digits: int = 2) -> str:
        return f"{self.median:,.{digits}f} ({self.min:,.{digits}f}..{self.max:,.{digits}f})"


@dataclass(frozen=True)
class Row:
    """One mode at one depth. Sums over the prefill start at the text's first token."""

    mode: str
    depth: int
    position: int  # where the measurement really began: more than depth, where a merged cache could not go back
    slots: int  # live while decoding; of a stock cache: tokens
    capacity: int | None  # slots that a merged cache allocates
    prefill_tps: Spread | None  # of the last windows before the depth
    prefill_tokens: int  # read in prefill_seconds; what was decoded and could not be taken back is not among them
    prefill_read_tokens: int  # of these; the time of the others is interpolated
    prefill_seconds: float
    first_token_seconds: float  # all of the prefill, and a token
    decode_tps: Spread
    decode_tokens: int  # that were timed
    decode_compressing_tps: float | None  # with each token's part of a compression
    compressions: int | None  # during the prefill, as the next five
    observe_seconds: float | None
    plan_seconds: float | None
    merge_seconds: float | None
    compress_seconds: float | None  # all of it
    compress_share: float | None  # of the prefill's time
    kv_bytes: int | None
    slot_bytes: int
    table_bytes: int
    compute_buffer_bytes: int | None
    rss_bytes: int | None
    rss_anon_bytes: int | None  # without the mapped model file
    peak_rss_bytes: int | None
    token_bytes: int | None  # that one token must read: weights and live slots
    asymkv: dict[str, Any] | None
    reuse_seconds: Spread | None = None  # first token after a reused prefix
    bound_tps: float | None = None  # memory bandwidth / token_bytes
    bound_share: float | None = None  # decode_tps / bound_tps
    decode_of_reference: float | None = None  # decode_tps / stock's at the depth nearest to the capacity
    decode_of_stock: float | None = None  # decode_tps / stock's at the same depth
    prefill_of_stock: float | None = None  # prefill_seconds / stock's
    reuse_of_stock: float | None = None  # reuse_seconds / stock's


@dataclass
class Report:
    """The rows, and what has to be known to read them."""

    settings: dict[str, Any]
    model: ModelFacts | None = None
    bandwidth: float | None = None  # bytes per second
    bandwidth_method: str = "given"
    system: str = ""
    reference_depth: int | None = None
    rows: list[Row] = field(default_factory=list)

    def compare(self) -> None:
        """Fills in what sets a row in relation to the machine, and to stock."""
        if self.bandwidth:
            self.rows = [_bounded(row, self.bandwidth) for row in self.rows]
        stock = {row.depth: row for row in self.rows if row.mode == "stock"}
        capacity = next((row.capacity for row in self.rows if row.capacity), None)
        if not stock or capacity is None:
            return
        self.reference_depth = min(stock, key=lambda depth: abs(depth - capacity))
        reference = stock[self.reference_depth].decode_tps.median
        self.rows = [_compared(row, reference, stock.get(row.depth)) for row in self.rows]

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {
            "version": __version__,
            "machine": machine(),
            "system": self.system,
            "model": {name: value for name, value in dataclasses.asdict(self.model).items() if name != "heads"}
            if self.model is not None
            else None,
            "settings": self.settings,
            "bandwidth": {"bytes_per_second": self.bandwidth, "method": self.bandwidth_method if self.bandwidth else None},
            "reference_depth": self.reference_depth,
            "rows": [dataclasses.asdict(row) for row in self.rows],
        }

    def json(self) -> str:
        return json.dumps(self.as_dict(), ensure_ascii=False)

    def csv(self) -> str:
        """One line for each row, spreads in three columns."""
        flat = [_flat(row) for row in self.rows]
        out = io.StringIO()
        writer = csv.DictWriter(out, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
        return out.getvalue().rstrip("\n")

    def markdown(self) -> str:
        """Tables for people: speed, memory, prefix reuse."""
        heading = self.heading()
        if self.bandwidth:
            heading += f"; memory is read at {self.bandwidth / 1e9:.1f} GB/s ({self.bandwidth_method})"
        return "\n\n".join([heading, *(table for table in (self.speed(), self.memory(), self.reuse()) if table)])

    def heading(self) -> str:
        """The model and how it ran, in a line."""
        n_threads = self.settings["threads"]
        facts = [self.model.name if self.model is not None else "", f"{n_threads} thread{'s' * (n_threads != 1)}"]
        facts.append(f"K {self.settings['type_k']}, V {self.settings['type_v']}")
        if self.settings["sample"] > 1:
            facts.append(f"without merging one window in {self.settings['sample']} is read, the others' time is interpolated")
        return ", ".join(facts)

    def speed(self) -> str:
        reference = "of stock" if self.reference_depth is None else f"of stock at {self.reference_depth:,}"
        titles = ["mode", "depth", "slots", f"prefill {self.settings['prompt']} t/s", "decode t/s", reference]
        titles += ["bound t/s", "of bound", "first token s", "compressing"]
        return table(
            titles,
            [
                [
                    row.mode,
                    f"{row.position:,}",
                    f"{row.slots:,}",
                    row.prefill_tps.text(1) if row.prefill_tps is not None else "",
                    row.decode_tps.text(),
                    _times(row.decode_of_reference),
                    f"{row.bound_tps:.1f}" if row.bound_tps else "",
                    _percent(row.bound_share),
                    f"{row.first_token_seconds:,.2f}",
                    f"{row.compressions}x, {_percent(row.compress_share)}" if row.compressions else "",
                ]
                for row in self.rows
            ],
        )

    def memory(self) -> str:
        titles = ["mode", "depth", "KV", "tables", "compute buffers", "RSS", "without the file", "peak RSS", "bytes per token"]
        return table(
            titles,
            [
                [
                    row.mode,
                    f"{row.position:,}",
                    *map(_size, (row.kv_bytes, row.table_bytes, row.compute_buffer_bytes)),
                    *map(_size, (row.rss_bytes, row.rss_anon_bytes, row.peak_rss_bytes, row.token_bytes)),
                ]
                for row in self.rows
            ],
        )

    def reuse(self) -> str:
        """Empty, if it was not measured."""
        rows = [row for row in self.rows if row.reuse_seconds is not None]
        titles = ["mode", "depth", "first token after prefix reuse, ms", "of stock"]
        body = [
            [row.mode, f"{row.position:,}", _milliseconds(row.reuse_seconds), _times(row.reuse_of_stock)]
            for row in rows
            if row.reuse_seconds is not None
        ]
        return table(titles, body) if body else ""


def _bounded(row: Row, bandwidth: float) -> Row:
    if row.token_bytes is None:
        return row
    bound = bandwidth / row.token_bytes
    return dataclasses.replace(row, bound_tps=bound, bound_share=row.decode_tps.median / bound)


def _compared(row: Row, reference: float, stock: Row | None) -> Row:
    reuse = stock.reuse_seconds if stock is not None else None
    return dataclasses.replace(
        row,
        decode_of_reference=row.decode_tps.median / reference,
        decode_of_stock=row.decode_tps.median / stock.decode_tps.median if stock is not None else None,
        prefill_of_stock=row.prefill_seconds / stock.prefill_seconds if stock is not None and stock.prefill_seconds else None,
        reuse_of_stock=row.reuse_seconds.median / reuse.median if row.reuse_seconds is not None and reuse is not None else None,
    )


_SPREADS = ("prefill_tps", "decode_tps", "reuse_seconds")
_COLUMNS = [
    column
    for one in dataclasses.fields(Row)
    if one.name != "asymkv"  # in the JSON only
    for column in ([one.name, f"{one.name}_min", f"{one.name}_max"] if one.name in _SPREADS else [one.name])
]


def _flat(row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for one in dataclasses.fields(Row):
        value = getattr(row, one.name)
        if isinstance(value, Spread):
            flat.update({one.name: value.median, f"{one.name}_min": value.min, f"{one.name}_max": value.max})
        elif one.name != "asymkv":
            flat[one.name] = value
    return flat


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": _cpu_name(),
        "cpus": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "os": platform.platform(terse=True),
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _size(n_bytes: int | None) -> str:
    return size_text(n_bytes) if n_bytes else ""


def _milliseconds(seconds: Spread) -> str:
    return Spread(1e3 * seconds.median, 1e3 * seconds.min, 1e3 * seconds.max, seconds.n).text(1)
