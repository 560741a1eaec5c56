"""What a compression takes beside the cache, counted by operator new."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import preloaded_new
import pytest
from tiny_models import Builder

_COMPRESS = """
import ctypes, sys
import numpy as np
from asymkv_gguf import Llama

most_new = ctypes.CDLL({library!r}).most_new
most_new.restype = ctypes.c_long
llm = Llama({model!r}, asymkv={{"budget": 4096}}, n_ctx=8192, n_batch=512, n_threads=2, n_threads_batch={threads},
            flash_attn={flash_attn}, verbose=False)
llm.eval(np.random.default_rng(0).integers(3, 259, 4608).tolist())
assert llm.asymkv_stats().compressions == 0
assert llm.asymkv_stats().kv_bytes == 4608 * 2 * 8 * 128 * 2
most_new()
llm.asymkv_compress(4096)
most = most_new()
assert llm.asymkv_stats().compressions == 1
assert llm.asymkv_stats().slots == 4096
print(most)
"""


def in_the_shape_of_8b(path: Path) -> None:
    """One layer with the heads of Llama-3.1-8B: 8 for keys and values, of 128 channels, for 32 of queries."""
    b = Builder(path, "llama", d=64, n_layer=1, n_head=32, n_head_kv=8)
    b.head = 128
    b.writer.add_layer_norm_rms_eps(1e-5)
    b.writer.add_key_length(b.head)
    b.writer.add_value_length(b.head)
    b.embeddings()
    b.attention(0, 8)
    b.feed_forward(0)
    b.close()


@pytest.mark.parametrize(("threads", "flash_attn"), [(1, True), (16, True), (2, False)])
def test_a_compression_takes_at_most_64_mib_beside_a_cache_of_8b_with_4096_slots(
    tmp_path: Path, threads: int, flash_attn: bool
) -> None:
    model, library = tmp_path / "8b.gguf", preloaded_new.build(tmp_path)
    in_the_shape_of_8b(model)
    script = _COMPRESS.format(library=str(library), model=str(model), threads=threads, flash_attn=flash_attn)
    environment = {**os.environ, "LD_PRELOAD": str(library), "ASYMKV_COMPRESS": "host"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert 4 << 20 < int(done.stdout) <= 64 << 20
