"""Metal's attention kernels with ln(cardinality), compiled as C++ out of the patched tree and run on the CPU."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from llama_source import ROOT
from metal_shim import F16, F32, Q4_0, Q8_0, Attention, Shim

sys.path.insert(0, str(ROOT / "cmake" / "metal-shim"))

from translate import supports_op, translated

# a quantized K or V is rounded to F16 on its way
TOLERANCE = {F16: 2e-6, F32: 2e-6, Q8_0: 2e-3, Q4_0: 2e-3}

VEC, TILES = 3, 29  # tokens; from 20 on the kernel with 8x8 matrices runs
DEQUANTIZED = 33  # from 32 on quantized K and V are made F16 first


def check(metal: Shim, attention: Attention, *parts: str) -> None:
    """Equal to NumPy, by pipelines whose names hold `parts`."""
    metal.dispatched()
    result = attention.on(metal)
    assert result is not None
    names = metal.dispatched()
    for part in (*parts, f"_lc={int(attention.n_group > 0)}"):
        assert any(re.search(part, name) for name in names), (part, names)
    expected = attention.expected()
    assert np.abs(result - expected).max() <= TOLERANCE[attention.kind] * max(1.0, np.abs(expected).max())


def test_the_device_offers_attention_with_log_card(metal: Shim) -> None:
    assert metal.library.metal_shim_asymkv_ops() & 1


@pytest.mark.parametrize("n_group", ["none", "one row", "a row per KV head"])
@pytest.mark.parametrize("kind", [F16, Q8_0])
@pytest.mark.parametrize("n_gqa", [1, 4, 8])
@pytest.mark.parametrize("n_tokens", [VEC, TILES])
def test_heads_types_and_rows(metal: Shim, n_tokens: int, n_gqa: int, kind: GGMLQuantizationType, n_group: str) -> None:
    n_head_kv = {1: 3, 4: 2, 8: 2}[n_gqa]
    attention = Attention(
        n_tokens=n_tokens, n_head=n_head_kv * n_gqa, n_head_kv=n_head_kv, kind=kind, n_kv=100 + n_gqa,
        n_group={"none": 0, "one row": 1, "a row per KV head": n_head_kv}[n_group],
    )  # fmt: skip
    part = r"flash_attn_ext_(f16|q8_0)_dk64" if n_tokens == TILES else r"flash_attn_ext_vec_(f16|q8_0)_dk64"
    check(metal, attention, part, "_kvpad=1")


def test_log_card_matters_more_than_the_tolerance() -> None:
    attention = Attention(n_tokens=VEC, n_head=2, n_head_kv=2, n_group=2)
    expected = attention.expected()
    attention.log_card[1] = attention.log_card[0]
    rows_mixed = attention.expected()
    attention.n_group = 0
    assert np.abs(attention.expected() - expected).max() > 0.02
    assert np.abs(rows_mixed - expected)[1].max() > 0.02


# a head of 72 channels is not a whole number of blocks
HEADS = [(dk, kind) for dk in (32, 64, 72, 128, 256) for kind in (F16, F32, Q4_0, Q8_0) if dk % 32 == 0 or kind in (F16, F32)]


@pytest.mark.parametrize(("dk", "kind"), HEADS)
@pytest.mark.parametrize("n_tokens", [1, TILES])
def test_head_sizes(metal: Shim, n_tokens: int, dk: int, kind: GGMLQuantizationType) -> None:
    check(metal, Attention(n_tokens=n_tokens, dk=dk, kind=kind, n_head_kv=2, n_group=2, n_kv=70), f"dk{dk}_dv{dk}")


@pytest.mark.parametrize("n_tokens", [VEC, TILES])
@pytest.mark.parametrize("n_kv", [1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 300, 2100])
def test_numbers_of_slots(metal: Shim, n_tokens: int, n_kv: int) -> None:
    """Around the tiles of both kernels (32 and 64); at 2,100 the vec kernel's workgroups have several simdgroups."""
    tile = 32 if n_tokens == VEC else 64
    attention = Attention(n_tokens=n_tokens, n_head=2, n_head_kv=2, n_group=2, n_kv=n_kv, masked=0.2 if n_kv > 1 else 0.0)
    check(metal, attention, f"_kvpad={int(n_kv % tile > 0)}", "nsg=2" if n_kv == 2100 and n_tokens == VEC else "nsg=")


@pytest.mark.parametrize(("n_queries", "n_elements"), [(1, 4), (2, 2), (2, 4), (4, 2), (4, 4)])
@pytest.mark.parametrize("n_tokens", [1, 5])
def test_vec_kernel_for_several_queries(metal: Shim, n_tokens: int, n_queries: int, n_elements: int) -> None:
    metal.library.metal_shim_vec_config(n_queries, n_elements)
    try:
        attention = Attention(n_tokens=n_tokens, n_head_kv=2, n_group=2, bias=0.5)
        check(metal, attention, f"_q{n_queries}_ne{n_elements}_")
    finally:
        metal.library.metal_shim_vec_config(0, 0)


@pytest.mark.parametrize("n_tokens", [VEC, TILES])
@pytest.mark.parametrize("masked", [0.0, 0.99, 1.0])
def test_masks(metal: Shim, n_tokens: int, masked: float) -> None:
    """Nothing masked: tiles whose mask is not even read. All masked: tiles that are skipped, and a result of 0."""
    attention = Attention(n_tokens=n_tokens, masked=masked, n_kv=200, n_group=1)
    if masked == 0.99:
        attention.mask[:, 64:128] = -np.inf
        attention.mask[:, 128:192] = 0
    check(metal, attention, *(["_blk_"] if n_tokens == TILES else []))


@pytest.mark.parametrize("n_tokens", [VEC, TILES])
@pytest.mark.parametrize("extra", ["bias", "alibi", "softcap", "sinks", "all"])
def test_together_with(metal: Shim, n_tokens: int, extra: str) -> None:
    """ln(cardinality) comes after scale and softcap, and ALiBi's slope is for the mask alone."""
    every = extra == "all"
    attention = Attention(
        n_tokens=n_tokens, n_head=6, n_head_kv=2, n_group=2, bias=1.0, max_bias=8.0 if every or extra == "alibi" else 0.0,
        softcap=1.5 if every or extra == "softcap" else 0.0, sinks=every or extra == "sinks",
    )  # fmt: skip
    check(metal, attention, f"_bias={int(attention.max_bias > 0)}_scap={int(attention.softcap > 0)}")


def test_slots_named_by_a_list(metal: Shim) -> None:
    """Where the mask leaves few slots, the vec kernel reads them by their numbers."""
    attention = Attention(n_tokens=VEC, n_head=8, n_head_kv=2, n_group=2, n_kv=300, masked=0.8, sparse=True, bias=0.3)
    check(metal, attention, "vec_idx", "_sparse=1")


def test_quantized_cache_made_f16_first(metal: Shim) -> None:
    attention = Attention(n_tokens=DEQUANTIZED, n_head=8, n_head_kv=2, n_group=2, kind=Q8_0)
    check(metal, attention, "kv_q8_0_f16", "flash_attn_ext_f16_")


@pytest.mark.parametrize("flash", [True, False])
def test_log_card_that_the_same_graph_writes(metal: Shim, flash: bool) -> None:
    """The shim runs what has no barrier between it in the wrong order; with whole tiles, nothing else asks for a barrier."""
    attention = Attention(flash=flash, n_tokens=VEC, n_kv=128, n_head_kv=2, n_group=2, written_before=True)
    check(metal, attention, "cpy_f32_f16")


@pytest.mark.parametrize("n_kv", [100, 101, 2100])
@pytest.mark.parametrize("mask_kind", [F16, F32])
@pytest.mark.parametrize("n_group", [0, 1, 2])
@pytest.mark.parametrize("max_bias", [0.0, 8.0])
def test_soft_max(metal: Shim, n_kv: int, mask_kind: GGMLQuantizationType, n_group: int, max_bias: float) -> None:
    attention = Attention(
        flash=False, n_tokens=VEC, n_head=8, n_head_kv=2, n_group=n_group, n_kv=n_kv, mask_kind=mask_kind, bias=1.0,
        max_bias=max_bias, sinks=n_group == 2,
    )  # fmt: skip
    kernel = f"soft_max_{'f16' if mask_kind == F16 else 'f32'}{'_4' if n_kv % 4 == 0 else ''}_lc"
    check(metal, attention, kernel)


@pytest.mark.parametrize("flash", [True, False])
def test_without_a_mask_it_is_refused(metal: Shim, flash: bool) -> None:
    attention = Attention(flash=flash, n_tokens=VEC, masked=-1)
    assert attention.on(metal) is None


METAL = """\
constant bool FC_flag [[function_constant(FC_BASE + 1)]];

kernel void kernel_plain(
        constant args_t & args,
        device float * x [[buffer(2)]], // an array, or so
        threadgroup float * shared [[threadgroup(0)]],
        ushort i [[thread_index_in_simdgroup]]) {
    threadgroup float sums[N/4];
    float s[N] = { [0 ... N-1] = -1.0f };
}

template [[host_name("kernel_made_f16" )]] kernel kernel_t kernel_made<half, 4>;
template [[host_name("kernel_made_f32" )]] kernel kernel_t kernel_made<float, 4>;
"""

CPP = """\
static msl::function_constant<bool> FC_flag("FC_flag", FC_BASE + 1);

kernel void kernel_plain(
        constant args_t & args,
        device float * x , // an array, or so
        threadgroup float * shared ,
        ushort i ) {
    static float sums[N/4];
    float s[N]; for (auto & x : s) { x = -1.0f; }
} static const std::vector<std::string> msl_arguments_kernel_plain = \
{ "buffer 0", "buffer 2", "threadgroup 0", "thread_index_in_simdgroup" }; \
static const msl::kernel_entry msl_entry_kernel_plain("kernel_plain", msl_arguments_kernel_plain, kernel_plain);

static const msl::kernel_entry msl_entry_11("kernel_made_f16", msl_arguments_kernel_made, kernel_made<half, 4>);

"""


def test_translation() -> None:
    assert translated(METAL, "x.metal", re.compile("kernel_made_f16")) == CPP


@pytest.mark.parametrize("name", ["fa_common", "fa_vec_common", "fa_aux", "softmax"])
def test_translation_leaves_the_kernels_as_they_are(metal: Shim, name: str) -> None:
    text = (metal.tree / "ggml" / "src" / "ggml-metal" / "kernels" / f"{name}.metal").read_text()
    lines = text.splitlines()
    new_lines = translated(text, name, re.compile("")).splitlines()
    changed = [line for line, new in zip(lines, new_lines, strict=True) if line != new]
    known = re.compile(r"\[\[.*\]\]|\}|\s+threadgroup \w+\s+\w+ *\[.*\];|.* = \{ \[0 \.\.\. .*")
    assert not [line for line in changed if not known.search(line)]


def test_translation_finds_what_the_device_supports() -> None:
    with pytest.raises(ValueError, match="ggml-metal-device.m has no ggml_metal_device_supports_op where it was"):
        supports_op("nothing")
