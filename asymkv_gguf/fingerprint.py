"""What a saved state depends on: the model's bytes, the context's settings, and the library's version."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import llama_cpp

from .cache_types import KV_TYPES
from .llama import Llama
from .native.loader import BINDING, BINDING_VERSION

# a GGUF file's metadata and tensor infos come first; of the weights, samples are taken
_HEAD_BYTES = 32 << 20
_N_SAMPLES = 256
_SAMPLE_BYTES = 4096

# of struct llama_context_params: what changes the numbers in the cache or in the logits
_CONTEXT_FIELDS = (
    "n_batch",
    "n_ubatch",
    "flash_attn_type",
    "swa_full",
    "rope_scaling_type",
    "rope_freq_base",
    "rope_freq_scale",
    "yarn_ext_factor",
    "yarn_attn_factor",
    "yarn_beta_fast",
    "yarn_beta_slow",
    "yarn_orig_ctx",
)


def fingerprint(llm: Llama) -> dict[str, Any]:
    """Name and value of everything that has to be equal, in the order in which differences are told."""
    names = {number: name for name, number in KV_TYPES.items()}
    params = llm.context_params
    found: dict[str, Any] = {
        "model architecture": llm.metadata.get("general.architecture"),
        "model name": llm.metadata.get("general.name"),
        "model vocabulary": llm.n_vocab(),
        "model parameters": int(llama_cpp.llama_model_n_params(llm.model)),
        "model tensor bytes": int(llama_cpp.llama_model_size(llm.model)),
        "model file bytes": sum(os.path.getsize(file) for file in model_files(llm.model_path)),
        "model file hash": "".join(file_hash(file) for file in model_files(llm.model_path)),
        "model overrides": json.dumps(llm.kv_overrides, sort_keys=True) if llm.kv_overrides else None,
        "LoRA file hash": file_hash(llm.lora_path) if llm.lora_path else None,
        "LoRA scale": float(llm.lora_scale) if llm.lora_path else None,
        "asymkv": llm.asymkv is not None,  # before what follows from it
        "n_ctx": llm.n_ctx(),
        "type_k": names.get(params.type_k, str(params.type_k)),
        "type_v": names.get(params.type_v, str(params.type_v)),
        "logits_all": bool(llm._logits_all),
        **{name: getattr(params, name) for name in _CONTEXT_FIELDS},
    }
    if llm.asymkv is not None:
        found.update({f"asymkv {name}": value for name, value in llm.asymkv.as_dict().items()})
    found[BINDING] = BINDING_VERSION
    found["asymkv-gguf"] = library_version()
    return found


def difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str | None:
    """The first difference as part of a sentence; None if there is none."""
    for name in {**ours, **theirs}:
        if theirs.get(name) != ours.get(name):
            return f"it was saved with {name} {_shown(theirs.get(name))}, and here it is {_shown(ours.get(name))}"
    return None


def library_version() -> str:
    try:
        return version("asymkv-gguf")
    except PackageNotFoundError:
        return "0+unknown"


def model_files(path: str) -> list[str]:
    """The file, or all files of a split model."""
    match = re.fullmatch(r"(.*-)(\d{5})(-of-)(\d{5})(\.gguf)", path)
    if match is None:
        return [path]
    stem, _, of, count, suffix = match.groups()
    return [f"{stem}{number:05d}{of}{count}{suffix}" for number in range(1, int(count) + 1)]


def file_hash(path: str) -> str:
    """Of the metadata, the tensor infos and samples of the weights: it takes milliseconds, however large the file."""
    status = os.stat(path)
    return _file_hash(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _file_hash(path: str, size: int, _mtime_ns: int) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with Path(path).open("rb") as stream:
        digest.update(stream.read(_HEAD_BYTES))
        for i in range(_N_SAMPLES if size > _HEAD_BYTES else 0):
            stream.seek(_HEAD_BYTES + i * (size - _HEAD_BYTES) // _N_SAMPLES)
            digest.update(stream.read(_SAMPLE_BYTES))
        stream.seek(max(size - _SAMPLE_BYTES, 0))
        digest.update(stream.read())
    return digest.hexdigest()


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int):
        return f"{value:,}"
    text = str(value)
    return text if len(text) <= 40 else f"{text[:16]}..."
