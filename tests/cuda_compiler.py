"""nvcc where it is installed, the patched ggml, and what is in the machine code that it makes. Nothing is run on a GPU."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from llama_source import source_archive

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "cmake"))

import prepare_source  # noqa: E402

KV_TYPES = ("F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16")
VEC_KERNELS = {("F16", "F16"), ("Q4_0", "Q4_0"), ("Q8_0", "Q8_0"), ("BF16", "BF16")}  # upstream's default


def find_nvcc() -> str:
    """nvcc on the PATH, of CUDA_PATH, or where its installer puts it; skips the test without one."""
    places = [os.environ.get("PATH", ""), str(Path(os.environ.get("CUDA_PATH", "/usr/local/cuda")) / "bin")]
    nvcc = shutil.which("nvcc", path=os.pathsep.join(places))
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    return nvcc


def toolkit_of(nvcc: str) -> Path:
    """Its directory as nvcc itself says: what is on the PATH may be a script that calls another one."""
    done = subprocess.run([nvcc, "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull], capture_output=True, text=True)
    found = re.search(r"^#\$ TOP=(.*)$", done.stdout + done.stderr, re.MULTILINE)
    assert found is not None, done.stdout + done.stderr
    return Path(found[1]).resolve()


def cublas_headers(nvcc: str) -> list[str]:
    """Options for nvcc that find cublas_v2.h, which is of the toolkit or of the package nvidia-cublas."""
    if (toolkit_of(nvcc) / "include/cublas_v2.h").is_file():
        return []
    for directory in Path(sysconfig.get_path("purelib")).glob("nvidia/*/include"):
        if (directory / "cublas_v2.h").is_file():
            return [f"-I{directory}"]
    pytest.skip("nvcc is installed, but not cuBLAS's headers: pip install nvidia-cublas")


def prepared_tree(work: Path, patches: Path) -> Path:
    """llama.cpp with these patches; skips the test without nvcc."""
    find_nvcc()
    prepare_source.prepare(patches, work, str(source_archive()))
    return work / "llama.cpp"


class Compiler:
    """nvcc with upstream's flags for ggml-cuda, for one architecture and without a GPU."""

    def __init__(self, tree: Path, directory: Path) -> None:
        self.tree, self.directory = tree, directory
        nvcc = find_nvcc()
        ggml = tree / "ggml"
        self.command = [
            nvcc, "-std=c++17", "-O3", "-use_fast_math", "-extended-lambda", "-DGGML_CUDA_USE_GRAPHS",
            '-DGGML_CUDA_FA_QUANTS="q4_0-q4_0,q8_0-q8_0,f16-f16,bf16-bf16"',
            *(f"-DGGML_CUDA_FA_{k}_{v}={int((k, v) in VEC_KERNELS)}" for k in KV_TYPES for v in KV_TYPES),
            f"-I{ggml / 'include'}", f"-I{ggml / 'src'}", f"-I{ggml / 'src/ggml-cuda'}",
            f"-I{ROOT / 'native/ggml'}", f"-I{ROOT / 'native/ggml/cuda'}", *cublas_headers(nvcc),
        ]  # fmt: skip

    def compile(self, file: Path, architecture: int) -> Path:
        """Both halves, the host's and the device's."""
        return self._run(file, architecture, "-c", ".o")

    def machine_code(self, text: str, architecture: int) -> dict[str, bytes]:
        """Of a source: kernel -> its instructions, by its name without its parameters."""
        file = self.directory / "kernels.cu"
        file.write_text(text, encoding="utf-8")
        return kernels_of(self._run(file, architecture, "-cubin", ".cubin"))

    def _run(self, file: Path, architecture: int, kind: str, suffix: str) -> Path:
        result = self.directory / (file.stem + suffix)
        done = subprocess.run(
            [*self.command, f"-arch=sm_{architecture}", kind, str(file), "-o", str(result)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return result


def kernels_of(cubin: Path) -> dict[str, bytes]:
    """The text sections of a CUDA ELF file, those of the kernels with template arguments."""
    data = cubin.read_bytes()
    (table,) = struct.unpack_from("<Q", data, 40)
    n_sections, i_names = struct.unpack_from("<HH", data, 60)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + 64 * i) for i in range(n_sections)]
    code: dict[str, bytes] = {}
    for name, _, _, _, offset, size, *_ in headers:
        start = headers[i_names][4] + name
        found = re.fullmatch(r"\.text\.(_Z\w+?)EEv\w+", data[start : data.index(b"\0", start)].decode())
        if found:
            code[found[1]] = data[offset : offset + size]
    return code
