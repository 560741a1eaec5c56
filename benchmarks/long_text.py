"""Time, memory and compressions of a long text through a small merged cache, chunk by chunk.

    python benchmarks/long_text.py [--tokens 50000] [--slots 512] [--model FILE]

Prints one row per tenth of the text, and the ratios that should stay near 1: time of the last tenth to the second one
(the first one fills the cache), and the same for resident memory. Ratios of one run, so a slow machine does not matter;
a busy one does.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import asymkv_gguf
from asymkv_gguf import AsymKVConfig, Llama, recall


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--slots", type=int, default=512, help="allocated slots: three quarters budget, one quarter room")
    parser.add_argument("--model", type=Path, default=Path(asymkv_gguf.__file__).parent / "data" / "recall.gguf")
    args = parser.parse_args()

    n_batch = args.slots // 4
    llm = Llama(
        str(args.model),
        asymkv=AsymKVConfig(budget=args.slots - n_batch, chunk=n_batch),
        n_ctx=args.tokens + n_batch,
        n_batch=n_batch,
        n_threads=1,  # the packaged model is too small to share among threads, which would only wait for each other
        n_threads_batch=1,
        verbose=False,
    )
    tokens: list[int] = []
    for seed in itertools.count():
        tokens += llm.tokenize(recall.make_document(seed).text.encode(), add_bos=not tokens)
        if len(tokens) >= args.tokens:
            break
    tenth = args.tokens // 10

    print("tokens   seconds  of it compressing  slots  compressions  resident MiB")
    seconds, resident = [], []
    compressing = 0.0
    for i in range(10):
        started = time.perf_counter()
        llm.eval(tokens[i * tenth : (i + 1) * tenth])
        seconds.append(time.perf_counter() - started)
        resident.append(resident_mib())
        stats = llm.asymkv_stats()
        print(
            f"{stats.tokens:6,}  {seconds[-1]:8.2f}  {stats.compress_seconds - compressing:17.2f}  {stats.slots:5,}"
            f"  {stats.compressions:12,}  {resident[-1]:12.1f}"
        )
        compressing = stats.compress_seconds
    print(f"last tenth / second tenth: time {seconds[-1] / seconds[1]:.2f}, resident memory {resident[-1] / resident[1]:.3f}")
    share = compressing / sum(seconds)
    print(f"KV {stats.kv_bytes:,} bytes instead of {stats.stock_kv_bytes:,}; compressing {share:.0%} of the time")


if __name__ == "__main__":
    main()
