"""What a model file says about the bytes that one token must read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from ..errors import ModelFileError
from ..model_file import check_model_file


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of one GGUF file."""

    name: str
    file_bytes: int
    n_ctx_train: int
    weight_bytes: int  # read for every token
    heads: tuple[tuple[int, int], ...]  # K and V elements of one slot, for every layer with a cache
    windowed: bool  # some layers hold a sliding window only

    def slot_bytes(self, type_k: int, type_v: int) -> int:
        """K and V of one slot in all layers."""
        return sum(_row_bytes(k, type_k) + _row_bytes(v, type_v) for k, v in self.heads)


def model_facts(path: Path) -> ModelFacts:
    """Read from the headers of all its parts; the weights themselves are not touched."""
    reader = _reader(path)

    def value(name: str, default: Any = None) -> Any:
        field = reader.get_field(name)
        return default if field is None else field.contents()

    arch = value("general.architecture")
    n_layer = value(f"{arch}.block_count", 0)
    n_head = _per_layer(value(f"{arch}.attention.head_count", 1), n_layer)
    n_head_kv = _per_layer(value(f"{arch}.attention.head_count_kv", n_head), n_layer)
    width = value(f"{arch}.embedding_length", 0) // max(max(n_head, default=1), 1)
    k, v = value(f"{arch}.attention.key_length", width), value(f"{arch}.attention.value_length", width)
    n_parts = value("split.count", 0)
    # as llama.cpp's gguf-split names them
    parts = [path.with_name(re.sub(r"\d{5}(?=-of-\d{5}\.gguf$)", f"{i + 1:05}", path.name)) for i in range(1, n_parts)]
    tensors = [tensor for one in (reader, *map(_reader, parts)) for tensor in one.tensors]
    names = {tensor.name for tensor in tensors}
    experts, used = value(f"{arch}.expert_count", 0), value(f"{arch}.expert_used_count", 0)
    weight_bytes = 0
    for tensor in tensors:
        n_bytes = int(tensor.n_bytes)
        if tensor.name == "token_embd.weight" and "output.weight" in names:
            continue  # of a table that is not the output matrix, too, one row is read
        if "_exps." in tensor.name and experts:
            n_bytes = n_bytes * used // experts
        weight_bytes += n_bytes
    return ModelFacts(
        name=value("general.name", path.stem),
        file_bytes=sum(part.stat().st_size for part in (path, *parts)),
        n_ctx_train=int(value(f"{arch}.context_length", 0)),
        weight_bytes=weight_bytes,
        heads=tuple((int(n * k), int(n * v)) for n in n_head_kv if n),
        windowed=bool(value(f"{arch}.attention.sliding_window", 0)),
    )


def _reader(path: Path) -> Any:
    check_model_file(str(path))
    try:
        return gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        size = path.stat().st_size
        raise ModelFileError(f"model file {path} is truncated or damaged ({size:,} bytes); download it again") from error


def _per_layer(value: Any, n_layer: int) -> list[int]:
    return [int(one) for one in value] if isinstance(value, (list, tuple)) else [int(value)] * n_layer


def _row_bytes(n: int, ggml_type: int) -> int:
    block: int
    n_bytes: int
    block, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(ggml_type)]
    return n // block * n_bytes
