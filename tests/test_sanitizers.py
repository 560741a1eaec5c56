"""The planner's unit tests and its fuzzer under sanitizers: scripts/sanitize.sh. Compiled here, without llama.cpp."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TESTS = sorted(path.stem for path in (ROOT / "native" / "tests").glob("*.cpp"))


def _has_sanitizers(directory: Path) -> bool:
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if sys.platform != "linux" or not compiler:
        return False
    source = directory / "empty.cpp"
    source.write_text("int main() {}\n")
    command = [*compiler.split(), "-fsanitize=address,undefined", str(source), "-o", str(directory / "empty")]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_native_tests_are_clean_under_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    if not _has_sanitizers(tmp_path):
        pytest.skip("the C++ compiler cannot link AddressSanitizer's and UndefinedBehaviorSanitizer's libraries")
    bin_dir = Path(sys.executable).parent  # cmake and ninja come with the test extra
    environment = {
        **os.environ,
        "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
        "BUILD": str(tmp_path / "build"),
        "CMAKE_GENERATOR": "Ninja",
    }
    done = subprocess.run(
        [str(ROOT / "scripts" / "sanitize.sh"), "address"], capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-8000:]
    assert "ok fuzz-plan: " in done.stdout
    assert "ok two threads plan as one does" in done.stdout
    cache = (tmp_path / "build" / "CMakeCache.txt").read_text()
    assert "ASYMKV_SANITIZE:STRING=address,undefined" in cache
    for name in TESTS:
        assert b"__asan_report_load4" in (tmp_path / "build" / name).read_bytes(), f"{name} was compiled without sanitizers"


def test_an_unknown_run_is_one_sentence() -> None:
    done = subprocess.run([str(ROOT / "scripts" / "sanitize.sh"), "memory"], capture_output=True, text=True)
    assert done.returncode == 2
    runs = "address, thread, fuzz, capi, capi-thread and fuzz-state"
    assert done.stderr == f"there is no sanitizer run 'memory'; there are {runs}\n"
