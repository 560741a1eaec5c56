from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from bundled_build import Bundled, build_bundled
from device_kernels import Library, build_library
from metal_shim import Shim, build_shim
from tiny_models import MERGED, REFUSED

import asymkv_gguf  # noqa: F401  before any test module imports llama_cpp, which would load its own libllama

# what a script starts in the background ignores Ctrl-C, and so would every process that the tests interrupt
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Path of a tiny random model, written on first use."""
    directory = tmp_path_factory.mktemp("tiny-models")

    def path(name: str) -> Path:
        file = directory / f"{name}.gguf"
        if not file.exists():
            writers = {**MERGED, **{refused: write for refused, (write, _) in REFUSED.items()}}
            writers[name](file)
        return file

    return path


@pytest.fixture(scope="session")
def device_library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """The kernels of compression for devices, compiled for the CPU on first use."""
    return build_library(tmp_path_factory.mktemp("device-kernels"))


@pytest.fixture(scope="session")
def metal(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    """ggml's Metal backend on the CPU; compiled on first use."""
    kept = os.environ.get("ASYMKV_METAL_SHIM")  # for development: a directory where it is compiled again and again
    return build_shim(Path(kept) if kept else tmp_path_factory.mktemp("metal"))


@pytest.fixture(scope="session")
def bundled(pytestconfig: pytest.Config) -> Bundled:
    """The libllama under test with a ggml that has our patches, for processes of their own."""
    cache = pytestconfig.cache
    assert cache is not None
    return build_bundled(Path(cache.mkdir("bundled-ggml")))
