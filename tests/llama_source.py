"""The source archive of llama-cpp-python, where the build or the developer has it at hand."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "cmake"))

import prepare_source  # noqa: E402


def source_archive() -> Path:
    """The pinned archive; skips the test where there is none, as in an installation from a wheel."""
    named = os.environ.get("ASYMKV_LLAMA_SOURCE", "")
    candidates = [Path(named), *ROOT.glob(f"build/*/upstream/{prepare_source.ARCHIVE}")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    pytest.skip("needs llama-cpp-python's source archive: build here with pip, or set ASYMKV_LLAMA_SOURCE to the archive")
