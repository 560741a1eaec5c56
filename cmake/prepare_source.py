"""Make the patched llama.cpp tree that the build compiles.

    prepare_source.py --patches DIR --work DIR [--source DIR_OR_TAR_GZ]

Takes llama.cpp's source out of llama-cpp-python's source archive: `--source` if given, else downloaded by pip, by name
and version, and checked against a pinned sha256. Only what the build needs is copied to WORK/llama.cpp; the patches are
applied there, in the order of `series`. The given source is never changed. When nothing changed since the last time,
nothing is done; when a patch changed, only the files that differ are written again, so that a rebuild stays small.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).parent))
from strict_patch import PatchError, apply_patch

PACKAGE = "llama-cpp-python"
VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
ARCHIVE = f"llama_cpp_python-{VERSION}.tar.gz"

VENDORED = PurePosixPath("vendor/llama.cpp")
# of llama.cpp; of its tests, the one that gets cases of ours (BackendOps.cmake)
NEEDED = ("src", "include", "ggml", "tests/test-backend-ops.cpp", "CMakeLists.txt", "LICENSE")
BINDING_LICENSE = "LICENSE.md"  # of llama-cpp-python


class SourceError(Exception):
    """One sentence for the person who builds."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--source", default="")
    options = parser.parse_args()
    try:
        prepare(options.patches, options.work, options.source)
    except (SourceError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def prepare(patches: Path, work: Path, source: str) -> None:
    work.mkdir(parents=True, exist_ok=True)
    origin = Path(source).expanduser().resolve() if source else download(work)
    series = read_series(patches)
    fingerprint = fingerprint_of(origin, [patches / name for name in series])
    stamp = work / "prepared"
    tree = work / "llama.cpp"
    if tree.is_dir() and stamp.is_file() and stamp.read_text() == fingerprint:
        return
    fresh = work / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    stamp.unlink(missing_ok=True)
    if origin.is_dir():
        copy_tree(origin, fresh)
    else:
        verify(origin)
        extract(origin, fresh)
    for name in series:
        try:
            apply_patch((patches / name).read_bytes(), fresh)
        except PatchError as error:
            raise SourceError(
                f"patch {name} {error}; it is made for {PACKAGE} {VERSION}, check ASYMKV_LLAMA_SOURCE or the patch"
            ) from None
    synchronize(fresh, tree)
    shutil.rmtree(fresh)
    stamp.write_text(fingerprint)


def read_series(patches: Path) -> list[str]:
    lines = (patches / "series").read_text().splitlines()
    names = [line.split("#")[0].strip() for line in lines]
    series = [name for name in names if name]
    for name in series:
        if not (patches / name).is_file():
            raise SourceError(f"patch {name} is listed in {patches / 'series'} but does not exist")
    return series


def download(work: Path) -> Path:
    """The source archive of the pinned version."""
    archive = work / ARCHIVE
    if archive.is_file() and sha256_of(archive) == SHA256:
        return archive
    return pip_download(VERSION, work)


def pip_download(version: str, work: Path) -> Path:
    """A version's source archive, through pip (and so through its mirrors, proxies and cache)."""
    archive = work / f"llama_cpp_python-{version}.tar.gz"
    command = [
        sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps",
        "--no-binary", PACKAGE, "--dest", str(work), f"{PACKAGE}=={version}",
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0 or not archive.is_file():
        reason = (result.stderr.strip() or "no archive arrived").splitlines()[-1]
        raise SourceError(
            f"pip could not download the source of {PACKAGE} {version} ({reason}); "
            f"set ASYMKV_LLAMA_SOURCE to its .tar.gz or unpacked directory to build without a network"
        )
    return archive


def verify(archive: Path) -> None:
    if not archive.is_file():
        raise SourceError(f"ASYMKV_LLAMA_SOURCE: {archive} does not exist")
    found = sha256_of(archive)
    if found != SHA256:
        raise SourceError(
            f"{archive} has sha256 {found}, but {PACKAGE} {VERSION} has {SHA256}; download it again or name another file"
        )


def extract(archive: Path, target: Path) -> None:
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            inside = PurePosixPath(*path.parts[1:])  # without the archive's own top directory
            name = wanted(inside)
            if name is None or not member.isfile() or ".." in path.parts:
                continue
            stream = tar.extractfile(member)
            assert stream is not None
            file = target / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with stream, file.open("wb") as out:
                shutil.copyfileobj(stream, out)


def wanted(path: PurePosixPath) -> PurePosixPath | None:
    """Where a file of the archive goes in the tree; None: not needed."""
    if path == PurePosixPath(BINDING_LICENSE):
        return PurePosixPath("LICENSE.llama-cpp-python")
    if VENDORED not in path.parents:
        return None
    inside = path.relative_to(VENDORED)
    return inside if any(inside.is_relative_to(name) for name in NEEDED) else None


def copy_tree(origin: Path, target: Path) -> None:
    """From a directory: llama-cpp-python's unpacked archive, or llama.cpp itself."""
    root = origin / VENDORED
    if not root.is_dir():
        root = origin
    for name in NEEDED:
        if not (root / name).exists():
            raise SourceError(
                f"ASYMKV_LLAMA_SOURCE: {origin} has no {name}; give the unpacked {PACKAGE} {VERSION} or its {VENDORED}"
            )
        if (root / name).is_dir():
            shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns(".git"))
        else:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)
    for directory in (origin, *origin.parents[:2]):
        if (directory / BINDING_LICENSE).is_file():
            shutil.copy2(directory / BINDING_LICENSE, target / "LICENSE.llama-cpp-python")
            break


def synchronize(fresh: Path, tree: Path) -> None:
    """Make `tree` equal to `fresh`, leaving the times of equal files alone, so that they are not compiled again."""
    wanted_files = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
    for name in wanted_files:
        target = tree / name
        content = (fresh / name).read_bytes()
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    for path in [path for path in tree.rglob("*") if path.is_file()]:
        if path.relative_to(tree) not in wanted_files:
            path.unlink()


def fingerprint_of(origin: Path, patches: list[Path]) -> str:
    digest = hashlib.sha256()
    digest.update(str(origin).encode())
    files = sorted(path for path in origin.rglob("*") if path.is_file()) if origin.is_dir() else [origin]
    for path in files:
        if path.exists():
            status = path.stat()
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    for path in (*patches, Path(__file__), Path(__file__).with_name("strict_patch.py")):
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
