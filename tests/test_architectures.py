"""docs/models.md says what becomes of every architecture that llama.cpp knows, and the promises that it makes hold.

Here for one architecture of each kind, and for those that are refused; `python tools/write_models_docs.py --check` takes
all of them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asymkv_gguf import reference
from asymkv_gguf.errors import UnsupportedError
from asymkv_gguf.llama import _api

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import arch_merged
import architectures
import dummy_models
import write_models_docs

PAGE = write_models_docs.TARGET.read_text(encoding="utf-8")
LISTED = re.findall(r"^\| `(\S+)` \|", PAGE, re.MULTILINE)
MERGED = re.findall(r"^\| `(\S+)` \|[^|]+\|[^|]+\|$", PAGE, re.MULTILINE)
OTHERS = [arch for arch in LISTED if arch not in MERGED]
# RoPE of every kind and none, windows, hybrids of every kind, caches that layers share, soft caps, experts, attention sinks
KINDS = [
    "llama", "llama4", "gpt2", "gptneox", "grok", "phi3", "qwen3", "qwen3next", "plamo2", "gemma2", "gemma3n", "gemma4",
    "jamba", "falcon-h1", "deepseek2-ocr", "nemotron_h", "granitehybrid", "afmoe", "gpt-oss", "lfm2", "mimo2", "step35",
    "minimax-01", "hrm_text", "cohere2", "exaone4",
]  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    found = architectures.examine([*KINDS, *OTHERS], tmp_path_factory.mktemp("dummy-models"))
    return {row["arch"]: row for row in found}


def test_the_page_lists_what_the_library_knows_once() -> None:
    assert sorted(LISTED) == sorted(_api.architectures())
    assert set(KINDS) <= set(MERGED)
    assert f"{len(MERGED)} of {len(LISTED)} are merged" in PAGE


@pytest.mark.parametrize("arch", [*KINDS, *OTHERS])
def test_an_architecture_is_what_the_page_says(rows: dict[str, dict[str, Any]], arch: str) -> None:
    assert rows[arch]["verdict"] != "failed", rows[arch]["reason"]
    assert f"\n{write_models_docs.line_of(rows[arch])}\n" in PAGE


def test_a_refusal_is_one_sentence_that_names_the_architecture(rows: dict[str, dict[str, Any]]) -> None:
    for arch in OTHERS:
        if rows[arch]["verdict"] == "refused":
            assert rows[arch]["reason"].startswith(write_models_docs.prefix(arch))
            assert "\n" not in rows[arch]["reason"]


def test_a_wrong_angle_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "llama.gguf"
    dummy_models.write(path, "llama")
    assert arch_merged.check_rope(path, True) == "norm"
    rotate = reference.rotate
    monkeypatch.setattr(reference, "rotate", lambda keys, delta, *rest: rotate(keys, delta + 0.1, *rest))
    with pytest.raises(arch_merged.CheckError, match="rotated keys of layer 0 are off"):
        arch_merged.check_rope(path, True)


def test_other_logits_than_stocks_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "qwen2.gguf"
    dummy_models.write(path, "qwen2")
    with pytest.raises(arch_merged.CheckError, match="logits are not stock's"):
        arch_merged.check_identity(path, True, {str(flash): np.zeros(1) for flash in (True, False)})


def test_a_model_with_windows_in_every_layer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lfm2.gguf"
    dummy_models.write(path, "lfm2", **{"attention.sliding_window": 64})
    with pytest.raises(UnsupportedError, match="every layer with attention has a sliding window, and no cache grows"):
        arch_merged.make(path, True)


def test_a_model_that_llama_cpp_does_not_make_is_told(tmp_path: Path) -> None:
    with pytest.raises(dummy_models.DummyError, match="key not found in model: llama.block_count"):
        dummy_models.write(tmp_path / "llama.gguf", "llama", block_count=None)
