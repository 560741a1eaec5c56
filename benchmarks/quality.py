"""Measures what docs/quality.md says, and writes it there, with its plots.

    python benchmarks/quality.py [--stories GGUF --stories-text FILE] [--threads 2] [--work DIR] [--only NAME,...] [--quick]

Every table is what an `asymkv-gguf eval` command prints, and stands below that command. Results are kept in the work
directory: a run that was interrupted goes on, and a run where all is there writes the page only. Tables of a model that is
not given stay as they are. --quick measures few and short texts, to try the script: its page stays in the work directory.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generation import GENERATED, generation_table

from asymkv_gguf.markdown_table import table

ROOT = Path(__file__).resolve().parent.parent
PAGE = "quality.md"

POLICIES = ("asymkv-exact", "evict-same", "h2o", "snapkv", "tova", "streaming", "keydiff", "random", "asymkv-paper")
EVICTION = POLICIES[2:8]  # as others published them
FULL = ("none", "none:q8_0", "none:q4_0")
SETTINGS = (
    "",
    "merge=false",
    "evict=false",
    "score=output",
    "score=output,max_cardinality=5",
    "score=mass",
    "key_weights=mean",
    "key_weights=slimmer",
    "key_weights=mass",
    "per_head=false",
    "per_head=false,score=mass",
    "max_cardinality=5",
    "observe=8",
    "observe=16",
    "observe=64",
    "accumulate=1",
    "accumulate=0.8",
    "accumulate=0.5",
    "history=0",
    "history=0.5",
    "history=0,observe=64",
)


@dataclass(frozen=True)
class Experiment:
    """A table of the page: one `asymkv-gguf eval` command."""

    name: str
    evaluation: str
    columns: Sequence[str]
    length: int
    samples: int
    more: Sequence[str] = ()
    plot: bool = False

    @property
    def needs_stories(self) -> bool:
        return self.evaluation != "recall"


def policies(*ratios: int) -> list[str]:
    return [f"{policy}@{ratio}x" for ratio in ratios for policy in POLICIES]


def settings(ratio: int) -> list[str]:
    return [f"asymkv-exact@{ratio}x{',' if one else ''}{one}" for one in SETTINGS]


# both caches of the last two have the bytes of an f16 cache of half as many slots, and of a quarter
QUANTIZED = ("asymkv-exact@8x:q8_0", "asymkv-exact@8x:q4_0", "asymkv-exact@4x:q8_0", "asymkv-exact@2x:q4_0")
MIXED = ("none", "asymkv-exact@8x", "evict-same@8x", "h2o@8x", "snapkv@8x", "streaming@8x")
LONGER = tuple(f"{policy}@2000,positions={where}" for policy in POLICIES[:3] for where in ("compact", "original"))

EXPERIMENTS = (
    Experiment("recall-policies", "recall", [*FULL, *policies(4, 8, 16), *QUANTIZED], 4096, 8, plot=True),
    Experiment("drift-policies", "drift", [*FULL, *policies(4, 8), *QUANTIZED], 2048, 8, plot=True),
    Experiment("ppl-policies", "ppl", [*FULL, *policies(8)], 2048, 8),
    Experiment("ppl-1024", "ppl", [*FULL, *policies(4)], 1024, 16),
    Experiment("drift-1024", "drift", [*FULL, *policies(4)], 1024, 16),
    Experiment("recall-settings", "recall", settings(16), 4096, 8),
    Experiment("drift-settings", "drift", settings(8), 2048, 8),
    Experiment("recall-decode", "recall", MIXED, 4096, 4, ("-b", "1")),
    Experiment("drift-decode", "drift", MIXED, 2048, 4, ("-b", "1")),
    Experiment("recall-2x", "recall", LONGER, 8192, 4),
    Experiment("recall-8x", "recall", LONGER, 32768, 2),
)


@dataclass(frozen=True)
class Runner:
    """Runs commands, and keeps their results."""

    work: Path
    threads: int
    quick: bool
    model: Path | None
    text: Path | None

    def arguments(self, one: Experiment) -> list[str]:
        """As they stand in the page: files by their names."""
        length, samples = (min(one.length, 8192), 1) if self.quick else (one.length, one.samples)
        arguments = ["eval", one.evaluation, "--length", str(length), "-n", str(samples), *one.more]
        if one.evaluation == "drift":
            arguments += ["--scored", str(length // 4)]
        if one.needs_stories and self.model and self.text:
            arguments += ["-m", self.model.name, "-f", self.text.name]
        return [*arguments, "--columns", ",".join(one.columns)]

    def run(self, one: Experiment, *more: str) -> str:
        real = {str(path.name): str(path) for path in (self.model, self.text) if path}
        arguments = [real.get(each, each) for each in self.arguments(one)]
        command = [sys.executable, "-m", "asymkv_gguf", *arguments, "-t", str(self.threads), "--work", str(self.work), *more]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:  # it has said why
            sys.exit(done.returncode)
        return done.stdout

    def text_of(self, one: Experiment, docs: Path) -> str:
        print(f"{one.name}:", file=sys.stderr)
        plot = docs / f"quality-{one.name}.png"
        output = self.run(one, "--md", *(["--plot", str(plot)] if one.plot else []))
        image = f"\n![{one.name}]({plot.name})\n" if one.plot else ""
        return f"```sh\nasymkv-gguf {shlex.join(self.arguments(one))}\n```\n\n{output.strip()}\n{image}"

    def report(self, one: Experiment) -> dict[str, Any]:
        return dict(json.loads(self.run(one, "--json")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stories", type=Path, metavar="GGUF", help="a model that tells children's stories")
    parser.add_argument("--stories-text", type=Path, metavar="FILE", help="such stories")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "quality", help="where results are kept")
    parser.add_argument("--only", help=f"some of {','.join(one.name for one in EXPERIMENTS)},goals,{GENERATED}")
    parser.add_argument("--quick", action="store_true", help="few and short texts")
    args = parser.parse_args()
    if (args.stories is None) != (args.stories_text is None):
        parser.error("--stories and --stories-text belong together; give both")
    work: Path = args.work / ("quick" if args.quick else "full")
    work.mkdir(parents=True, exist_ok=True)
    runner = Runner(work, args.threads, args.quick, args.stories, args.stories_text)
    docs = work if args.quick else ROOT / "docs"
    if args.quick:
        shutil.copy(ROOT / "docs" / PAGE, docs)
    wanted = args.only.split(",") if args.only else None
    for one in EXPERIMENTS:
        if (wanted is None or one.name in wanted) and (args.stories or not one.needs_stories):
            write(docs / PAGE, one.name, runner.text_of(one, docs))
    if args.stories and (wanted is None or "goals" in wanted):
        write(docs / PAGE, "goals", goals({one.name: runner.report(one) for one in EXPERIMENTS[:2]}))
    if args.stories and (wanted is None or GENERATED in wanted):
        n_tokens = 1000 if args.quick else 20000
        write(docs / PAGE, GENERATED, generation_table(args.stories, args.stories_text, n_tokens, args.threads, work))
    print(f"written: {docs / PAGE}")


def write(page: Path, name: str, content: str) -> None:
    begin, end = f"<!-- quality.py: {name} -->", f"<!-- end of {name} -->"
    text = page.read_text(encoding="utf-8")
    changed = re.sub(
        rf"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{content.strip()}\n{end}", text, flags=re.DOTALL
    )
    if begin not in text:
        raise SystemExit(f"{page} has no place for {name}: {begin} is missing")
    page.write_text(changed, encoding="utf-8")


def goals(reports: dict[str, dict[str, Any]]) -> str:
    """What was to be reached, and what was: at equal slots, and in q8_0 with twice the slots of the evictions."""
    recall = means(reports["recall-policies"], "recall")
    told = means(reports["recall-policies"], "log_prob")
    lost = {column: told["none"] - log_prob for column, log_prob in told.items()}
    kl = means(reports["drift-policies"], "kl")
    rows = []

    def add(ours: str, ratio: int, what: str, bound: float, measured: float) -> None:
        met = measured >= bound if what.startswith("recall") else measured <= bound
        rows.append([ours, f"{ratio}x", what, f"{bound:g}", f"{measured:.2f}", "yes" if met else "**no**"])

    for ours, ratio in (("asymkv-exact@8x", 8), ("asymkv-exact@16x", 16), ("asymkv-exact@4x:q8_0", 8)):
        add(ours, ratio, "recall, of the full cache's, at least", 0.95, recall[ours] / recall["none"])
        for what, losses in (("log-prob of the answer lost", lost), ("KL", kl)):
            if ours in losses:
                best = min(losses[f"{policy}@{ratio}x"] for policy in EVICTION)
                add(ours, ratio, f"{what}, of the best eviction's, at most", 0.5, losses[ours] / best)
                add(ours, ratio, f"{what}, of evict-same's, at most", 1.0, losses[ours] / losses[f"evict-same@{ratio}x"])
    return table(["column", "evictions", "what", "goal", "measured", "met"], rows)


def means(report: dict[str, Any], metric: str) -> dict[str, float]:
    """By column."""
    return {one["column"]: float(one["metrics"][metric]["value"]["mean"]) for one in report["columns"]}


if __name__ == "__main__":
    main()
