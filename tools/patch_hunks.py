"""Try the hunks of a patch one by one on a tree that it may not be made for.

The build takes a hunk only where the patch says (cmake/strict_patch.py). Here a hunk may have moved: its lines must stand,
unchanged, at exactly one place after the hunk before it. What fits nowhere, or at two places, needs somebody's hands.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "cmake"))
from strict_patch import FileChange, Hunk, parse_patch


@dataclass
class Trial:
    """What became of one hunk."""

    patch: str
    file: str
    line: int  # where the patch wants it, from 1
    found: int | None  # where it fits, from 1; None: it needs hands
    reason: str = ""

    @property
    def moved(self) -> bool:
        return self.found is not None and self.found != self.line


def try_patch(name: str, patch: bytes, tree: Path) -> tuple[list[Trial], bytes]:
    """Apply the hunks that fit to `tree`; returns what became of each, and the patch with the lines where they fit."""
    lines = patch.splitlines(keepends=True)
    trials: list[Trial] = []
    for change in parse_patch(patch):
        trials += _try_file(name, change, tree, lines)
    return trials, b"".join(lines)


def _try_file(name: str, change: FileChange, tree: Path, patch: list[bytes]) -> list[Trial]:
    file = change.new or change.old
    assert file is not None
    path = tree / (change.old or file)
    if change.old is None:
        if path.exists():
            return [
                Trial(name, file, hunk.start, None, "the patch creates this file, which exists now") for hunk in change.hunks
            ]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(line for hunk in change.hunks for line in hunk.new))
        return [Trial(name, file, hunk.start, hunk.start) for hunk in change.hunks]
    if not path.is_file():
        return [Trial(name, file, hunk.start, None, "there is no such file any more") for hunk in change.hunks]
    old = path.read_bytes().splitlines(keepends=True)
    new: list[bytes] = []
    trials: list[Trial] = []
    at = 0  # lines of `old` that are done with
    for hunk in change.hunks:
        place, reason = _place(hunk, old, at)
        if place is None:
            trials.append(Trial(name, file, hunk.start, None, reason))
            continue
        new += old[at:place]
        first_new = len(new) + (1 if hunk.n_new else 0)
        first_old = place + (1 if hunk.n_old else 0)
        tail = patch[hunk.header].split(b"@@", 2)[2]
        patch[hunk.header] = b"@@ -%d,%d +%d,%d @@" % (first_old, hunk.n_old, first_new, hunk.n_new) + tail
        new += hunk.new
        at = place + len(hunk.old)
        trials.append(Trial(name, file, hunk.start, first_old))
    new += old[at:]
    if change.new is None and all(trial.found is not None for trial in trials):
        path.unlink()
    else:
        (tree / file).write_bytes(b"".join(new))
    return trials


def _place(hunk: Hunk, lines: list[bytes], at: int) -> tuple[int | None, str]:
    """The index in `lines` where the hunk goes; or none, and why."""
    wanted = hunk.start - 1 if hunk.n_old else hunk.start
    count = len(hunk.old)
    if count == 0:
        return None, "it only adds, and has no lines around that say where"
    if lines[wanted : wanted + count] == hunk.old and wanted >= at:
        return wanted, ""
    places = [index for index in range(at, len(lines) - count + 1) if lines[index : index + count] == hunk.old]
    if len(places) == 1:
        return places[0], ""
    if places:
        return None, f"its lines stand at several places: lines {', '.join(str(place + 1) for place in places)}"
    return None, _difference(hunk, lines, at, wanted)


def _difference(hunk: Hunk, lines: list[bytes], at: int, wanted: int) -> str:
    """The first line that differs, at the place that is most like the hunk."""

    def alike(index: int) -> tuple[int, int]:
        # a brace says less than a whole statement
        same = sum(len(a.strip()) for a, b in zip(hunk.old, lines[index : index + len(hunk.old)], strict=False) if a == b)
        return same, -abs(index - wanted)

    best = max(range(at, max(len(lines), at + 1)), key=alike)
    if alike(best)[0] == 0:
        return f"none of its lines is there any more; the first is {_shown(hunk.old[0])}"
    for offset, expected in enumerate(hunk.old):
        index = best + offset
        if index >= len(lines):
            return f"the file ends before its line {_shown(expected)}"
        if lines[index] != expected:
            return f"line {index + 1} is {_shown(lines[index])}, not {_shown(expected)}"
    return "its lines stand before those of the hunk above it"


def _shown(line: bytes) -> str:
    return repr(line.decode(errors="replace").strip())
