"""Faults below Python: damaged files, memory that runs out, a decode that is aborted. No crash, nothing wrong in the cache."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import preloaded_new
import pytest
from runs import random_tokens

from asymkv_gguf import Llama, ModelFileError
from asymkv_gguf.cli.demo import MODEL

ROOT = Path(__file__).parent.parent
CONFIG = {"budget": 128, "chunk": 64, "sinks": 4, "recent": 32, "observe": 16}
STEP = 50  # tokens of a batch; the sixth one does not fit, and compresses
N_TOKENS = 400

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and limits of memory")


def opened(**settings: Any) -> Llama:
    return Llama(str(MODEL), asymkv=CONFIG, n_ctx=2048, **{"n_threads": 1, "n_threads_batch": 1, "verbose": False, **settings})


def is_exact(llm: Llama) -> bool:
    """Every token is counted, by every head of every layer."""
    stats = llm.asymkv_stats()
    return all(
        int(llm.asymkv_slots(layer, group)["cardinality"].sum()) + llm.asymkv_lost(layer, group) == stats.tokens
        for layer in range(stats.layers)
        for group in range(stats.groups)
    )


def read_on(llm: Llama, tokens: list[int]) -> np.ndarray:
    """The rest of `tokens`, and the logits after it."""
    while llm.n_tokens < len(tokens):
        llm.eval(tokens[llm.n_tokens : llm.n_tokens + STEP])
    logits = llm.last_logits()
    assert logits is not None
    return logits


# damaged files


@needs_posix
@pytest.mark.parametrize(("kind", "arch"), [("model", "llama"), ("state", "llama"), ("state", "gemma2")])
def test_nothing_in_a_damaged_file_ends_the_process(kind: str, arch: str) -> None:
    command = [sys.executable, str(ROOT / "scripts/damaged_files.py"), kind, "--n", "40", "--arch", arch]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "refused" in done.stdout
    assert "used" in done.stdout


def test_a_number_of_layers_that_cannot_be_is_one_sentence(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    """Upstream ends the process here."""
    data = bytearray(tiny("llama").read_bytes())
    key = b"llama.block_count"
    place = data.index(key) + len(key) + 4  # behind the value's type
    damaged = tmp_path / "damaged.gguf"
    for number in (0, 1 << 31):
        data[place : place + 4] = number.to_bytes(4, "little")
        damaged.write_bytes(data)
        with pytest.raises(ModelFileError, match=rf"could not be loaded: .*the model has {number} layers; from 1 to "):
            Llama(str(damaged), n_ctx=64, verbose=False)


def test_two_tokens_of_the_same_text_are_one_sentence(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    """Upstream ends the process here."""
    data = tiny("llama").read_bytes()
    assert data.count(b"<0x41>") == data.count(b"<0x42>") == 1
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(data.replace(b"<0x41>", b"<0x42>"))
    with pytest.raises(
        ModelFileError, match=r"damaged.gguf could not be loaded: .*two tokens of the vocabulary have the same text"
    ):
        Llama(str(damaged), n_ctx=64, verbose=False)


# a decode that ends early


class Abort:
    """Ends the computation at one of the places where llama.cpp asks whether it should."""

    def __init__(self, llm: Llama, at: int) -> None:
        self.asked = 0
        self._at = at
        self._kept = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)(self._is_over)
        llama_cpp.llama_set_abort_callback(llm.ctx, self._kept, None)

    def _is_over(self, _: Any) -> bool:
        self.asked += 1
        return self.asked == self._at


@pytest.mark.parametrize("n_ubatch", [64, 16])
def test_a_decode_that_is_aborted_after_it_compressed_is_repeated_bit_for_bit(n_ubatch: int) -> None:
    tokens = random_tokens(N_TOKENS, seed=3)
    llm = opened(n_ubatch=n_ubatch)
    abort = Abort(llm, 0)
    while llm.n_tokens < 250:
        llm.eval(tokens[llm.n_tokens : llm.n_tokens + STEP])
    assert llm.asymkv_stats().compressions == 0
    before = abort.asked
    llm.eval(tokens[250:300])
    after = abort.asked
    assert llm.asymkv_stats().compressions == 1
    expected = read_on(llm, tokens)
    llm.close()

    left = set()
    for place in np.linspace(before + 1, after, 4).astype(int):  # the first and the last operation among them
        llm = opened(n_ubatch=n_ubatch)
        abort = Abort(llm, int(place))
        with pytest.raises(RuntimeError, match="llama_decode returned 2"):
            read_on(llm, tokens)
        assert llm.n_tokens == 250
        assert llm.asymkv_stats().compressions == 1
        left.add(llm.asymkv_stats().tokens)  # whole micro-batches stay
        assert is_exact(llm)
        assert np.array_equal(read_on(llm, tokens), expected)
        assert is_exact(llm)
        assert llm.asymkv_stats().tokens == N_TOKENS
        llm.close()
    assert left == {250} if n_ubatch > STEP else {250, 298} < left <= {250, 266, 282, 298}


def test_after_an_abort_another_text_may_follow() -> None:
    tokens, other = random_tokens(N_TOKENS, seed=3), random_tokens(N_TOKENS, seed=4)
    llm = opened(n_ubatch=16)
    abort = Abort(llm, 0)
    read_on(llm, tokens[:250])
    abort._at = abort.asked + 200
    with pytest.raises(RuntimeError, match="llama_decode returned 2"):
        llm.eval(tokens[250:300])
    assert llm.asymkv_stats().tokens > 250
    llm.eval(other[:STEP])
    assert llm.asymkv_stats().tokens == llm.n_tokens == 300
    assert is_exact(llm)
    read_on(llm, tokens[:250] + other[:150])
    assert is_exact(llm)
    llm.close()


# memory that runs out

_DECODE = """
import ctypes, json, sys
import numpy as np
import asymkv_gguf
sys.path.insert(0, {tests!r})
from test_faults import is_exact, opened, random_tokens, read_on

failing_new = ctypes.CDLL({library!r}).failing_new
failing_new.restype, failing_new.argtypes = ctypes.c_long, [ctypes.c_long]
tokens = random_tokens(400, seed=3)
llm = opened(n_threads={threads}, n_threads_batch={threads})
read_on(llm, tokens[:250])
state = llm.save_state()
failing_new(0)
llm.eval(tokens[250:300])
n_allocations = failing_new(0)
expected = read_on(llm, tokens)
found = []
for n in range(1, n_allocations, n_allocations // {tries}):
    llm.load_state(state)
    failing_new(n)
    try:
        llm.eval(tokens[250:300])
        said = "nothing"
    except RuntimeError as error:
        said = str(error)
    failing_new(0)
    found.append([said, llm.n_tokens, llm.asymkv_stats().tokens, is_exact(llm)])
    found[-1] += [bool(np.array_equal(read_on(llm, tokens), expected)), is_exact(llm)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def failing_new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return preloaded_new.build(tmp_path_factory.mktemp("failing-new"))


@pytest.mark.parametrize(("threads", "tries"), [(1, 24), (2, 7)])
def test_memory_that_runs_out_in_a_decode_loses_the_cache_at_most_and_mixes_nothing(
    failing_new: Path, threads: int, tries: int
) -> None:
    """Allocations of a decode that compresses fail, one in each try."""
    script = _DECODE.format(tests=str(Path(__file__).parent), library=str(failing_new), threads=threads, tries=tries)
    environment = {**os.environ, "LD_PRELOAD": str(failing_new), "GGML_NO_BACKTRACE": "1", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    endings = set()
    for said, n_tokens, n_cached, exact, same, exact_later in found:
        assert (exact, same, exact_later) == (True, True, True)
        endings.add(said)
        if said == "the compression failed (std::bad_alloc), and the cache is unchanged":
            assert n_tokens == n_cached == 250
        elif said != "nothing":
            assert said.endswith(", and the cache was cleared")
            assert n_tokens == n_cached == 0
    assert "the compression failed half-way (std::bad_alloc), and the cache was cleared" in endings
    assert "llama_decode returned -3, and the cache was cleared" in endings


_LOAD = """
import re, resource, sys
import asymkv_gguf
from asymkv_gguf.cli.demo import MODEL

size = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_AS, (size + {room}, resource.RLIM_INFINITY))
try:
    asymkv_gguf.Llama(str(MODEL), asymkv={{"budget": 65536}}, n_ctx=1 << 17, n_threads=1, n_threads_batch=1, verbose=False)
except (RuntimeError, ValueError, MemoryError) as error:
    print(type(error).__name__, error)
else:
    print("made")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_that_runs_out_while_a_context_is_made_is_one_sentence() -> None:
    """From nothing to enough: the model's file takes a few MiB, the cache of this context 80.

    Where ggml's own bookkeeping gets none, ggml ends the process: SECURITY.md says so.
    """
    said = []
    for megabytes in (0, 4, 16, 48, 64, 1024):
        script = _LOAD.format(room=megabytes << 20)
        environment = {**os.environ, "GGML_NO_BACKTRACE": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=120)
        if done.returncode == 0:
            said.append(done.stdout.strip())
        else:
            assert "GGML_ASSERT(ctx->mem_buffer != NULL) failed" in done.stderr
    assert said[0].startswith("ModelFileError model file ")
    assert "bad_alloc" in said[0]
    assert said[-1] == "made"
    context = r"UnsupportedError there is not enough memory for the context \(.*\); lower the budget, n_batch or n_ctx"
    assert any(re.fullmatch(context, sentence) for sentence in said), said


# clients


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_sixteen_clients_at_once_some_of_which_vanish_are_all_answered_from_their_own_texts() -> None:
    command = [sys.executable, str(ROOT / "scripts/clients.py"), "--seconds", "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'left'" in done.stdout
    assert "'busy': 0, 'queue': 0}" in done.stdout
