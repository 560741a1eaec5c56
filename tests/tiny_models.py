"""Tiny GGUF models with random weights, one for each way that a cache can look. Written in a blink, with real tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

N_VOCAB = 259  # three special tokens and all bytes
N_CTX = 4096


class Builder:
    """One GGUF file: hyperparameters first, then tensors in the shapes that llama.cpp expects of the architecture."""

    def __init__(self, path: Path, arch: str, *, d: int, n_layer: int, n_head: int, n_head_kv: int | list[int]) -> None:
        self.writer = gguf.GGUFWriter(path, arch)
        self.rng = np.random.default_rng(7)
        self.d, self.n_layer, self.n_head, self.n_ff = d, n_layer, n_head, 2 * d
        self.head = d // n_head
        w = self.writer
        w.add_context_length(N_CTX)
        w.add_embedding_length(d)
        w.add_block_count(n_layer)
        w.add_feed_forward_length(self.n_ff)
        w.add_head_count(n_head)
        w.add_head_count_kv(n_head_kv)
        w.add_file_type(gguf.LlamaFileType.ALL_F32)
        w.add_tokenizer_model("llama")
        w.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))])
        w.add_token_scores([0.0] * N_VOCAB)
        w.add_token_types([2, 3, 3] + [6] * 256)
        w.add_bos_token_id(1)
        w.add_eos_token_id(2)
        w.add_add_space_prefix(False)

    def matrix(self, name: str, n_in: int, n_out: int, scale: float = 1.0) -> None:
        values = self.rng.standard_normal((n_out, n_in)) * scale / np.sqrt(n_in)
        self.writer.add_tensor(name, values.astype(np.float32))

    def vector(self, name: str, n: int, value: float = 1.0) -> None:
        self.writer.add_tensor(name, (value + 0.1 * self.rng.standard_normal(n)).astype(np.float32))

    def embeddings(self, *, output: bool = True) -> None:
        self.matrix("token_embd.weight", self.d, N_VOCAB, scale=np.sqrt(self.d))
        self.vector("output_norm.weight", self.d)
        if output:
            self.matrix("output.weight", self.d, N_VOCAB)

    def attention(self, layer: int, n_head_kv: int, *, bias: bool = False, output: float = 1.0) -> None:
        blk = f"blk.{layer}"
        self.vector(f"{blk}.attn_norm.weight", self.d)
        # sharp enough that heads look at different slots
        self.matrix(f"{blk}.attn_q.weight", self.d, self.n_head * self.head, scale=2.0)
        for name in ("k", "v"):
            self.matrix(f"{blk}.attn_{name}.weight", self.d, n_head_kv * self.head)
        if bias:
            self.vector(f"{blk}.attn_q.bias", self.n_head * self.head, 0.0)
            for name in ("k", "v"):
                self.vector(f"{blk}.attn_{name}.bias", n_head_kv * self.head, 0.0)
        self.matrix(f"{blk}.attn_output.weight", self.n_head * self.head, self.d, scale=output)

    def feed_forward(self, layer: int) -> None:
        blk = f"blk.{layer}"
        self.vector(f"{blk}.ffn_norm.weight", self.d)
        self.matrix(f"{blk}.ffn_gate.weight", self.d, self.n_ff)
        self.matrix(f"{blk}.ffn_up.weight", self.d, self.n_ff)
        self.matrix(f"{blk}.ffn_down.weight", self.n_ff, self.d)

    def close(self) -> None:
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()


def _llama(
    path: Path,
    *,
    arch: str = "llama",
    head: int = 32,
    bias: bool = False,
    factors: bool = False,
    more: Callable[[gguf.GGUFWriter], None] | None = None,
) -> None:
    b = Builder(path, arch, d=4 * head, n_layer=3, n_head=4, n_head_kv=2)
    b.writer.add_layer_norm_rms_eps(1e-5)
    b.writer.add_rope_freq_base(10000.0)
    if more:
        more(b.writer)
    b.embeddings()
    if factors:
        b.writer.add_tensor("rope_freqs.weight", np.linspace(1, 8, head // 2, dtype=np.float32))
    for layer in range(b.n_layer):
        b.attention(layer, 2, bias=bias)
        b.feed_forward(layer)
    b.close()


def _yarn(writer: gguf.GGUFWriter) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(N_CTX // 4)


def _qwen2vl(path: Path) -> None:
    """M-RoPE. Two pairs follow a position's fourth component, which text does not have: they stand still."""
    _llama(path, arch="qwen2vl", bias=True, more=lambda w: w.add_rope_dimension_sections([4, 6, 4, 2]))


def _gptneox(path: Path, *, arch: str = "gptneox") -> None:
    """Fused QKV, biases everywhere; with RoPE on a quarter of each head (gptneox), or ALiBi instead (bloom)."""
    b = Builder(path, arch, d=128, n_layer=2, n_head=4, n_head_kv=4)
    b.writer.add_layer_norm_eps(1e-5)
    if arch == "gptneox":
        b.writer.add_parallel_residual(True)
        b.writer.add_rope_dimension_count(8)
    b.embeddings()
    b.vector("output_norm.bias", b.d, 0.0)
    if arch == "bloom":
        b.vector("token_embd_norm.weight", b.d)
        b.vector("token_embd_norm.bias", b.d, 0.0)
    for layer in range(b.n_layer):
        blk = f"blk.{layer}"
        for norm in ("attn_norm", "ffn_norm"):
            b.vector(f"{blk}.{norm}.weight", b.d)
            b.vector(f"{blk}.{norm}.bias", b.d, 0.0)
        for name, n_in, n_out in (
            ("attn_qkv", b.d, 3 * b.d),
            ("attn_output", b.d, b.d),
            ("ffn_up", b.d, b.n_ff),
            ("ffn_down", b.n_ff, b.d),
        ):
            b.matrix(f"{blk}.{name}.weight", n_in, n_out, scale=1.5)
            b.vector(f"{blk}.{name}.bias", n_out, 0.0)
    b.close()


def _bloom(path: Path) -> None:
    _gptneox(path, arch="bloom")


def _gemma2(path: Path) -> None:
    """Every other layer attends to a sliding window; attention scores are soft-capped."""
    b = Builder(path, "gemma2", d=128, n_layer=4, n_head=4, n_head_kv=2)
    w = b.writer
    w.add_layer_norm_rms_eps(1e-5)
    w.add_key_length(b.head)
    w.add_value_length(b.head)
    w.add_sliding_window(128)
    w.add_attn_logit_softcapping(20.0)
    w.add_final_logit_softcapping(30.0)
    b.embeddings(output=False)
    for layer in range(b.n_layer):
        b.attention(layer, 2)
        b.vector(f"blk.{layer}.post_attention_norm.weight", b.d)
        b.feed_forward(layer)
        b.vector(f"blk.{layer}.post_ffw_norm.weight", b.d)
    b.close()


def _lfm2(path: Path) -> None:
    """A hybrid: short convolutions, and attention in two of four layers."""
    heads = [0, 2, 0, 2]
    b = Builder(path, "lfm2", d=128, n_layer=4, n_head=4, n_head_kv=heads)
    b.writer.add_layer_norm_rms_eps(1e-5)
    b.writer.add_rope_freq_base(10000.0)
    b.writer.add_shortconv_l_cache(3)
    b.matrix("token_embd.weight", b.d, N_VOCAB, scale=np.sqrt(b.d))
    b.vector("token_embd_norm.weight", b.d)
    for layer, n_head_kv in enumerate(heads):
        blk = f"blk.{layer}"
        if n_head_kv:
            b.attention(layer, n_head_kv)
            b.vector(f"{blk}.attn_q_norm.weight", b.head)
            b.vector(f"{blk}.attn_k_norm.weight", b.head)
        else:
            b.vector(f"{blk}.attn_norm.weight", b.d)
            b.matrix(f"{blk}.shortconv.conv.weight", 3, b.d)
            b.matrix(f"{blk}.shortconv.in_proj.weight", b.d, 3 * b.d)
            b.matrix(f"{blk}.shortconv.out_proj.weight", b.d, b.d)
        b.feed_forward(layer)
    b.close()


def write_gpt_oss(
    path: Path, *, d: int = 128, n_layer: int = 2, n_head: int = 4, n_head_kv: int = 2, still: bool = False
) -> None:
    """Attention sinks, experts, and a sliding window in every other layer, of which the first has one.

    `still`: RoPE slowed down until it stands still, and a first layer that adds the same to every token, so that equal
    tokens have equal keys and values in the second one, wherever they are.
    """
    n_expert = 4
    b = Builder(path, "gpt-oss", d=d, n_layer=n_layer, n_head=n_head, n_head_kv=n_head_kv)
    w = b.writer
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(10000.0)
    w.add_key_length(b.head)
    w.add_value_length(b.head)
    w.add_sliding_window(128)
    if still:
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(1e9)
    w.add_expert_count(n_expert)
    w.add_expert_used_count(2)
    w.add_expert_feed_forward_length(b.n_ff)
    b.embeddings()
    for layer in range(b.n_layer):
        blk = f"blk.{layer}"
        output = 0.0 if still and layer == 0 else 1.0
        b.attention(layer, n_head_kv, bias=True, output=output)
        b.vector(f"{blk}.attn_output.bias", b.d, 0.0)
        w.add_tensor(f"{blk}.attn_sinks.weight", np.linspace(5, 8, b.n_head, dtype=np.float32))  # a share that matters
        b.vector(f"{blk}.post_attention_norm.weight", b.d)
        b.matrix(f"{blk}.ffn_gate_inp.weight", b.d, n_expert)
        b.vector(f"{blk}.ffn_gate_inp.bias", n_expert, 0.0)
        for name, n_in, n_out in (("gate", b.d, b.n_ff), ("up", b.d, b.n_ff), ("down", b.n_ff, b.d)):
            experts = (output if name == "down" else 1.0) * b.rng.standard_normal((n_expert, n_out, n_in)) / np.sqrt(n_in)
            w.add_tensor(f"{blk}.ffn_{name}_exps.weight", experts.astype(np.float32))
            w.add_tensor(f"{blk}.ffn_{name}_exps.bias", np.zeros((n_expert, n_out), np.float32))
    b.close()


def _mamba(path: Path) -> None:
    """Recurrent: a state instead of a cache."""
    b = Builder(path, "mamba", d=64, n_layer=1, n_head=1, n_head_kv=1)
    d_inner, d_state, d_conv, dt_rank = 2 * b.d, 16, 4, 4
    w = b.writer
    w.add_layer_norm_rms_eps(1e-5)
    w.add_ssm_conv_kernel(d_conv)
    w.add_ssm_inner_size(d_inner)
    w.add_ssm_state_size(d_state)
    w.add_ssm_time_step_rank(dt_rank)
    b.embeddings()
    b.vector("blk.0.attn_norm.weight", b.d)
    b.matrix("blk.0.ssm_in.weight", b.d, 2 * d_inner)
    b.matrix("blk.0.ssm_conv1d.weight", d_conv, d_inner)
    b.vector("blk.0.ssm_conv1d.bias", d_inner, 0.0)
    b.matrix("blk.0.ssm_x.weight", d_inner, dt_rank + 2 * d_state)
    b.matrix("blk.0.ssm_dt.weight", dt_rank, d_inner)
    b.vector("blk.0.ssm_dt.bias", d_inner, 0.0)
    b.matrix("blk.0.ssm_a", d_state, d_inner)
    b.vector("blk.0.ssm_d", d_inner)
    b.matrix("blk.0.ssm_out.weight", d_inner, b.d)
    b.close()


def _bert(path: Path) -> None:
    """An encoder: it reads its text at once."""
    b = Builder(path, "bert", d=128, n_layer=1, n_head=4, n_head_kv=4)
    w = b.writer
    w.add_layer_norm_eps(1e-5)
    w.add_causal_attention(False)
    w.add_token_type_count(2)
    b.matrix("token_embd.weight", b.d, N_VOCAB)
    b.matrix("token_types.weight", b.d, 2)
    b.matrix("position_embd.weight", b.d, N_CTX)
    b.vector("token_embd_norm.weight", b.d)
    b.vector("token_embd_norm.bias", b.d, 0.0)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        b.matrix(f"blk.0.{name}.weight", b.d, b.d)
        b.vector(f"blk.0.{name}.bias", b.d, 0.0)
    for name in ("attn_output_norm", "layer_output_norm"):
        b.vector(f"blk.0.{name}.weight", b.d)
        b.vector(f"blk.0.{name}.bias", b.d, 0.0)
    b.matrix("blk.0.ffn_up.weight", b.d, b.n_ff)
    b.vector("blk.0.ffn_up.bias", b.n_ff, 0.0)
    b.matrix("blk.0.ffn_down.weight", b.n_ff, b.d)
    b.vector("blk.0.ffn_down.bias", b.d, 0.0)
    b.close()


# how it is written; each one can be merged
MERGED: dict[str, Callable[[Path], None]] = {
    "llama": _llama,  # RoPE NORM, GQA
    "llama-head64": lambda path: _llama(path, head=64),  # quantized caches get a Hadamard transform
    "llama-factors": lambda path: _llama(path, factors=True),  # frequency factors, as in Llama 3.1
    "llama-yarn": lambda path: _llama(path, more=_yarn),
    "qwen2": lambda path: _llama(path, arch="qwen2", bias=True),  # RoPE NEOX
    "gptneox": _gptneox,  # partial NEOX, fused QKV, no GQA
    "gemma2": _gemma2,  # interleaved sliding windows, soft cap
    "lfm2": _lfm2,  # hybrid
    "gpt-oss": write_gpt_oss,  # learned attention sinks
    "qwen2vl": _qwen2vl,  # M-RoPE
}

# and why each one of these cannot be merged at all
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "bloom": (_bloom, "ALiBi"),
    "bert": (_bert, "encoder"),
    "mamba": (_mamba, "recurrent"),
}
