"""What the full cache expects, kept on disk: log-probabilities in float16, a file for each sample."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..atomic_file import atomic_file

Rows = npt.NDArray[np.float64]


def rounded(log_probs: Rows) -> Rows:
    """As they are after a stay on disk; both sides of a comparison are rounded, so that equal logits stay equal."""
    kept = log_probs.astype(np.float16).astype(np.float64)
    normal: Rows = kept - np.log(np.exp(kept).sum(axis=-1, keepdims=True))
    return normal


class FullLogProbs:
    """In `work`, or in a directory that goes away with this object."""

    def __init__(self, work: Path | None = None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="asymkv-eval-") if work is None else None
        self._directory = Path(self._temporary.name) if self._temporary is not None else Path(str(work)) / "full"
        self._directory.mkdir(parents=True, exist_ok=True)

    def __contains__(self, name: str) -> bool:
        return self._file(name).exists()

    def add(self, name: str, rows: Iterable[Rows], shape: tuple[int, int]) -> None:
        """`rows` come a few at a time, and are written as they come."""
        with atomic_file(self._file(name)) as stream:
            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            for some in rows:
                stream.write(some.astype("<f2").tobytes())

    def get(self, name: str) -> npt.NDArray[np.float16]:
        """Mapped, not read: [n_tokens, n_vocab]."""
        found: npt.NDArray[np.float16] = np.load(self._file(name), mmap_mode="r")
        return found

    def _file(self, name: str) -> Path:
        return self._directory / f"{name}.npy"
