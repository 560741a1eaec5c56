"""While nothing is merged, a merged cache is the stock cache: logits equal llama-cpp-python's own library bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import random_tokens, read, settings
from tiny_models import MERGED

from asymkv_gguf import Llama

TOKENS = random_tokens(330)
# cache type, flash attention, tokens per batch; without flash attention llama.cpp has no quantized values
WAYS = [("f16", True, 64), ("q8_0", True, 64), ("q4_0", True, 64), ("f16", False, 64), ("f16", True, 330), ("f16", False, 1)]
CASES = [(model, *way) for model in MERGED for way in WAYS]


def case_name(model: str, cache_type: str, flash_attn: bool, n_batch: int) -> str:
    return f"{model}-{cache_type}-{'flash' if flash_attn else 'plain'}-{n_batch}"


def tokens_of(n_batch: int) -> list[int]:
    return TOKENS if n_batch > 1 else TOKENS[:40]


@pytest.fixture(scope="module")
def stock(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Logits of every case, computed by the stock library in a process of its own."""
    directory = tmp_path_factory.mktemp("stock")
    cases = [
        {
            "name": case_name(model, cache_type, flash_attn, n_batch),
            "model": str(tiny(model)),
            "tokens": tokens_of(n_batch),
            "n_batch": n_batch,
            "settings": settings(cache_type, flash_attn, n_batch=n_batch),
        }
        for model, cache_type, flash_attn, n_batch in CASES
    ]
    (directory / "cases.json").write_text(json.dumps(cases))
    script = Path(__file__).with_name("stock_logits.py")
    subprocess.run([sys.executable, str(script), str(directory / "cases.json"), str(directory / "logits.npz")], check=True)
    return np.load(directory / "logits.npz")


@pytest.mark.parametrize("per_head", [True, False], ids=["per-head", "per-layer"])
@pytest.mark.parametrize(("model", "cache_type", "flash_attn", "n_batch"), CASES, ids=[case_name(*case) for case in CASES])
def test_logits_are_bit_equal_to_stock_while_nothing_is_merged(
    tiny: Callable[[str], Path], stock: Any, model: str, cache_type: str, flash_attn: bool, n_batch: int, per_head: bool
) -> None:
    llm = Llama(
        str(tiny(model)),
        asymkv={"budget": 512, "per_head": per_head},
        **settings(cache_type, flash_attn, n_batch=n_batch),
    )
    logits = read(llm, tokens_of(n_batch), n_batch)
    assert llm.asymkv_stats().compressions == 0
    llm.close()
    np.testing.assert_array_equal(logits, stock[case_name(model, cache_type, flash_attn, n_batch)])


@pytest.mark.parametrize("model", list(MERGED))
def test_logits_are_bit_equal_to_stock_when_asymkv_is_off(tiny: Callable[[str], Path], stock: Any, model: str) -> None:
    llm = Llama(str(tiny(model)), **settings())
    np.testing.assert_array_equal(read(llm, TOKENS, 64), stock[case_name(model, "f16", True, 64)])
    llm.close()
