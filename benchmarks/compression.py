"""Measures who compresses on a CPU faster: the host's own code, or the kernels for devices. Prints a table.

    python benchmarks/compression.py [--model FILE] [--tokens 3000] [--rounds 3]

In turns, so that what else the machine does meets both alike; each number is the best of all rounds. The CPU's answer to who
offers the ops (native/ggml/cpu) follows from it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from asymkv_gguf import Llama
from asymkv_gguf.markdown_table import table

WAYS = {"host": "the host's own code", "device": "the kernels for devices, as fibers"}


def milliseconds(model: Path, n_tokens: int, where: str) -> float:
    """Of one compression, on average."""
    os.environ["ASYMKV_COMPRESS"] = where
    config = {"budget": 512, "recent": 64, "observe": 32}
    llm = Llama(str(model), asymkv=config, n_ctx=n_tokens + 8, n_batch=256, n_threads=1, n_threads_batch=1, verbose=False)
    llm.eval(np.random.default_rng(0).integers(3, 200, n_tokens).tolist())
    stats = llm.asymkv_stats()
    assert stats.device_compressions == (stats.compressions if where == "device" else 0)
    llm.close()
    return 1000 * stats.compress_seconds / stats.compressions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    packaged = Path(__file__).resolve().parent.parent / "asymkv_gguf" / "data" / "recall.gguf"
    parser.add_argument("--model", type=Path, default=packaged)
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    times: dict[str, list[float]] = {where: [] for where in WAYS}
    for _ in range(args.rounds):
        for where, measured in times.items():
            measured.append(milliseconds(args.model, args.tokens, where))
    rows = [[WAYS[where], f"{min(measured):.1f}"] for where, measured in times.items()]
    print(table(["compression by", "ms a compression"], rows))


if __name__ == "__main__":
    main()
