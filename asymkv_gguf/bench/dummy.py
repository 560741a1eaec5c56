"""Models with random weights in the shapes and quantization of known ones, so that anyone measures without a download.

Speed and memory depend on shapes and types alone. The weights are as large as in a trained model (about 1 / sqrt(inputs)),
so that hidden states and logits stay finite.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import numpy.typing as npt

Blocks = npt.NDArray[np.uint8]

N_CTX: Final = 131072
_ROPE_BASE: Final = 500000.0
_ROPE_ORIGINAL: Final = 8192  # positions before Llama 3.1 stretched them
_Q4_0_BYTES: Final = 18  # of 32 weights: an fp16 scale, 16 bytes of nibbles
_Q6_K_BYTES: Final = 210  # of 256 weights: 192 bytes of weights, 16 scales, an fp16 scale
_Q4_0_STD: Final = 4.64  # of what a random nibble stands for, in scales
_Q6_K_STD: Final = 18.5 * 32  # of what six random bits stand for, with block scales of 32
_POOL_BYTES: Final = 16 << 20


@dataclass(frozen=True)
class Shape:
    """A Llama in Q4_0, as llama.cpp quantizes it: norms in f32, the output matrix in Q6_K."""

    likeness: str
    d: int
    n_layer: int
    n_head: int
    n_head_kv: int
    head: int
    n_ff: int
    tied: bool  # the output matrix is the token embedding
    rope_factor: float
    n_vocab: int = 128256

    def tensors(self) -> Iterator[Tensor]:
        """All tensors, in the order of the file."""
        d, q, kv = self.d, self.n_head * self.head, self.n_head_kv * self.head
        yield Tensor("token_embd.weight", d, self.n_vocab, "q6_k" if self.tied else "q4_0")
        yield Tensor("output_norm.weight", d, 1, "ones")
        if not self.tied:
            yield Tensor("output.weight", d, self.n_vocab, "q6_k")
        yield Tensor("rope_freqs.weight", self.head // 2, 1, "rope")
        for layer in range(self.n_layer):
            blk = f"blk.{layer}"
            yield Tensor(f"{blk}.attn_norm.weight", d, 1, "ones")
            yield Tensor(f"{blk}.attn_q.weight", d, q, "q4_0")
            yield Tensor(f"{blk}.attn_k.weight", d, kv, "q4_0")
            yield Tensor(f"{blk}.attn_v.weight", d, kv, "q4_0")
            yield Tensor(f"{blk}.attn_output.weight", q, d, "q4_0")
            yield Tensor(f"{blk}.ffn_norm.weight", d, 1, "ones")
            yield Tensor(f"{blk}.ffn_gate.weight", d, self.n_ff, "q4_0")
            yield Tensor(f"{blk}.ffn_up.weight", d, self.n_ff, "q4_0")
            yield Tensor(f"{blk}.ffn_down.weight", self.n_ff, d, "q4_0")


@dataclass(frozen=True)
class Tensor:
    """One tensor: its rows hold `n_in` weights."""

    name: str
    n_in: int
    n_out: int
    kind: str  # q4_0, q6_k, ones, rope

    @property
    def n_bytes(self) -> int:
        weights = self.n_in * self.n_out
        return {"q4_0": weights // 32 * _Q4_0_BYTES, "q6_k": weights // 256 * _Q6_K_BYTES}.get(self.kind, 4 * weights)


SHAPES: Final = {
    "1B": Shape("Llama-3.2-1B", 2048, 16, 32, 8, 64, 8192, tied=True, rope_factor=32.0),
    "3B": Shape("Llama-3.2-3B", 3072, 28, 24, 8, 128, 8192, tied=True, rope_factor=32.0),
    "8B": Shape("Llama-3.1-8B", 4096, 32, 32, 8, 128, 14336, tied=False, rope_factor=8.0),
    "tiny": Shape("a tiny Llama", 256, 2, 4, 2, 64, 512, tied=False, rope_factor=8.0, n_vocab=512),
}


def dummy_model(name: str, directory: Path) -> Path:
    """The GGUF file of the shape `name` in `directory`, written now if it is not there."""
    if name not in SHAPES:
        raise ValueError(f"unknown dummy {name!r}; there are {', '.join(SHAPES)}")
    shape = SHAPES[name]
    path = directory / f"dummy-{name}-Q4_0-v1.gguf"
    if path.is_file():  # complete, because it was renamed when it was
        return path
    directory.mkdir(parents=True, exist_ok=True)
    needed = sum(tensor.n_bytes for tensor in shape.tensors()) + 64 * shape.n_vocab
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise OSError(
            f"the {name} dummy takes {needed >> 20:,} MiB, but {directory} has {free >> 20:,} MiB left; "
            "free some, or name another directory with --dummy-dir"
        )
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        _write(part, shape)
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
    return path


def _write(path: Path, shape: Shape) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"Random weights in the shape of {shape.likeness}")
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(shape.d)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_key_length(shape.head)
    writer.add_value_length(shape.head)
    writer.add_rope_dimension_count(shape.head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(_ROPE_BASE)
    writer.add_vocab_size(shape.n_vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    # three special tokens, all bytes, and names for the rest
    filler = [f"<|{token}|>" for token in range(259, shape.n_vocab)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *filler])
    writer.add_token_scores([0.0] * shape.n_vocab)
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(filler))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(False)

    tensors = list(shape.tensors())
    types = {"q4_0": gguf.GGMLQuantizationType.Q4_0, "q6_k": gguf.GGMLQuantizationType.Q6_K}
    for tensor in tensors:
        dimensions = [tensor.n_in] if tensor.n_out == 1 else [tensor.n_out, tensor.n_in]
        raw_type = types.get(tensor.kind, gguf.GGMLQuantizationType.F32)
        writer.add_tensor_info(tensor.name, dimensions, np.dtype(np.float32), tensor.n_bytes, raw_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = _RandomBlocks()
    try:
        for tensor in tensors:
            writer.write_tensor_data(_data(tensor, shape, random))
    finally:
        writer.close()


def _data(tensor: Tensor, shape: Shape, random: _RandomBlocks) -> npt.NDArray[Any]:
    if tensor.kind == "ones":
        return np.ones(tensor.n_in, np.float32)
    if tensor.kind == "rope":
        return rope_factors(shape)
    name = tensor.name.split(".")[-2]
    # branches that add to the residual stream are the smaller, the more there are; queries are sharp, so that slots differ
    gain = {"attn_output": 1 / math.sqrt(2 * shape.n_layer), "ffn_down": 1 / math.sqrt(2 * shape.n_layer), "attn_q": 2.0}
    return random.take(tensor, gain.get(name, 1.0) / math.sqrt(shape.d if name == "token_embd" else tensor.n_in))


class _RandomBlocks:
    """Quantized weights, cut out of a pool of random bytes: one new offset per tensor, so nothing waits for a generator."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(7)
        self._pool = np.frombuffer(self._rng.bytes(_POOL_BYTES), np.uint8)

    def take(self, tensor: Tensor, std: float) -> Blocks:
        width, weights = (_Q4_0_BYTES, 32) if tensor.kind == "q4_0" else (_Q6_K_BYTES, 256)
        n_blocks = tensor.n_in * tensor.n_out // weights
        start = int(self._rng.integers(_POOL_BYTES))
        blocks = np.resize(np.roll(self._pool, -start), n_blocks * width).reshape(n_blocks, width)
        scale = std / (_Q4_0_STD if tensor.kind == "q4_0" else _Q6_K_STD)
        # nibbles are lopsided (-8 to 7): scales of both signs, so that rows have no common direction
        signs = np.where(self._rng.integers(2, size=n_blocks, dtype=np.uint8), scale, -scale).astype(np.float16)
        scales = signs.view(np.uint8).reshape(n_blocks, 2)
        if tensor.kind == "q4_0":
            blocks[:, :2] = scales
        else:
            blocks[:, 192:208] = 32
            blocks[:, 208:] = scales
        return blocks


def rope_factors(shape: Shape) -> npt.NDArray[np.float32]:
    """Divisors of RoPE's frequencies as Llama 3.1 stretches them: none for the fast ones, all for the slow ones."""
    low, high = 1.0, 4.0
    frequencies = _ROPE_BASE ** -(np.arange(0, shape.head, 2, dtype=np.float64) / shape.head)
    turns = _ROPE_ORIGINAL * frequencies / (2 * np.pi)
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - smooth) / shape.rope_factor + smooth)).astype(np.float32)
