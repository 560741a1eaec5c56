"""Move to another version of llama-cpp-python: try the patches on its llama.cpp, and change the pins if all of them fit.

    python tools/update_llama.py VERSION [--source ARCHIVE] [--dry-run]

The source archive of VERSION is downloaded by pip, unless --source names it. Each hunk is tried on its own: it fits, it has
moved, or it needs hands, and then the file, the line and the reason are told. When none needs hands, the patches get their
new line numbers and every pin its new version and checksum; otherwise nothing is changed. What still has to be done is
building it and running all tests: a patch can fit while the code around it means something else (docs/versions.md).

Ends with 0 when all hunks fit, with 1 when some need hands or no source was found, with 2 for wrong use.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "cmake"))
sys.path.insert(0, str(Path(__file__).parent))
import prepare_source
from patch_hunks import Trial, try_patch
from prepare_source import PACKAGE, SourceError
from strict_patch import PatchError

ROOT = Path(__file__).parents[1]
# other documents say what was measured or tried with a version, which stays true of that version
PINNED_IN = ("pyproject.toml", "README.md", "docs/build.md", "asymkv_gguf", "cmake", "scripts", "tests", "tools", ".github")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", metavar="VERSION", help=f"of {PACKAGE}, e.g. {prepare_source.VERSION}")
    parser.add_argument("--source", type=Path, help="its source archive (.tar.gz), or the unpacked directory")
    parser.add_argument("--dry-run", action="store_true", help="only say what fits")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)  # tests change a copy
    options = parser.parse_args(arguments)
    if not re.fullmatch(r"\d+(\.\d+)+", options.version):
        parser.error(f"VERSION: {options.version!r} is no version; give one such as {prepare_source.VERSION}")
    if options.source is not None and options.source.is_dir() and not options.dry_run:
        parser.error("--source: a directory has no checksum to pin; give the archive, or --dry-run")
    try:
        return update(options.root, options.version, options.source, options.dry_run)
    except (SourceError, PatchError, OSError) as error:
        print(f"update_llama: {error}", file=sys.stderr)
        return 1


def update(root: Path, version: str, source: Path | None, dry_run: bool) -> int:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        origin = source or prepare_source.pip_download(version, work)
        tree = work / "llama.cpp"
        if origin.is_dir():
            prepare_source.copy_tree(origin, tree)
        else:
            check_archive(origin, version)
            prepare_source.extract(origin, tree)
            if not tree.is_dir():
                raise SourceError(f"{origin} holds no {prepare_source.VENDORED}; give the source archive of {PACKAGE}")
        trials, patches = try_series(root / "patches", tree)
        report(trials, version)
        if any(trial.found is None for trial in trials):
            return 1
        if dry_run:
            return 0
        checksum = prepare_source.sha256_of(origin)
    for patch, content in patches.items():
        (root / "patches" / patch).write_bytes(content)
    changed = move_pins(root, version, checksum)
    print(f"pins changed in {', '.join(changed)}" if changed else "the pins say so already")
    print("now build it, run all tests, and write what came out into docs/versions.md")
    return 0


def check_archive(archive: Path, version: str) -> None:
    if not archive.is_file():
        raise SourceError(f"{archive} does not exist")
    if version not in archive.name:
        raise SourceError(f"{archive} does not have {version} in its name; give the archive of that version")


def try_series(directory: Path, tree: Path) -> tuple[list[Trial], dict[str, bytes]]:
    """What became of every hunk, and the patches with the lines where they fit."""
    trials: list[Trial] = []
    patches: dict[str, bytes] = {}
    for name in prepare_source.read_series(directory):
        content = (directory / name).read_bytes()
        found, moved = try_patch(name, content, tree)
        trials += found
        patches[name] = moved if any(trial.moved for trial in found) else content
    return trials, patches


def report(trials: list[Trial], version: str) -> None:
    for trial in trials:
        place = f"{trial.patch}: {trial.file}:{trial.line}"
        if trial.found is None:
            print(f"NEEDS HANDS  {place}: {trial.reason}")
        elif trial.moved:
            print(f"moved        {place} -> line {trial.found}")
        else:
            print(f"fits         {place}")
    hands = sum(trial.found is None for trial in trials)
    moved = sum(trial.moved for trial in trials)
    fits = len(trials) - hands - moved
    print(f"{PACKAGE} {version}: of {len(trials)} hunks {fits} fit where they were, {moved} have moved, {hands} need hands")


def move_pins(root: Path, version: str, checksum: str) -> list[str]:
    """Write the version and the checksum wherever the old ones stand; returns the files that changed."""
    old = re.compile(rf"(?<![\d.]){re.escape(prepare_source.VERSION)}(?!\.?\d)")
    changed = []
    for path in pinned_files(root):
        text = path.read_text(encoding="utf-8")
        new = old.sub(version, text).replace(prepare_source.SHA256, checksum)
        if new != text:
            path.write_text(new, encoding="utf-8")
            changed.append(path.relative_to(root).as_posix())
    return changed


def pinned_files(root: Path) -> list[Path]:
    """The text files that may name the version."""
    paths: list[Path] = []
    for name in PINNED_IN:
        start = root / name
        paths += sorted(start.rglob("*")) if start.is_dir() else [start]
    kinds = {".py", ".md", ".toml", ".cmake", ".sh", ".yml", ".txt"}
    return [path for path in paths if path.is_file() and path.suffix in kinds]


if __name__ == "__main__":
    sys.exit(main())
