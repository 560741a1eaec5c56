"""The planner's own unit tests, in C++: compiled here, without ggml, and run one by one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TESTS = sorted(path.stem for path in (ROOT / "native" / "tests").glob("*.cpp"))


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("native-tests")
    bin_dir = Path(sys.executable).parent  # cmake and ninja come with the test extra
    commands = [
        [str(bin_dir / "cmake"), "-S", str(ROOT / "cmake" / "native-tests"), "-B", str(directory), "-G", "Ninja",
         f"-DCMAKE_MAKE_PROGRAM={bin_dir / 'ninja'}"],
        [str(bin_dir / "cmake"), "--build", str(directory)],
    ]  # fmt: skip
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return directory


def test_there_are_native_tests() -> None:
    assert TESTS


@pytest.mark.parametrize("name", TESTS)
def test_native(build: Path, name: str) -> None:
    done = subprocess.run([str(build / name)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
