"""Measures our ops inside ggml beside stock ggml and beside the portable path, all in one run, and prints tables.

    python benchmarks/ops.py [--quick] [--threads 2] [--build DIR]

Builds a bundled ggml and native/ggml/tests/bench-*.cpp in the build directory (an existing one is brought up to date), and runs
them in turns: what else the machine does meets all columns alike. Each time is the best of all rounds; what it is of stock's
speed is the median over the rounds of the ratio within a round, since a machine's speed may change from round to round. The
stock column is the same program with the ggml of the installed llama-cpp-python.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from asymkv_gguf.markdown_table import table
from asymkv_gguf.native.loader import binding_lib_dir

ROOT = Path(__file__).resolve().parent.parent

# name of a column -> mode of bench-attn, and whether it runs with the stock ggml
COLUMNS: Final = {
    "stock": ("absent", True),
    "absent": ("absent", False),
    "native": ("native", False),
    "portable": ("portable", False),
}


@dataclass(frozen=True)
class Shape:
    """One attention: a layer's cache, and the queries of a token or a batch."""

    cache_type: str
    head: int
    n_head_kv: int
    n_gqa: int
    n_kv: int
    n_tokens: int

    def __str__(self) -> str:
        queries = "1 token" if self.n_tokens == 1 else f"{self.n_tokens} tokens"
        return f"{queries} over {self.n_kv:,} {self.cache_type} slots, {self.n_head_kv} x {self.n_gqa} heads of {self.head}"


# Llama-3.2-1B, Llama-3.1-8B, and a model without GQA, at the default capacity and at a larger one
SHAPES: Final = (
    Shape("f16", 64, 8, 4, 2560, 1),
    Shape("f16", 64, 8, 4, 2560, 512),
    Shape("q8_0", 64, 8, 4, 2560, 1),
    Shape("q8_0", 64, 8, 4, 2560, 64),
    Shape("f16", 128, 8, 4, 4608, 1),
    Shape("f16", 128, 8, 4, 4608, 64),
    Shape("f16", 128, 16, 1, 2560, 1),
)
QUICK: Final = (Shape("f16", 64, 2, 4, 512, 1), Shape("q8_0", 64, 2, 4, 512, 16))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small shapes, to try the script")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "ops", help="where ggml is built")
    args = parser.parse_args()
    shapes, rounds, seconds = (QUICK, 2, 0.05) if args.quick else (SHAPES, args.rounds, 1.0)

    program = build(args.build, "bench-attn")
    print(
        f"{platform.processor() or platform.machine()}, {args.threads} threads, microseconds per layer; x: of stock's speed\n"
    )
    print(table(["attention", *COLUMNS], [row(program, shape, args.threads, rounds, seconds) for shape in shapes]))


def build(directory: Path, target: str) -> Path:
    """The program, compiled with a bundled ggml."""
    beside = Path(sys.executable).with_name("cmake")  # as the test extra installs it
    cmake = str(beside) if beside.exists() else "cmake"
    for command in (
        [cmake, "-S", str(ROOT), "-B", str(directory), "-G", "Ninja", "-DASYMKV_BUNDLE_GGML=ON"],
        [cmake, "--build", str(directory), "--target", target],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit("\n".join((done.stdout + done.stderr).splitlines()[-40:]))
    return directory / "bin" / target


def row(program: Path, shape: Shape, n_threads: int, rounds: int, seconds: float) -> list[str]:
    """A shape's cells. The columns take turns, and each round begins with another one."""
    times: dict[str, list[float]] = {name: [] for name in COLUMNS}
    names = list(COLUMNS)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(microseconds(program, name, shape, n_threads, seconds))
    stock = times.pop("stock")
    return [str(shape), f"{min(stock):,.1f}", *(f"{min(ours):,.1f} ({of_stock(stock, ours):.2f} x)" for ours in times.values())]


def of_stock(stock: list[float], ours: list[float]) -> float:
    """Our speed, of stock's."""
    return median(theirs / mine for theirs, mine in zip(stock, ours, strict=True))


def microseconds(program: Path, column: str, shape: Shape, n_threads: int, seconds: float) -> float:
    mode, is_stock = COLUMNS[column]
    sizes = (shape.head, shape.n_head_kv, shape.n_gqa, shape.n_kv, shape.n_tokens, n_threads)
    # before the directory that the program was linked with
    environment = {**os.environ, "LD_LIBRARY_PATH": str(binding_lib_dir())} if is_stock else dict(os.environ)
    command = [str(program), mode, shape.cache_type, *map(str, sizes), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return float(done.stdout)


if __name__ == "__main__":
    main()
