"""Read a million tokens through one context, and watch what must not change: memory, the sums of the cache, recall.

    python scripts/soak.py [--tokens 1000000] [--every 50000] [--budget 192] [--seed 0]
                           [--horizon 3072] [--policy NAME] [--accumulate X] [--json FILE]

The packaged model reads document after document (asymkv_gguf/recall.py) into one merged cache, whose positions stay within what
the model was trained for, and which lets first go what lies further back than the horizon (0: none; then the facts of all
documents compete for its slots). After a document it is asked for the document's facts, from the state that it is in, and
goes on from there. Every row shows

    tokens     read so far
    seconds    since the last row
    rss        resident memory of the process, MiB
    recall     answers that were right since the last row, of all that were asked
    sums       whether in every KV head of every layer the slots' cardinalities and the lost tokens make the tokens read

and at the end the script fails (exit code 1) if a sum was wrong, if memory grew by more than 1 % after the first two rows, or
if recall in the second half of the rows is lower than in the first by more than chance explains (two standard errors).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from asymkv_gguf import AsymKVConfig, Llama, recall
from asymkv_gguf.cli.demo import MODEL
from asymkv_gguf.policies import POLICIES
from asymkv_gguf.state import read_state, write_state

CHUNK = 64
WARM_ROWS = 2  # buffers find their sizes
MOST_GROWTH = 0.01


@dataclass
class Row:
    tokens: int
    seconds: float
    rss_mib: float
    right: int
    asked: int
    sums: bool
    compressions: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--every", type=int, default=50_000, help="tokens of a row")
    parser.add_argument("--budget", type=int, default=192, help="slots that a compression leaves")
    parser.add_argument("--seed", type=int, default=0, help="of the first document")
    parser.add_argument("--horizon", type=int, default=3072, metavar="N", help="tokens after which slots leave first; 0: none")
    parser.add_argument("--policy", choices=POLICIES, default="asymkv-exact", metavar="NAME", help=", ".join(POLICIES))
    parser.add_argument(
        "--accumulate", type=float, metavar="X", help="what a compression leaves of scores, instead of the policy's"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    options = parser.parse_args()
    config = AsymKVConfig.of_policy(options.policy).replace(
        budget=options.budget, chunk=CHUNK, positions="compact", horizon=options.horizon or None
    )
    if options.accumulate is not None:
        config = config.replace(accumulate=options.accumulate)
    llm = Llama(
        str(MODEL),
        asymkv=config,
        n_ctx=options.tokens + 2 * options.every,
        n_threads=1,
        n_threads_batch=1,
        verbose=False,
    )
    rows = read(llm, options)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    problems = judged(rows)
    for problem in problems:
        print(f"FAILED: {problem}")
    return 1 if problems else 0


def read(llm: Llama, options: argparse.Namespace) -> list[Row]:
    print("   tokens  seconds      rss  recall        sums   compressions", flush=True)
    rows: list[Row] = []
    seed, right, asked = options.seed, 0, 0
    started = time.perf_counter()
    while llm.n_tokens < options.tokens:
        document = recall.make_document(seed)
        seed += 1
        llm.eval(llm.tokenize(document.text.encode(), add_bos=llm.n_tokens == 0))
        answers = ask(llm, document)
        right, asked = right + sum(answers), asked + len(answers)
        if llm.n_tokens < options.every * (len(rows) + 1):
            continue
        seconds = time.perf_counter() - started
        stats = llm.asymkv_stats()
        row = Row(llm.n_tokens, round(seconds, 1), round(rss_mib(), 2), right, asked, is_exact(llm), stats.compressions)
        rows.append(row)
        print(
            f"{row.tokens:>9,} {row.seconds:>8} {row.rss_mib:>8}  {right:>4} of {asked:<4}  {'exact' if row.sums else 'WRONG'}"
            f"  {row.compressions:>8,}",
            flush=True,
        )
        right, asked = 0, 0
        started = time.perf_counter()
    return rows


def ask(llm: Llama, document: recall.Document) -> list[bool]:
    """Every question from the same state; afterwards the context is as it was before."""
    state, n_tokens = read_state(llm.ctx), llm.n_tokens
    answers = []
    for question in document.questions:
        llm.eval(llm.tokenize(question.prompt.encode(), add_bos=False))
        logits = llm.last_logits()
        assert logits is not None
        answers.append(llm.detokenize([int(logits.argmax())]).decode().strip() == question.answer)
        if not write_state(llm.ctx, state):
            raise RuntimeError("llama.cpp refuses a state that it has just written")
        llm.n_tokens = n_tokens
    return answers


def is_exact(llm: Llama) -> bool:
    stats = llm.asymkv_stats()
    return stats.tokens == llm.n_tokens and all(
        int(llm.asymkv_slots(layer, group)["cardinality"].sum()) + llm.asymkv_lost(layer, group) == stats.tokens
        for layer in range(stats.layers)
        for group in range(stats.groups)
    )


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def judged(rows: list[Row]) -> list[str]:
    """One sentence for each thing that is not as it should be."""
    problems = []
    wrong = [row.tokens for row in rows if not row.sums]
    if wrong:
        problems.append(f"the sums are wrong at {wrong[0]:,} tokens")
    later = rows[WARM_ROWS - 1 :]
    if len(later) > 1:
        growth = later[-1].rss_mib / later[0].rss_mib - 1
        print(f"memory: {growth:+.2%} from {later[0].tokens:,} to {later[-1].tokens:,} tokens")
        if growth > MOST_GROWTH:
            problems.append(f"memory grew by {growth:.2%}, and may by {MOST_GROWTH:.0%}")
    half = len(rows) // 2
    if half:
        first, second = (share(part) for part in (rows[:half], rows[half:]))
        spread = 2 * math.hypot(first[1], second[1])
        print(f"recall: {first[0]:.3f} in the first half, {second[0]:.3f} in the second; chance explains {spread:.3f}")
        if second[0] < first[0] - spread:
            problems.append("recall of recent facts went down")
    return problems


def share(rows: list[Row]) -> tuple[float, float]:
    """The share of right answers, and its standard error."""
    right, asked = sum(row.right for row in rows), sum(row.asked for row in rows)
    mean = right / asked
    return mean, math.sqrt(max(mean * (1 - mean), 1 / asked) / asked)


if __name__ == "__main__":
    sys.exit(main())
