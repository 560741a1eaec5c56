"""Sessions: a context in a file, which goes on bit for bit as if it had never been interrupted.

The file, all numbers little-endian:

    8 bytes   magic
    4 bytes   version of the format
    4 bytes   length of the header
    header    JSON: the fingerprint (fingerprint.py), counters, and names and sizes of the sections
    sections  one after the other, as the header lists them
    32 bytes  BLAKE2b of everything before

Sections: `tokens` (int32), `state` (llama.cpp's, with the merged cache's tables), `logits` of the last token (float32; may be
empty), `scores` (float32, with logits_all only), `extra` (JSON).
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .atomic_file import atomic_file
from .errors import SessionError
from .fingerprint import difference, fingerprint
from .llama import Llama
from .state import n_cached

MAGIC = b"ASYMKVS\n"
VERSION = 2  # 1: tables as arrays of slots
_START = struct.Struct("<8sII")
_DIGEST_BYTES = 32

_TYPES = {"tokens": np.int32, "state": np.uint8, "logits": np.float32, "scores": np.float32, "extra": np.uint8}

_Section = npt.NDArray[Any]
_Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Session:
    """What was resumed."""

    n_tokens: int
    n_bytes: int  # of the file
    saved_at: float  # seconds since 1970
    extra: dict[str, Any] = field(default_factory=dict)  # what save_session was given


def save_session(llm: Llama, path: _Path, *, extra: Mapping[str, Any] | None = None) -> int:
    """Writes the context to a file, with `extra` (anything that JSON can hold); returns the file's bytes.

    SessionError if that cannot be done; a file that was there before is left as it was, and so is one that is no session.
    """
    llm._check_open()
    _check_replaceable(path)
    # what llama_cpp took back, and has not removed yet
    llm._ctx.kv_cache_seq_rm(-1, llm.n_tokens, -1)
    logits = llm.last_logits()
    sections: dict[str, _Section] = {
        "tokens": llm._input_ids.astype(np.int32),
        "state": llm._read_state(),
        "logits": np.empty(0, np.float32) if logits is None else logits,
        "scores": llm._scores if llm._logits_all else np.empty(0, np.float32),
        "extra": np.frombuffer(_json(dict(extra or {})), np.uint8),
    }
    header = {
        "fingerprint": _fingerprint(llm, path),
        "n_tokens": int(llm.n_tokens),
        "n_cached": n_cached(llm.ctx),
        "seed": int(llm._seed),
        "saved_at": time.time(),
        "sections": [[name, int(section.nbytes)] for name, section in sections.items()],
    }
    try:
        with atomic_file(Path(path)) as stream:
            return _write(stream, _json(header), list(sections.values()))
    except OSError as error:
        raise SessionError(f"session {path} could not be saved, and is as it was before: {error.strerror or error}") from error


def load_session(llm: Llama, path: _Path, *, check: Callable[[Session], object] | None = None) -> Session:
    """Resumes what `save_session` wrote; nothing is read again.

    SessionError if the file is damaged, or was saved with another model or other settings. Then the context is as it was
    before, and so is the file. The same holds for what `check` raises, which gets to see the session first.
    """
    llm._check_open()
    header, sections, n_bytes = _read(path)
    problem = difference(header["fingerprint"], _fingerprint(llm, path))
    if problem is not None:
        raise SessionError(f"session {path} cannot be resumed: {problem}")
    tokens, logits, scores = sections["tokens"], sections["logits"], sections["scores"]
    n_tokens = int(header["n_tokens"])
    n_scores = n_tokens * llm.n_vocab() if llm._logits_all else 0
    is_whole = len(tokens) == n_tokens <= len(llm.input_ids) and len(logits) in (0, llm.n_vocab()) and len(scores) == n_scores
    if not is_whole:
        raise SessionError(f"session {path} contradicts itself; it cannot be resumed")
    extra = json.loads(sections["extra"].tobytes())
    session = Session(n_tokens=n_tokens, n_bytes=n_bytes, saved_at=float(header["saved_at"]), extra=extra)
    if check is not None:
        check(session)
    _replace_state(llm, path, sections["state"], int(header["n_cached"]))
    if llm._logits_all:
        llm.scores[:n_tokens] = scores.reshape(n_tokens, -1)
    llm._resume(tokens, logits if len(logits) else None)
    llm._seed = int(header["seed"])
    llm._sampler = None
    return session


def saved_settings(path: _Path) -> dict[str, Any]:
    """What the session was saved with, by the names of fingerprint(); SessionError if the file is damaged."""
    header, _, _ = _read(path)
    settings: dict[str, Any] = header["fingerprint"]
    return settings


def _check_replaceable(path: _Path) -> None:
    """A name that was mistyped must not cost a book."""
    try:
        with Path(path).open("rb") as stream:
            magic = stream.read(len(MAGIC))
    except OSError:  # not there; or writing says why not
        return
    if magic and magic != MAGIC:
        raise SessionError(f"file {path} is not a session of asymkv-gguf, and is left as it is; give another name")


def _replace_state(llm: Llama, path: _Path, state: _Section, n_tokens: int) -> None:
    """The last step: from what was verified, only llama.cpp itself can refuse now, and then the old state comes back."""
    before = llm._read_state() if n_cached(llm.ctx) > 0 else None
    logits = llm.last_logits()
    if llm._write_state(state) and n_cached(llm.ctx) == n_tokens:
        return
    llm._ctx.kv_cache_clear()
    if before is not None:
        llm._write_state(before)
        llm._restored_logits, llm._restored_at = logits, llm.n_tokens
    raise SessionError(f"session {path} cannot be resumed: llama.cpp refuses its state")


def _fingerprint(llm: Llama, path: _Path) -> dict[str, Any]:
    try:
        # as JSON gives it back
        found: dict[str, Any] = json.loads(_json(fingerprint(llm)))
    except OSError as error:
        raise SessionError(f"session {path} needs the model's file, which cannot be read: {error}") from error
    return found


def _json(value: Any) -> bytes:
    try:
        return json.dumps(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise SessionError(f"extra must be what JSON can hold: {error}") from error


def _write(stream: BinaryIO, header: bytes, sections: list[_Section]) -> int:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    n_bytes = 0
    for part in (_START.pack(MAGIC, VERSION, len(header)), header, *sections):
        data = np.ascontiguousarray(part).data.cast("B") if isinstance(part, np.ndarray) and part.size else bytes(part)
        digest.update(data)
        stream.write(data)
        n_bytes += len(data)
    stream.write(digest.digest())
    return n_bytes + _DIGEST_BYTES


def _read(path: _Path) -> tuple[dict[str, Any], dict[str, _Section], int]:
    """Header, sections and bytes of a file that is whole."""
    try:
        with Path(path).open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            return *_parse(stream, size, path), size
    except OSError as error:
        raise SessionError(f"session {path} cannot be read: {error.strerror or error}") from error


def _parse(stream: BinaryIO, size: int, path: _Path) -> tuple[dict[str, Any], dict[str, _Section]]:
    damaged = SessionError(f"session {path} is truncated or damaged ({size:,} bytes)")
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)

    def take(n_bytes: int) -> bytearray:
        """The next bytes; sizes are checked against the file's before memory is taken for them."""
        if not 0 <= n_bytes <= size - _DIGEST_BYTES - stream.tell():
            raise damaged
        data = bytearray(n_bytes)
        if stream.readinto(data) != n_bytes:  # type: ignore[attr-defined, unused-ignore]
            raise damaged
        digest.update(data)
        return data

    if stream.read(len(MAGIC)) != MAGIC:
        raise SessionError(f"file {path} is not a session of asymkv-gguf")
    stream.seek(0)
    _, version, header_bytes = _START.unpack(take(_START.size))
    if version != VERSION:
        raise SessionError(
            f"session {path} has version {version} of the format, and this asymkv-gguf reads {VERSION}: "
            "read the text again and save it anew, or use the asymkv-gguf that saved it"
        )
    try:
        header = json.loads(bytes(take(header_bytes)))
        listed = [(str(name), int(n_bytes)) for name, n_bytes in header["sections"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise damaged from None
    if [name for name, _ in listed] != list(_TYPES):
        raise damaged
    raw = {name: take(n_bytes) for name, n_bytes in listed}
    rest = stream.read(_DIGEST_BYTES + 1)
    if rest != digest.digest():
        raise damaged
    # from here on every byte is as it was written
    return header, {name: np.frombuffer(data, _TYPES[name]) for name, data in raw.items()}
