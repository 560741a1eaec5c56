"""Run as a script, in a process without asymkv_gguf: dummy models, and what llama-cpp-python's own libllama says of them.

    python arch_stock.py DIRECTORY ARCH...

For every architecture a line of JSON when it begins, and another one, with the reason where there are no logits.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import dummy_models
import llama_cpp
import numpy as np

N_BATCH = 64
TOKENS = [1, *np.random.default_rng(11).integers(3, 259, 199).tolist()]


def settings(flash_attn: bool, n_ctx: int = 512) -> dict[str, Any]:
    """Keywords of llama_cpp.Llama. One thread: these models are tiny."""
    return {
        "n_ctx": n_ctx,
        "n_batch": N_BATCH,
        "n_ubatch": N_BATCH,
        "flash_attn": flash_attn,
        "n_threads": 1,
        "n_threads_batch": 1,
        "swa_full": False,
        "verbose": False,
    }


def read(llm: llama_cpp.Llama, tokens: list[int]) -> np.ndarray:
    """Logits after every batch, [n_batches, n_vocab]."""
    logits = []
    for start in range(0, len(tokens), N_BATCH):
        llm.eval(tokens[start : start + N_BATCH])
        logits.append(np.array(np.ctypeslib.as_array(llama_cpp.llama_get_logits(llm.ctx), shape=(llm.n_vocab(),))))
    return np.array(logits)


def main(directory: Path, archs: list[str]) -> None:
    for arch in archs:
        print(json.dumps({"arch": arch}), flush=True)
        problem, logits = "", {}
        try:
            dummy_models.write(directory / f"{arch}.gguf", arch)
            for flash_attn in (True, False):
                llm = llama_cpp.Llama(str(directory / f"{arch}.gguf"), **settings(flash_attn))
                logits[str(flash_attn)] = read(llm, TOKENS)
                llm.close()
            if not all(np.isfinite(values).all() for values in logits.values()):
                problem = "its logits are not finite"
        except Exception as error:
            problem = str(error)
        np.savez(directory / f"{arch}.npz", allow_pickle=False, **logits)
        print(json.dumps({"arch": arch, "problem": problem}), flush=True)
    assert "asymkv_gguf" not in sys.modules


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
