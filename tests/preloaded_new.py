"""operator new as a library to preload, which counts bytes and can be told to fail (failing_new.cpp)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def build(directory: Path) -> Path:
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C++ compiler, and LD_PRELOAD")
    library = directory / "failing_new.so"
    source = Path(__file__).with_name("failing_new.cpp")
    subprocess.run([compiler, "-O1", "-std=c++17", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library
