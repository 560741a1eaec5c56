"""Measures what docs/performance.md says, and writes it there, with its plot.

    python benchmarks/performance.py [--quick] [--threads 2] [--work DIR] [--fresh] [--only f16,memory]

Each configuration's result is kept as JSON in the work directory: a run that was interrupted goes on with the next one, and
a run where all is there writes the page only. --quick measures small depths, to try the script: its page stays in the work
directory.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asymkv_gguf.bench.plot import plot
from asymkv_gguf.markdown_table import table
from asymkv_gguf.stats import size_text

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- performance.py: begin -->", "<!-- performance.py: end -->"
FLAT = 1.01  # peak memory at the last depth / at the first one


@dataclass(frozen=True)
class Size:
    """Depths in tokens: as deep as the merged cache, deeper, deepest."""

    reference: int
    shallow: int
    deep: int
    quantized: tuple[int, int]  # the last two with a q8_0 cache, over which attention takes a CPU thrice as long
    memory: tuple[int, ...]
    cache: tuple[str, ...] = ()
    repetitions: int = 3
    sample: int = 16  # stock takes an hour to read all of the deepest text


# the last depth is as deep as a context of 131,072 tokens has room for a measurement behind it
FULL = Size(2560, 8192, 32768, (4096, 8192), (4096, 8192, 16384, 32768, 65536, 130816))
QUICK = Size(
    512, 768, 1536, (768, 1024), (512, 1024, 2048), ("--asymkv-budget", "448", "--asymkv-chunk", "64", "-b", "64"), 2, 2
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small depths")
    parser.add_argument("--dummy", default="1B", help="the model's shape")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "performance", help="where results are kept")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--only", help="some of f16,q8_0,memory (f16 is needed for the page)")
    args = parser.parse_args()
    size = QUICK if args.quick else FULL
    work: Path = args.work / (f"quick-{args.dummy}" if args.quick else args.dummy)
    work.mkdir(parents=True, exist_ok=True)

    results = {
        name: result(work / f"{name}.json", command, fresh=args.fresh)
        for name, command in commands(size, args.dummy, args.threads).items()
        if not args.only or name in args.only.split(",")
    }
    docs = work if args.quick else ROOT / "docs"
    title = f"{results['f16']['model']['name']}, {args.threads} threads, f16 cache"
    plot(results["f16"]["rows"], title, docs / "performance.png")
    page = docs / "performance.md"
    source = page if page.exists() else ROOT / "docs" / "performance.md"
    page.write_text(with_measurements(source.read_text(encoding="utf-8"), text(size, results)), encoding="utf-8")
    print(f"written: {page}, {docs / 'performance.png'}")


def commands(size: Size, dummy: str, n_threads: int) -> dict[str, list[str]]:
    """The arguments of `asymkv-gguf bench` for each configuration."""
    common = ["--dummy", dummy, "-t", str(n_threads), *size.cache]
    speed = [*common, "-d", f"{size.reference},{size.shallow},{size.deep}"]
    quantized = [*common, "-d", ",".join(map(str, (size.reference, *size.quantized)))]
    speed, quantized = ([*each, "-r", str(size.repetitions), "--sample", str(size.sample)] for each in (speed, quantized))
    # reading so much takes hours with weights that are worth measuring, and memory does not depend on them
    memory = ["--dummy", "tiny", *common[2:], "--modes", "on", "-d", ",".join(map(str, size.memory)), "-r", "1"]
    quantized += ["--modes", "stock,on"]  # off would say nothing new
    return {"f16": speed, "q8_0": [*quantized, "-ctk", "q8_0", "-ctv", "q8_0"], "memory": memory}


def result(file: Path, arguments: list[str], *, fresh: bool) -> dict[str, Any]:
    """The report of one configuration: measured, if that was not done before."""
    if file.exists() and not fresh:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["arguments"] == arguments:
            return dict(kept["report"])
    print(f"asymkv-gguf bench {shlex.join(arguments)}", file=sys.stderr)
    command = [sys.executable, "-m", "asymkv_gguf", "bench", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:  # it has said why
        sys.exit(done.returncode)
    report = {**json.loads(done.stdout), "command": f"asymkv-gguf bench {shlex.join(arguments)}"}
    part = file.with_suffix(".part")
    part.write_text(json.dumps({"arguments": arguments, "report": report}), encoding="utf-8")
    os.replace(part, file)
    return report


# the goals


@dataclass(frozen=True)
class Goal:
    """One line of the table: a ratio that should be at least, or at most, so much."""

    what: str
    at_least: bool
    bound: float
    measured: float
    limit: str  # what keeps it from being better

    def line(self) -> list[str]:
        measured = f"{self.measured:.3f}"
        met = float(measured) >= self.bound if self.at_least else float(measured) <= self.bound  # as it is read
        return [
            self.what,
            f"{'>=' if self.at_least else '<='} {self.bound:g}",
            measured,
            "yes" if met else "**no**",
            self.limit,
        ]


def row(report: dict[str, Any], mode: str, depth: int) -> dict[str, Any]:
    return next(one for one in report["rows"] if (one["mode"], one["depth"]) == (mode, depth))


def tps(one: dict[str, Any]) -> float:
    return float(one["decode_tps"]["median"])


def goals(report: dict[str, Any]) -> list[Goal]:
    _, shallow, deep = report["settings"]["depths"]
    return [*speed_goals(report), *memory_goals(report, shallow, deep)]


def speed_goals(report: dict[str, Any]) -> list[Goal]:
    at_reference, at_shallow, at_deep = report["settings"]["depths"]
    on = {depth: row(report, "on", depth) for depth in (at_reference, at_shallow, at_deep)}
    off = {depth: row(report, "off", depth) for depth in on} if "off" in report["settings"]["modes"] else {}
    stock = {depth: row(report, "stock", depth) for depth in on}
    deep, deep_stock = on[at_deep], stock[at_deep]
    gain = tps(deep) / tps(deep_stock)
    possible = deep_stock["token_bytes"] / deep["token_bytes"]
    share = f"{deep['bound_share']:.0%} of the bound by memory bandwidth ({deep['bound_tps']:.1f} t/s)"
    weights = report["model"]["weight_bytes"] / deep["token_bytes"]
    compressing = ", ".join(
        f"{step} {deep[f'{step}_seconds'] / deep['prefill_seconds']:.1%}" for step in ("observe", "plan", "merge")
    )
    rest = 1 - deep["compress_share"]
    reuse = {depth: one["reuse_of_stock"] for depth, one in on.items()}
    worst_reuse = max(reuse, key=lambda at: reuse[at])
    allocated = (deep["kv_bytes"] + deep["table_bytes"]) / (deep["capacity"] * deep["slot_bytes"])
    return [
        Goal(
            f"decode at {at_deep:,}, of stock's at {at_reference:,}",
            True,
            0.97,
            tps(deep) / tps(stock[at_reference]),
            f"{deep['slots']:,} slots are read instead of {stock[at_reference]['slots']:,}; {share}",
        ),
        Goal(
            f"decode at {at_deep:,}, of stock's there",
            True,
            2.0,
            gain,
            f"weights are {weights:.0%} of what a token reads; fewer bytes allow {possible:.2f}x",
        ),
        Goal("that gain, of what fewer bytes allow", True, 0.9, gain / possible, f"on reaches {share}"),
        Goal(
            f"time of a prefill of {at_deep:,}, of stock's",
            False,
            0.5,
            deep["prefill_of_stock"],
            f"arithmetic: weights and at most {deep['capacity']:,} slots for each token take {rest:.1%}, compression the rest",
        ),
        Goal(
            f"prefill time of {at_deep:,} / of {at_shallow:,}",
            False,
            4.2 / 4 * at_deep / at_shallow,
            deep["prefill_seconds"] / on[at_shallow]["prefill_seconds"],
            f"linear: {at_deep / at_shallow:.2f}; the first {deep['capacity']:,} tokens have fewer slots to look at",
        ),
        Goal("compression, of the prefill's time", False, 0.08, deep["compress_share"], f"of the prefill: {compressing}"),
        Goal(
            "KV and tables, of capacity x slot bytes",
            False,
            1.03,
            allocated,
            f"tables of {size_text(deep['table_bytes'])} beside {size_text(deep['kv_bytes'])}",
        ),
        *(off_goals(off, at_deep) if off else []),
        Goal(
            f"first token after prefix reuse, of stock's time (worst depth: {worst_reuse:,})",
            False,
            1.05,
            reuse[worst_reuse],
            "arithmetic on the new tokens",
        ),
    ]


def off_goals(off: dict[int, dict[str, Any]], at_deep: int) -> list[Goal]:
    worst = min(off, key=lambda at: off[at]["decode_of_stock"])
    return [
        Goal(
            f"asymkv off: decode, of stock's (worst depth: {worst:,})",
            True,
            0.99,
            off[worst]["decode_of_stock"],
            "the same graph; what differs is the spread between two processes",
        ),
        Goal(
            f"asymkv off: speed of the prefill of {at_deep:,}, of stock's",
            True,
            0.99,
            1 / off[at_deep]["prefill_of_stock"],
            "the same",
        ),
    ]


def memory_goals(report: dict[str, Any], first: int, last: int) -> list[Goal]:
    before, after = (row(report, "on", depth) for depth in (first, last))
    goals = []
    for name, what in (("peak_rss_bytes", "peak RSS"), ("rss_anon_bytes", "RSS without the model file")):
        grown = f"{size_text(abs(after[name] - before[name]))} {'less' if after[name] < before[name] else 'more'}"
        goals.append(Goal(f"{what} at {last:,} / at {first:,}", False, FLAT, after[name] / before[name], grown))
    return goals


# the page


def text(size: Size, results: dict[str, dict[str, Any]]) -> str:
    f16 = results["f16"]
    machine, bandwidth = f16["machine"], f16["bandwidth"]
    parts = [
        f"Machine: {machine['cpu']}, {machine['cpus']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB, {machine['os']}, "
        f"Python {machine['python']}; asymkv-gguf {f16['version']}. Memory is read at "
        f"{bandwidth['bytes_per_second'] / 1e9:.1f} GB/s ({bandwidth['method']}).",
        f"Model: {f16['model']['name']}, {size_text(f16['model']['file_bytes'])}; a token reads "
        f"{size_text(f16['model']['weight_bytes'])} of weights.",
        "![decode speed and memory against depth](performance.png)",
    ]
    for name, title in (("f16", "f16 cache"), ("q8_0", "q8_0 cache")):
        if name not in results:
            continue
        report = results[name]
        parts += [f"## {title}", f"```sh\n{report['command']}\n```", goal_table(goals(report)), *tables(report)]
    if "memory" in results:
        report = results["memory"]
        parts += [f"## Memory against depth: {report['model']['name']}", f"```sh\n{report['command']}\n```"]
        parts += [goal_table(memory_goals(report, size.memory[0], size.memory[-1])), memory_table(report)]
    return "\n\n".join(parts)


def goal_table(goals: list[Goal]) -> str:
    lines = table(["goal", "", "measured", "met", "what limits it"], [goal.line() for goal in goals]).splitlines()
    return "\n".join([lines[0], "| --- | ---: | ---: | --- | --- |", *lines[2:]])


def tables(report: dict[str, Any]) -> list[str]:
    speed = [
        [
            one["mode"],
            f"{one['position']:,}",
            f"{one['slots']:,}",
            spread(one["prefill_tps"], 1),
            f"{one['first_token_seconds']:,.1f}",
            spread(one["decode_tps"], 2),
            f"{one['decode_compressing_tps']:.2f}" if one["decode_compressing_tps"] else "",
            f"{one['bound_tps']:.1f}" if one["bound_tps"] else "",
            f"{one['bound_share']:.0%}" if one["bound_share"] else "",
            spread(one["reuse_seconds"], 0, 1e3),
        ]
        for one in report["rows"]
    ]
    titles = [
        "mode",
        "depth",
        "slots",
        "prefill t/s",
        "first token s",
        "decode t/s",
        "with compression",
        "bound t/s",
        "of bound",
    ]
    compressions = [
        [
            f"{one['depth']:,}",
            f"{one['compressions']:,}",
            *(f"{one[f'{step}_seconds']:.2f}" for step in ("observe", "plan", "merge", "compress")),
            f"{one['compress_share']:.1%}",
        ]
        for one in report["rows"]
        if one["compressions"]
    ]
    return [
        table([*titles, "prefix reuse ms"], speed),
        table(["depth", "compressions", "observe s", "plan s", "merge s", "all s", "of the prefill"], compressions),
        memory_table(report),
    ]


def memory_table(report: dict[str, Any]) -> str:
    sizes = ("kv_bytes", "table_bytes", "compute_buffer_bytes", "rss_bytes", "rss_anon_bytes", "peak_rss_bytes")
    titles = ["mode", "depth", "KV", "tables", "compute buffers", "RSS", "without the model file", "peak RSS"]
    lines = [
        [one["mode"], f"{one['position']:,}", *(size_text(one[name]) if one[name] else "" for name in sizes)]
        for one in report["rows"]
    ]
    return table(titles, lines)


def spread(value: dict[str, float] | None, digits: int, scale: float = 1.0) -> str:
    if value is None:
        return ""
    middle, least, most = (f"{value[name] * scale:,.{digits}f}" for name in ("median", "min", "max"))
    return f"{middle} ({least}..{most})"


def with_measurements(page: str, measurements: str) -> str:
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"docs/performance.md has lost its marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{measurements}\n\n{END}{after}"


if __name__ == "__main__":
    main()
