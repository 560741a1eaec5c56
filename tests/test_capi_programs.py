"""C++ programs that use the C API (native/tests/capi), with the libllama under test.

scripts/sanitize.sh runs them under sanitizers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from bundled_build import Bundled
from llama_source import ROOT, source_archive

from asymkv_gguf.cli.demo import MODEL
from asymkv_gguf.native.loader import load

sys.path.insert(0, str(ROOT / "cmake"))

import prepare_source

SOURCES = ROOT / "native" / "tests" / "capi"
PROGRAMS = sorted(path.stem for path in SOURCES.glob("*.cpp"))

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links with the library itself, as Windows does not")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the programs, and of a libllama under the name that they ask for."""
    directory = tmp_path_factory.mktemp("capi")
    source = directory / "llama.cpp"
    prepare_source.extract(source_archive(), source)
    compiler = os.environ.get("CXX") or shutil.which("c++") or "g++"
    native = load()
    is_mac = sys.platform == "darwin"
    includes = [f"-I{path}" for path in (ROOT / "native/include", source / "include", source / "ggml/include")]
    link = ["-Wl,-undefined,dynamic_lookup"] if is_mac else ["-Wl,--allow-shlib-undefined", "-pthread"]
    for name in PROGRAMS:
        command = [
            *compiler.split(), "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", *includes,
            str(SOURCES / f"{name}.cpp"), str(native.library), *link, "-o", str(directory / name),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    (directory / ("libllama.0.dylib" if is_mac else "libllama.so.0")).symlink_to(native.library)
    return directory


def run(programs: Path, ggml: Path, name: str, *arguments: str, **variables: str) -> str:
    """What it prints; an AssertionError with its last words if it fails."""
    path = f"{programs}{os.pathsep}{ggml}"
    environment = {**os.environ, "LD_LIBRARY_PATH": path, "DYLD_LIBRARY_PATH": path, "GGML_NO_BACKTRACE": "1", **variables}
    command = [str(programs / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, f"{done.returncode}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def test_all_programs_are_run() -> None:
    assert PROGRAMS == ["fuzz-state", "test-capi", "test-capi-threads"]


def test_the_c_api_does_what_it_says_and_refuses_the_rest(programs: Path) -> None:
    said = run(programs, load().ggml_dir, "test-capi", str(MODEL))
    assert "ok refusals\n" in said
    assert "ok horizon and compact positions: " in said
    assert said.endswith("ok all of the C API\n")


@pytest.mark.parametrize("compress", ["host", "device"])
def test_the_c_api_with_ops_inside_of_ggml(programs: Path, bundled: Bundled, compress: str) -> None:
    said = run(programs, bundled.root / "lib", "test-capi", str(MODEL), ASYMKV_COMPRESS=compress)
    assert said.endswith("ok all of the C API\n")


def test_two_contexts_in_two_threads_do_what_each_does_alone(programs: Path) -> None:
    assert run(programs, load().ggml_dir, "test-capi-threads", str(MODEL)).startswith("ok two contexts")


@pytest.mark.parametrize("model", ["recall", "gemma2", "lfm2"])
def test_a_damaged_state_is_refused_or_sound(programs: Path, tiny: Callable[[str], Path], model: str) -> None:
    """Caches of one part; of two, one with a sliding window; and beside recurrent layers."""
    path = MODEL if model == "recall" else tiny(model)
    assert run(programs, load().ggml_dir, "fuzz-state", str(path)).startswith("ok fuzz-state: ")
