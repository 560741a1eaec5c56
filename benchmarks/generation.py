"""A long generation in a small cache: does the text stay a text?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from asymkv_gguf import Llama
from asymkv_gguf.eval.logits import losses
from asymkv_gguf.markdown_table import table

GENERATED: Final = "generation"
_POLICIES: Final = ("asymkv-exact", "evict-same", "h2o", "streaming")
_BUDGET: Final = 192
_JUDGED: Final = 256  # tokens that a full cache reads at a time
_PARTS: Final = 4


def generation_table(model: Path, text: Path, n_tokens: int, n_threads: int, work: Path) -> str:
    """Told by one policy after the other from the same start: NLL under a full cache that reads pieces, and variety."""
    rows = []
    for policy in _POLICIES:
        kept = work / f"generation-{policy}-{n_tokens}.json"
        if not kept.exists():
            kept.write_text(json.dumps(_generate(model, text, policy, n_tokens, n_threads)), encoding="utf-8")
        tokens = json.loads(kept.read_text(encoding="utf-8"))
        part = len(tokens) // _PARTS
        for index in range(_PARTS):
            piece = tokens[index * part : (index + 1) * part]
            nll = _judge(model, piece, n_threads)
            rows.append([policy, f"{index * part:,}-{(index + 1) * part:,}", f"{nll:.3f}", f"{_variety(piece):.1%}"])
    head = f"{n_tokens:,} tokens, budget {_BUDGET}, positions compact, temperature 0.8, the same seed\n\n"
    return head + table(["policy", "tokens", "NLL", "different 4-grams"], rows)


def _llama(model: Path, n_threads: int, **more: Any) -> Llama:
    return Llama(str(model), n_threads=n_threads, n_threads_batch=n_threads, flash_attn=True, verbose=False, **more)


def _generate(model: Path, text: Path, policy: str, n_tokens: int, n_threads: int) -> list[int]:
    asymkv = {"policy": policy, "budget": _BUDGET, "positions": "compact", "recent": 64, "chunk": 64}
    llm = _llama(model, n_threads, asymkv=asymkv, n_ctx=n_tokens + 512, n_batch=64, seed=1)
    start = llm.tokenize(text.read_bytes()[:400])
    tokens: list[int] = []
    for token in llm.generate(start, temp=0.8, top_p=0.95, top_k=40, reset=True):
        tokens.append(int(token))
        if len(tokens) == n_tokens:
            break
    llm.close()
    return tokens


def _judge(model: Path, tokens: list[int], n_threads: int) -> float:
    llm = _llama(model, n_threads, asymkv=False, n_ctx=_JUDGED, n_batch=_JUDGED)
    found = []
    for start in range(0, len(tokens) - _JUDGED + 1, _JUDGED):
        llm.reset()
        found.append(losses(llm, tokens[start : start + _JUDGED])[_JUDGED // 4 :])
    llm.close()
    return float(np.concatenate(found).mean())


def _variety(tokens: list[int], n: int = 4) -> float:
    grams = {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}
    return len(grams) / (len(tokens) - n + 1)
