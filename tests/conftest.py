from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import MERGED, PER_LAYER, REFUSED

import asymkv_gguf  # noqa: F401  before any test module imports llama_cpp, which would load its own libllama


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Path of a tiny random model, written on first use."""
    directory = tmp_path_factory.mktemp("tiny-models")

    def path(name: str) -> Path:
        file = directory / f"{name}.gguf"
        if not file.exists():
            writers = {**MERGED, **PER_LAYER, **{refused: write for refused, (write, _) in REFUSED.items()}}
            writers[name](file)
        return file

    return path
