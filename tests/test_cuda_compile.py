"""The CUDA code compiles, and who has no log. cardinalities runs stock's machine code. Nothing here runs on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from cuda_compiler import ROOT, Compiler, prepared_tree

CUDA = Path("ggml/src/ggml-cuda")
OUR_KERNELS = sorted((ROOT / "native/ggml/cuda").glob("*.cu"))

# the attention kernels, without and with logit softcap: these serve for log. cardinalities, too
KERNELS = {
    "vec": (90, "fattn-vec.cuh", "flash_attn_ext_vec<128, 1, GGML_TYPE_F16, GGML_TYPE_F16, {}>"),
    "vec, quantized": (75, "fattn-vec.cuh", "flash_attn_ext_vec<64, 2, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, {}>"),
    "tile": (75, "fattn-tile.cuh", "flash_attn_tile<80, 80, 8, 1, {}>"),
    "tile, GQA": (75, "fattn-tile.cuh", "flash_attn_tile<128, 128, 2, 8, {}>"),
    "mma": (75, "fattn-mma-f16.cuh", "flash_attn_ext_f16<64, 64, 8, 1, {}, false, false>"),
    "mma, GQA": (90, "fattn-mma-f16.cuh", "flash_attn_ext_f16<128, 128, 16, 4, {}, false, false>"),
}
LAUNCHERS = {
    "vec": (90, '#include "fattn-vec.cuh"\nDECL_FATTN_VEC_CASE(128, GGML_TYPE_Q8_0, GGML_TYPE_Q8_0);\n'),
    "mma": (90, '#include "fattn-mma-f16.cuh"\nDECL_FATTN_MMA_F16_CASE(128, 128, 2, 4);\n'),
    "tile": (75, '#include "fattn-tile.cuh"\nDECL_FATTN_TILE_CASE(64, 64);\n'),
}


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    work = tmp_path_factory.mktemp("patched")
    return Compiler(prepared_tree(work, ROOT / "patches"), work)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    work = tmp_path_factory.mktemp("stock")
    (work / "patches").mkdir()
    (work / "patches/series").write_text("")
    return Compiler(prepared_tree(work, work / "patches"), work)


@pytest.mark.parametrize("name", KERNELS)
def test_without_log_cardinalities_attention_is_stocks_machine_code(stock: Compiler, patched: Compiler, name: str) -> None:
    architecture, header, kernel = KERNELS[name]
    kernels = ", ".join(kernel.format(softcap) for softcap in ("false", "true"))
    text = f'#include "{header}"\nfattn_kernel_t kernels[] = {{ {kernels} }};\n'
    before, after = stock.machine_code(text, architecture), patched.machine_code(text, architecture)
    attention = {kernel for kernel in before if "flash_attn_ext" in kernel or "flash_attn_tile" in kernel}
    assert len(attention) == 2
    assert set(before) == set(after)
    differ = {kernel for kernel in before if before[kernel] != after[kernel]}
    assert differ == {kernel for kernel in attention if "Lb1" in kernel}  # the one with softcap, and that does differ


@pytest.mark.parametrize("name", LAUNCHERS)
def test_attention_compiles_with_its_launcher(patched: Compiler, name: str) -> None:
    architecture, text = LAUNCHERS[name]
    file = patched.directory / f"launcher-{name}.cu"
    file.write_text(text)
    assert patched.compile(file, architecture).stat().st_size > 0


@pytest.mark.parametrize("name", ["softmax.cu", "ggml-cuda.cu", "fattn.cu"])
def test_a_patched_file_compiles(patched: Compiler, name: str) -> None:
    assert patched.compile(patched.tree / CUDA / name, 90).stat().st_size > 0


@pytest.mark.parametrize("file", OUR_KERNELS, ids=lambda file: str(file.name))
def test_our_kernels_compile(patched: Compiler, file: Path) -> None:
    assert patched.compile(file, 90).stat().st_size > 0
