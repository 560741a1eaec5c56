"""Damage model files and cache states, seeded, and see whether anything ends the process.

    python scripts/damaged_files.py model [--n 500] [--seed 0] [--arch llama]
    python scripts/damaged_files.py state [--n 500] [--seed 0] [--arch llama]

`model` flips bits, cuts, and writes extreme numbers into a tiny GGUF file, then loads it and reads a text long enough to
compress. `state` does the same to the state of a merged cache, which is what a session file holds behind its checksum, and
restores it into a context that holds another text. Every try runs in a process of its own. Prints how the tries ended, and the
seed and last words of each that a signal ended; ends with 1 if there is one. POSIX only.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
import tiny_models

from asymkv_gguf import AsymKVError, Llama
from asymkv_gguf.state import n_cached, read_state, write_state

EXTREMES = [b"\xff" * 8, b"\0" * 8, *(number.to_bytes(8, "little") for number in (1 << 31, (1 << 31) - 1, 1 << 40, 1 << 62))]
CONFIG = {"budget": 64, "chunk": 32, "sinks": 4, "recent": 16, "observe": 8}
CPU_SECONDS, MEMORY = 20, 6 << 30
# capacity is rounded up to 256 slots
TOKENS = [5 + number * 7 % 45 for number in range(330)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["model", "state"])
    parser.add_argument("--n", type=int, default=500, help="tries")
    parser.add_argument("--seed", type=int, default=0, help="of the first try; the next has the next")
    parser.add_argument("--arch", choices=sorted(tiny_models.MERGED), default="llama")
    options = parser.parse_args()
    # a stack trace by gdb would take longer than all the rest
    os.environ["GGML_NO_BACKTRACE"] = "1"
    with tempfile.TemporaryDirectory() as directory:
        model = Path(directory) / "model.gguf"
        tiny_models.MERGED[options.arch](model)
        tried = (damaged_model if options.kind == "model" else damaged_state)(model, Path(directory))
        seeds = range(options.seed, options.seed + options.n)
        endings = {seed: in_process(tried, seed, Path(directory) / "words") for seed in seeds}
    for ending, count in collections.Counter(endings.values()).most_common():
        print(f"{count:>6}  {ending}")
    wrong = [seed for seed, ending in endings.items() if ending.startswith(("SIG", "UNEXPECTED"))]
    if wrong:
        print(f"seeds: {', '.join(map(str, wrong))}")
    return 1 if wrong else 0


def damaged_model(model: Path, directory: Path) -> Callable[[int], str]:
    data = model.read_bytes()
    end = data.rfind(b"output") + 200  # behind the last tensor's description there are only weights

    def tried(seed: int) -> str:
        rng = random.Random(seed)
        file = directory / "damaged.gguf"
        file.write_bytes(damaged(data, rng, lambda: rng.randrange(end - 8)))
        return attempt(lambda: opened(file).eval(TOKENS))

    return tried


def damaged_state(model: Path, _: Path) -> Callable[[int], str]:
    llm, other = opened(model), opened(model)
    llm.eval(TOKENS)
    other.eval(TOKENS[::-1])
    state = read_state(llm.ctx).tobytes()

    def restore(data: bytes) -> None:
        if not write_state(other.ctx, np.frombuffer(data, np.uint8)):
            raise ValueError("refused")
        other.n_tokens = min(n_cached(other.ctx), 900)
        stats = other.asymkv_stats()
        for layer in range(stats.layers):
            other.asymkv_slots(layer, 0)
        other.eval(TOKENS[:60])
        other.asymkv_compress(40)

    def tried(seed: int) -> str:
        rng = random.Random(seed)
        size = len(state) - 8
        # numbers that say how much follows stand at the start and, the tables', near the end
        spans = [(0, 2000), (0, size), (size - 6000, size)]
        return attempt(lambda: restore(damaged(state, rng, lambda: rng.randrange(*rng.choice(spans)))))

    return tried


def opened(model: Path) -> Llama:
    return Llama(str(model), asymkv=CONFIG, n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False)


def damaged(data: bytes, rng: random.Random, place: Callable[[], int]) -> bytes:
    changed = bytearray(data)
    kind = rng.choice(["flip", "flip", "bytes", "cut", "number", "longer"])
    if kind == "flip":
        for _ in range(rng.choice([1, 1, 2, 4])):
            changed[place()] ^= 1 << rng.randrange(8)
    elif kind == "bytes":
        for _ in range(rng.choice([1, 2, 8])):
            changed[place()] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
    elif kind == "cut":
        del changed[place() :]
    elif kind == "number":
        at, width = place(), rng.choice([4, 8])
        changed[at : at + width] = rng.choice(EXTREMES)[:width]
    else:
        changed += changed[: rng.randrange(1, 100)]
    return bytes(changed)


def attempt(action: Callable[[], object]) -> str:
    try:
        action()
    except (AsymKVError, ValueError, RuntimeError, MemoryError) as error:
        return f"refused: {type(error).__name__}"
    return "used"


def in_process(tried: Callable[[int], str], seed: int, words: Path) -> str:
    """What `tried` returns in a child process, or the signal that ended it and its last words."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(words, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        try:
            ending = tried(seed)
        except BaseException as error:
            ending = f"UNEXPECTED {type(error).__name__}: {error}"
        os.write(writing, ending.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        ending = stream.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        last = words.read_text(errors="replace").strip().splitlines()[-1:] or ["no last words"]
        return f"{signal.Signals(os.WTERMSIG(status)).name}: {last[0]}"
    return ending


if __name__ == "__main__":
    sys.exit(main())
