"""Apply a unified diff exactly: every context line must stand where the patch says, or nothing is written.

`patch` and `git apply` may accept a hunk that moved or whose context changed. Here the source is pinned by its
sha256, so a hunk that does not fit to the byte means that patch and source do not belong together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_HEADER = re.compile(rb"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


class PatchError(Exception):
    """One sentence: which file, which line, and what did not fit."""


@dataclass
class Hunk:
    start: int  # first line in the old file, from 1; 0 for a new file
    n_old: int
    n_new: int
    header: int  # its @@ line in the patch, from 0
    old: list[bytes] = field(default_factory=list)
    new: list[bytes] = field(default_factory=list)


@dataclass
class FileChange:
    old: str | None  # None: a new file
    new: str | None  # None: a removed file
    hunks: list[Hunk] = field(default_factory=list)


def apply_patch(patch: bytes, root: Path) -> list[str]:
    """Apply `patch` (paths with a/ and b/ prefixes) below `root`; returns the paths that changed.

    Raises PatchError before anything is written if any hunk of any file does not fit.
    """
    changes = parse_patch(patch)
    if not changes:
        raise PatchError("holds no change")
    results: dict[str, bytes | None] = {}
    for change in changes:
        name = change.new or change.old
        assert name is not None
        if change.old is None:
            if (root / name).exists():
                raise PatchError(f"creates {name}, which exists already")
            lines: list[bytes] = []
        else:
            try:
                lines = (root / change.old).read_bytes().splitlines(keepends=True)
            except FileNotFoundError:
                raise PatchError(f"changes {change.old}, which the source does not have") from None
        text = b"".join(_changed(lines, change, name))
        if change.new is None:
            results[name] = None
        else:
            results[name] = text
            if change.old is not None and change.old != change.new:
                results[change.old] = None
    for name, content in results.items():
        path = root / name
        if content is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return list(results)


def _changed(lines: list[bytes], change: FileChange, name: str) -> list[bytes]:
    out: list[bytes] = []
    at = 0
    for hunk in change.hunks:
        start = hunk.start - 1 if hunk.n_old else hunk.start  # "-N,0" adds after line N
        if start < at or start > len(lines):
            raise PatchError(f"does not fit {name}: a hunk starts at line {hunk.start}, the file has {len(lines)} lines")
        out += lines[at:start]
        for offset, expected in enumerate(hunk.old):
            line = start + offset
            if line >= len(lines) or lines[line] != expected:
                raise PatchError(f"does not fit {name} at line {line + 1}: expected {_shown(expected)}")
        out += hunk.new
        at = start + len(hunk.old)
    return out + lines[at:]


def parse_patch(patch: bytes) -> list[FileChange]:
    changes: list[FileChange] = []
    lines = patch.splitlines(keepends=True)
    i = 0
    while i < len(lines):
        if lines[i].startswith(b"--- ") and i + 1 < len(lines) and lines[i + 1].startswith(b"+++ "):
            changes.append(FileChange(_path(lines[i]), _path(lines[i + 1])))
            i += 2
        elif changes and (match := _HEADER.match(lines[i])):
            start, n_old, _, n_new = (int(group) if group is not None else 1 for group in match.groups())
            hunk = Hunk(start, n_old, n_new, i)
            i = _read_hunk(lines, i + 1, hunk)
            changes[-1].hunks.append(hunk)
        else:
            i += 1  # prose, diff --git, index, mode lines
    return changes


def _read_hunk(lines: list[bytes], i: int, hunk: Hunk) -> int:
    last: list[list[bytes]] = []
    while i < len(lines):
        complete = len(hunk.old) == hunk.n_old and len(hunk.new) == hunk.n_new
        line = lines[i]
        mark, rest = line[:1], line[1:]
        if mark == b"\\":  # "\ No newline at end of file" belongs to the line before it
            for side in last:
                side[-1] = side[-1].rstrip(b"\r\n")
            i += 1
            continue
        if complete:
            break
        if mark == b" " or line in (b"\n", b"\r\n"):
            rest = rest if mark == b" " else line  # some editors strip the blank of an empty context line
            last = [hunk.old, hunk.new]
        elif mark == b"-":
            last = [hunk.old]
        elif mark == b"+":
            last = [hunk.new]
        else:
            raise PatchError(f"is damaged: unexpected {_shown(line)} inside a hunk")
        for side in last:
            side.append(rest)
        i += 1
    if len(hunk.old) != hunk.n_old or len(hunk.new) != hunk.n_new:
        raise PatchError("is damaged: a hunk is shorter than its header says")
    return i


def _path(line: bytes) -> str | None:
    name = line[4:].split(b"\t")[0].strip().decode()
    if name == "/dev/null":
        return None
    if name[:2] not in ("a/", "b/"):
        raise PatchError(f"names {name} without an a/ or b/ prefix")
    path = Path(name[2:])
    if path.is_absolute() or ".." in path.parts:
        raise PatchError(f"names {name}, outside of the source")
    return path.as_posix()


def _shown(line: bytes) -> str:
    return repr(line.decode(errors="replace").rstrip("\r\n"))
