"""Say in one sentence why a model file cannot be used."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp

from .errors import ModelFileError, ModelNotFoundError, UnsupportedError

_GGUF_MAGIC = b"GGUF"
_GGUF_HEADER_BYTES = 24  # magic, version, number of tensors, number of metadata entries
_LOG_ERROR = 4  # GGML_LOG_LEVEL_ERROR (llama_cpp._logger takes it for DEBUG)
_LOG_CONTINUED = 5  # GGML_LOG_LEVEL_CONT


def check_model_file(path: str) -> None:
    """What can be known before llama.cpp opens it: there, readable, and GGUF."""
    _check_gguf("model", path)


def check_lora_file(path: str) -> None:
    """The same of an adapter's file."""
    _check_gguf("LoRA", path)


def _check_gguf(kind: str, path: str) -> None:
    file = Path(path)
    if not file.exists():
        raise ModelNotFoundError(f"{kind} file {path} does not exist")
    if file.is_dir():
        raise ModelFileError(f"{kind} file {path} is a directory; name the .gguf file in it")
    try:
        with file.open("rb") as stream:
            head = stream.read(_GGUF_HEADER_BYTES)
    except OSError as error:
        raise ModelFileError(f"{kind} file {path} cannot be read: {error.strerror}") from error
    if not head:
        raise ModelFileError(f"{kind} file {path} is empty; download it again")
    if head[:4] != _GGUF_MAGIC:
        raise ModelFileError(f"{kind} file {path} is not a GGUF file; convert the {kind} to GGUF first")
    if len(head) < _GGUF_HEADER_BYTES:
        raise ModelFileError(f"{kind} file {path} is truncated after {len(head)} bytes; download it again")


def load_failure(path: str, log: list[str]) -> ModelFileError:
    """The error for a GGUF file that llama.cpp did not load, from what it logged."""
    text = " ".join(log)
    if "is not within the file bounds" in text or "failed to read" in text:
        size = os.path.getsize(path)
        return ModelFileError(f"model file {path} is truncated or damaged ({size:,} bytes); download it again")
    reason = next((line.split("error loading model:")[1] for line in log if "error loading model:" in line), "")
    reason = reason.strip() or (log[-1] if log else "no reason given")
    return ModelFileError(f"model file {path} could not be loaded: {reason}")


def context_failure(log: list[str]) -> str | None:
    """Why llama.cpp did not make a context, from what it logged."""
    mark = "failed to initialize the context:"
    reason = next((line.split(mark)[1].strip() for line in reversed(log) if mark in line), log[-1] if log else None)
    if reason is None:
        return None
    reason = re.sub(r"^\w+: ", "", reason)  # the C function's name
    if "bad_alloc" in reason or "failed to allocate" in reason:
        return f"there is not enough memory for the context ({reason}); lower the budget, n_batch or n_ctx"
    return reason


def translated(error: ValueError, model_path: str, log: list[str]) -> Exception:
    """llama_cpp's error with llama.cpp's reason, from what that logged."""
    message = str(error)
    if message.startswith("Failed to load model from file"):
        return load_failure(model_path, log)
    if message.startswith("Failed to create llama_context"):
        return UnsupportedError(context_failure(log) or message)
    return error


@contextlib.contextmanager
def error_log(*, quiet: bool = False, without: bytes | None = None) -> Iterator[list[str]]:
    """Collects what llama.cpp logs as errors in this thread; unless `quiet`, all goes on to the log function set before.

    `without`: but no line in which this stands.
    """
    before = _log.lines.value, _log.lines.quiet, _log.lines.without
    try:
        yield _log.enter(quiet or _log.lines.quiet, without)
    finally:
        _log.leave(*before)


class _Lines(threading.local):
    value: list[str] | None = None
    quiet = False
    without: bytes | None = None


class _Log:
    """llama.cpp has one log function per process: it is replaced while any thread collects."""

    def __init__(self) -> None:
        self.lines = _Lines()
        self._lock = threading.Lock()
        self._n_collecting = 0
        self._callback = llama_cpp.llama_log_callback(self._receive)  # kept: C holds no reference
        self._previous = llama_cpp.llama_log_callback()
        self._previous_data = ctypes.c_void_p()
        self._last_level = 0

    def enter(self, quiet: bool, without: bytes | None) -> list[str]:
        self.lines.quiet = quiet
        self.lines.without = without
        lines = self.lines.value = []
        with self._lock:
            self._n_collecting += 1
            if self._n_collecting == 1:
                llama_cpp.llama_log_get(ctypes.byref(self._previous), ctypes.byref(self._previous_data))
                llama_cpp.llama_log_set(self._callback, None)
        return lines

    def leave(self, value: list[str] | None, quiet: bool, without: bytes | None) -> None:
        self.lines.value, self.lines.quiet, self.lines.without = value, quiet, without
        with self._lock:
            self._n_collecting -= 1
            if self._n_collecting == 0:
                llama_cpp.llama_log_set(self._previous, self._previous_data)

    def _receive(self, level: int, text: bytes, _: Any) -> None:
        if level != _LOG_CONTINUED:
            self._last_level = level
        lines = self.lines.value
        if lines is not None and self._last_level == _LOG_ERROR and (line := text.decode(errors="replace").strip()):
            lines.append(line)
        if self.lines.without is not None and self.lines.without in text:
            return
        if self._previous and not self.lines.quiet:
            self._previous(level, text, self._previous_data)


_log = _Log()
