"""What is in the wheel and in the sdist, apart from what the native build adds."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_BUILD = """
import sys
from scikit_build_core import build
build.build_sdist(sys.argv[1])
build.build_wheel(sys.argv[1], {"wheel.cmake": "false", "build-dir": sys.argv[1] + "/build"})
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-c", _BUILD, str(directory)], cwd=ROOT, check=True, capture_output=True)
    return directory


def files(directory: str) -> set[str]:
    found = (path for path in (ROOT / directory).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in found}


def test_the_wheel_has_every_file_of_the_package_and_says_that_it_is_typed(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("asymkv_gguf/")}
    assert names == files("asymkv_gguf")
    assert {"asymkv_gguf/py.typed", "asymkv_gguf/data/recall.gguf", "asymkv_gguf/server/static/narrow.css"} <= names


def test_the_sdist_has_what_its_tests_and_its_build_need(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for directory in ("asymkv_gguf", "native", "patches", "cmake", "tests", "tools", "benchmarks", "scripts", "docs"):
        assert files(directory) <= names
    assert {"pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE"} <= names


def test_only_the_server_the_benchmark_and_plots_want_more_than_the_plain_installation() -> None:
    program = """
import importlib, pkgutil, sys
for extra in "fastapi starlette uvicorn sse_starlette prometheus_client pydantic matplotlib gguf psutil".split():
    sys.modules[extra] = None
import asymkv_gguf
for module in pkgutil.walk_packages(asymkv_gguf.__path__, "asymkv_gguf."):
    try:
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    except ModuleNotFoundError:
        print(module.name)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "asymkv_gguf.server.app" in done.stdout.split()
    for name in done.stdout.split():
        assert name.startswith(("asymkv_gguf.server.", "asymkv_gguf.bench.")) or name.rpartition(".")[2] in ("plot", "plots")
