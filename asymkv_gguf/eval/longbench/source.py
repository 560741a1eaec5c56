"""LongBench's files: in a directory, or in the archive that the hub has."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .tasks import TASKS, base_name, kind_of

PROMPTS, MAX_LENGTHS = "dataset2prompt.json", "dataset2maxlen.json"


@dataclass(frozen=True)
class Item:
    """One line of a task's file."""

    task: str
    id: str
    fields: dict[str, Any]  # as they stand there
    answers: tuple[str, ...]
    classes: tuple[str, ...]


class Source:
    """DIR/TASK.jsonl, DIR/data/TASK.jsonl, or the same in DIR/data.zip or in a .zip file."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self._archive: zipfile.ZipFile | None = None
        archive = self.path if self.path.is_file() else self.path / "data.zip"
        if not self.path.exists():
            raise ValueError(f"there is no LongBench directory {self.path}; give the one with its .jsonl files (--data)")
        if archive.is_file():
            try:
                self._archive = zipfile.ZipFile(archive)
            except (OSError, zipfile.BadZipFile) as error:
                raise ValueError(f"{archive} is no zip archive; give a directory with LongBench's .jsonl files") from error
        self._files = {PurePosixPath(name).stem: name for name in self._names()}
        if not self._files:
            raise ValueError(f"{self.path} has no .jsonl files; give the directory with LongBench's (--data)")

    def _names(self) -> Iterator[str]:
        if self._archive is not None:
            yield from (name for name in self._archive.namelist() if name.endswith(".jsonl"))
        if self.path.is_dir():  # these come before the archive's
            yield from sorted(f"data/{file.name}" for file in self.path.glob("data/*.jsonl"))
            yield from sorted(file.name for file in self.path.glob("*.jsonl"))

    @property
    def tasks(self) -> list[str]:
        """The tasks that are there, in LongBench's order."""
        order = list(TASKS)
        return sorted((name for name in self._files if base_name(name) in TASKS), key=lambda n: (order.index(base_name(n)), n))

    def check(self, tasks: Sequence[str]) -> None:
        """ValueError if the file of one of these tasks is missing."""
        for task in tasks:
            if task not in self._files:
                known = ", ".join(self.tasks) or "no tasks of LongBench"
                raise ValueError(f"{self.path} has no {task}.jsonl; there are {known}")

    def items(self, task: str) -> list[Item]:
        """ValueError naming file and line, where one is not as LongBench has them."""
        kind = kind_of(task)
        self.check([task])
        name = self._files[task]
        where = self.path / name if (self.path / name).is_file() else f"{self.path}:{name}"
        items = []
        # not splitlines(): texts may have other line ends in them
        for number, line in enumerate(self._text(name).split("\n"), 1):
            if line.strip():
                items.append(_item(task, line, number, f"{where}, line {number}", kind.needs_classes))
        if not items:
            raise ValueError(f"{where} is empty; leave the task out (--tasks)")
        return items

    def _text(self, name: str) -> str:
        try:
            if (self.path / name).is_file() or self._archive is None:
                return (self.path / name).read_text(encoding="utf-8")
            return self._archive.read(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path / name} is not UTF-8 text (byte {error.start}); fetch it again") from error
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.path / name} cannot be read: {getattr(error, 'strerror', None) or error}") from error

    def settings_file(self, name: str) -> Path | None:
        """LongBench's dataset2prompt.json or dataset2maxlen.json, if it lies here."""
        directory = self.path if self.path.is_dir() else self.path.parent
        return next((file for file in (directory / name, directory / "config" / name) if file.is_file()), None)


def _item(task: str, line: str, number: int, where: str, needs_classes: bool) -> Item:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{where} is not a JSON object")
    for name in ("input", "context", "answers", *(("all_classes",) if needs_classes else ())):
        if name not in fields:
            raise ValueError(f"{where}: field {name!r} is missing")
    for name in ("input", "context"):
        if not isinstance(fields[name], str):
            raise ValueError(f"{where}: field {name!r} must be a string, not {type(fields[name]).__name__}")
    answers, classes = fields["answers"], fields.get("all_classes") or []
    for name, strings in (("answers", answers), ("all_classes", classes)):
        if not isinstance(strings, list) or not all(isinstance(one, str) for one in strings):
            raise ValueError(f"{where}: field {name!r} must be a list of strings")
    if not answers or (needs_classes and not classes):
        raise ValueError(f"{where}: field {'answers' if not answers else 'all_classes'!r} is empty")
    item = Item(task, str(fields.get("_id", number)), fields, tuple(answers), tuple(classes))
    try:  # what a metric cannot work with
        for answer in answers:
            if base_name(task).startswith("passage_retrieval"):
                kind_of(task).metric("", answer, classes)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return item
