"""A bundled installation for the tests: the libllama under test beside a ggml with our patches, built once per session.

The libllama of a bundled build differs from a thin one's only in where it finds ggml, so it is not compiled again. The build
stays in pytest's cache directory, so that the next run compiles only what changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from llama_source import ROOT, source_archive

from asymkv_gguf.native.loader import load

LIBRARIES = ("ggml", "ggml-base", "ggml-cpu", "ggml-rpc")
PROGRAMS = ("test-backend-ops", "test-native-devices", "bench-attn")


@dataclass(frozen=True)
class Bundled:
    """Where it is: `root` is for ASYMKV_GGUF_NATIVE, `programs` has PROGRAMS."""

    root: Path
    programs: Path

    def environment(self, **variables: str) -> dict[str, str]:
        """For a process that runs with it."""
        return {**os.environ, "ASYMKV_GGUF_NATIVE": str(self.root), **variables}


def build_bundled(directory: Path) -> Bundled:
    """Configured and compiled in `directory`; an AssertionError with the compiler's words if that fails."""
    bin_dir = Path(sys.executable).parent  # cmake and ninja come with the test extra
    build = directory / "build"
    for command in (
        [
            "cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={bin_dir / 'ninja'}",
            "-DASYMKV_BUNDLE_GGML=ON", f"-DASYMKV_LLAMA_SOURCE={source_archive()}",
        ],
        ["cmake", "--build", str(build), "--target", *LIBRARIES, *PROGRAMS],
    ):  # fmt: skip
        done = subprocess.run([str(bin_dir / command[0]), *command[1:]], capture_output=True, text=True)
        assert done.returncode == 0, "\n".join((done.stdout + done.stderr).splitlines()[-60:])
    native = load()
    root = directory / "asymkv_gguf"
    shutil.rmtree(root, ignore_errors=True)
    (root / "lib").mkdir(parents=True)
    (root / "include").mkdir()
    shutil.copy2(native.header, root / "include")
    for library in (native.library, *ggml_libraries(build)):
        shutil.copy2(library, root / "lib")
    return Bundled(root, build / "bin")


def ggml_libraries(build: Path) -> list[Path]:
    """Each library once, under the name that the others ask for."""
    found = [path for path in build.rglob("libggml*") if not path.is_symlink() and {".so", ".dylib"} & set(path.suffixes)]
    assert {path.name.removeprefix("lib").split(".")[0] for path in found} == set(LIBRARIES)
    return found
