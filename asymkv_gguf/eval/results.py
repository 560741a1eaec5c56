"""What was measured so far: one JSON line for each column and sample, so that an interrupted run goes on."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FILE_NAME: Final = "results.jsonl"


@dataclass(frozen=True)
class Key:
    """What a result depends on."""

    model: str  # fingerprint of the file
    task: str  # name and fingerprint
    column: str  # label
    settings: str  # digest of the cache's settings and of the batches
    sample: str


@dataclass(frozen=True)
class Result:
    """What one column got on one sample."""

    key: Key
    values: dict[str, float]
    budget: int | None  # slots that a compression leaves; None: a full cache
    slots: int  # as allocated; of a full cache: for this sample
    kv_bytes: int  # K and V of these slots
    seconds: float


class Results:
    """All results, in memory, and in a file where there is a work directory."""

    def __init__(self, work: Path | None = None) -> None:
        self._by_key: dict[Key, Result] = {}
        self._file: Path | None = None
        if work is not None:
            try:
                work.mkdir(parents=True, exist_ok=True)
                self._file = work / FILE_NAME
                self._read(self._file)
            except OSError as error:
                raise ValueError(f"work directory {work} cannot be used: {error.strerror}") from error

    def get(self, key: Key) -> Result | None:
        return self._by_key.get(key)

    def add(self, result: Result) -> None:
        self._by_key[result.key] = result
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(dataclasses.asdict(result)) + "\n")

    def _read(self, file: Path) -> None:
        if not file.exists():
            return
        text = file.read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            result = _parsed(line)
            if result is not None:
                self._by_key[result.key] = result
        if text and not text.endswith("\n"):  # killed while it wrote: that line is lost, the next one is not
            with file.open("a", encoding="utf-8") as stream:
                stream.write("\n")


def _parsed(line: str) -> Result | None:
    try:
        fields: dict[str, Any] = json.loads(line)
        return Result(**{**fields, "key": Key(**fields["key"])})
    except (ValueError, TypeError, KeyError):
        return None
