"""The build prepares exactly the source that it should, or stops with one sentence. No network, nothing is compiled."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "cmake"))

import prepare_source  # noqa: E402
from strict_patch import PatchError, apply_patch  # noqa: E402

CODE = "one\ntwo\nthree\nfour\nfive\n"
PATCH = """\
Why this patch exists

diff --git a/src/code.cpp b/src/code.cpp
index 1111111..2222222 100644
--- a/src/code.cpp
+++ b/src/code.cpp
@@ -2,3 +2,4 @@
 two
-three
+THREE
+three and a half
 four
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory in the shape of llama-cpp-python's unpacked source archive."""
    llama = tmp_path / "source" / "vendor" / "llama.cpp"
    for name in (
        "src/code.cpp",
        "src/other.cpp",
        "include/llama.h",
        "ggml/CMakeLists.txt",
        "tests/test-backend-ops.cpp",
        "tests/not-needed.cpp",
    ):
        (llama / name).parent.mkdir(parents=True, exist_ok=True)
        (llama / name).write_text(CODE)
    (llama / "CMakeLists.txt").write_text("set(LLAMA_VERSION_MAJOR 0)\n")
    (llama / "LICENSE").write_text("upstream\n")
    (tmp_path / "source" / "LICENSE.md").write_text("binding\n")
    return tmp_path / "source"


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    directory = tmp_path / "patches"
    directory.mkdir()
    (directory / "series").write_text("# comments are allowed\n0001-first.patch\n")
    (directory / "0001-first.patch").write_text(PATCH)
    return directory


def prepared(patches: Path, work: Path, source: Path) -> Path:
    prepare_source.prepare(patches, work, str(source))
    return work / "llama.cpp"


def configure(build: Path, source: Path) -> str:
    """Configures the real project; returns its error, on one line."""
    cmake = Path(sys.executable).with_name("cmake")
    command = [str(cmake), "-S", str(ROOT), "-B", str(build), "-G", "Ninja", f"-DASYMKV_LLAMA_SOURCE={source}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    return " ".join(done.stderr.split())


def test_the_series_lists_every_patch_in_order() -> None:
    series = prepare_source.read_series(ROOT / "patches")
    assert series == sorted(path.name for path in (ROOT / "patches").glob("*.patch"))


def test_what_is_needed_is_copied_and_patched(tmp_path: Path, source: Path, patches: Path) -> None:
    tree = prepared(patches, tmp_path / "work", source)
    assert (tree / "src/code.cpp").read_text() == "one\ntwo\nTHREE\nthree and a half\nfour\nfive\n"
    assert (tree / "src/other.cpp").read_text() == CODE
    assert (tree / "LICENSE.llama-cpp-python").read_text() == "binding\n"
    assert sorted(path.name for path in (tree / "tests").iterdir()) == ["test-backend-ops.cpp"]


def test_the_given_source_is_never_changed(tmp_path: Path, source: Path, patches: Path) -> None:
    prepared(patches, tmp_path / "work", source)
    assert (source / "vendor/llama.cpp/src/code.cpp").read_text() == CODE


def test_llama_cpps_own_directory_serves_as_well(tmp_path: Path, source: Path, patches: Path) -> None:
    tree = prepared(patches, tmp_path / "work", source / "vendor" / "llama.cpp")
    assert "THREE" in (tree / "src/code.cpp").read_text()
    assert (tree / "LICENSE.llama-cpp-python").exists()


def test_preparing_again_changes_nothing(tmp_path: Path, source: Path, patches: Path) -> None:
    tree = prepared(patches, tmp_path / "work", source)
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
    prepared(patches, tmp_path / "work", source)
    assert {path: path.stat().st_mtime_ns for path in tree.rglob("*")} == before


def test_a_changed_patch_is_applied_to_the_unpatched_source_and_touches_its_files_only(
    tmp_path: Path, source: Path, patches: Path
) -> None:
    tree = prepared(patches, tmp_path / "work", source)
    before = {name: (tree / name).stat().st_mtime_ns for name in ("src/code.cpp", "src/other.cpp")}
    (patches / "0001-first.patch").write_text(PATCH.replace("three and a half", "pi"))
    prepared(patches, tmp_path / "work", source)
    assert (tree / "src/code.cpp").read_text() == "one\ntwo\nTHREE\npi\nfour\nfive\n"
    assert (tree / "src/other.cpp").stat().st_mtime_ns == before["src/other.cpp"]
    assert (tree / "src/code.cpp").stat().st_mtime_ns != before["src/code.cpp"]


def test_a_patch_that_does_not_fit_stops_with_its_name(tmp_path: Path, source: Path, patches: Path) -> None:
    (patches / "series").write_text("0001-first.patch\n0002-second.patch\n")
    (patches / "0002-second.patch").write_text(PATCH)  # the first one has changed these lines
    with pytest.raises(
        prepare_source.SourceError, match=r"^patch 0002-second.patch does not fit src/code.cpp at line 3: "
    ) as caught:
        prepared(patches, tmp_path / "work", source)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "work" / "prepared").exists()


def test_a_patch_that_is_listed_but_missing_is_named(tmp_path: Path, source: Path, patches: Path) -> None:
    (patches / "series").write_text("0001-first.patch\n0007-gone.patch\n")
    with pytest.raises(prepare_source.SourceError, match="patch 0007-gone.patch is listed in .* but does not exist"):
        prepared(patches, tmp_path / "work", source)


def test_configuring_stops_at_a_patch_that_does_not_fit_and_names_it(tmp_path: Path, source: Path) -> None:
    error = configure(tmp_path / "build", source)
    first = prepare_source.read_series(ROOT / "patches")[0]
    assert f"asymkv: patch {first} " in error
    assert "check ASYMKV_LLAMA_SOURCE or the patch" in error


def test_configuring_stops_at_an_archive_with_another_checksum(tmp_path: Path, source: Path) -> None:
    archive = tmp_path / "llama_cpp_python-0.3.36.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, "llama_cpp_python-0.3.36")
    error = configure(tmp_path / "build", archive)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert f"{archive} has sha256 {found}, but llama-cpp-python 0.3.36 has {prepare_source.SHA256};" in error


def test_configuring_stops_at_a_source_that_does_not_exist(tmp_path: Path) -> None:
    assert "/no/such.tar.gz does not exist" in configure(tmp_path / "build", Path("/no/such.tar.gz"))


def test_an_archive_gives_the_same_tree_as_its_directory(
    tmp_path: Path, source: Path, patches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "source.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, "llama_cpp_python-0.3.36")
    monkeypatch.setattr(prepare_source, "SHA256", prepare_source.sha256_of(archive))
    from_archive = prepared(patches, tmp_path / "work-1", archive)
    from_directory = prepared(patches, tmp_path / "work-2", source)
    assert contents(from_archive) == contents(from_directory) != {}


def contents(tree: Path) -> dict[str, bytes]:
    return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def test_a_directory_of_something_else_is_refused(tmp_path: Path, patches: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(prepare_source.SourceError, match="empty has no src; give the unpacked llama-cpp-python 0.3.36"):
        prepared(patches, tmp_path / "work", tmp_path / "empty")


# the patch applier


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda code: "zero\n" + code, "does not fit src/code.cpp at line 2"),  # moved by a line
        (lambda code: code.replace("two", "Two"), "does not fit src/code.cpp at line 2"),  # context changed
        (lambda code: code.replace("\n", "\r\n"), "does not fit src/code.cpp at line 2"),
        (lambda code: code[:8], "does not fit src/code.cpp at line 3"),  # shorter
        (lambda _: "", "a hunk starts at line 2, the file has 0 lines"),
    ],
    ids=["moved", "changed", "line-ends", "shorter", "empty"],
)
def test_there_is_no_fuzz_and_no_offset(tmp_path: Path, change: object, sentence: str) -> None:
    assert callable(change)
    file = tmp_path / "src" / "code.cpp"
    file.parent.mkdir()
    file.write_bytes(change(CODE).encode())
    before = file.read_bytes()
    with pytest.raises(PatchError, match=sentence):
        apply_patch(PATCH.encode(), tmp_path)
    assert file.read_bytes() == before


def test_a_patch_can_create_and_remove_files(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_text("bye\n")
    patch = b"--- /dev/null\n+++ b/new/file.txt\n@@ -0,0 +1,2 @@\n+hello\n+world\n\\ No newline at end of file\n"
    patch += b"--- a/old.txt\n+++ /dev/null\n@@ -1 +0,0 @@\n-bye\n"
    assert apply_patch(patch, tmp_path) == ["new/file.txt", "old.txt"]
    assert (tmp_path / "new/file.txt").read_text() == "hello\nworld"
    assert not (tmp_path / "old.txt").exists()


@pytest.mark.parametrize(
    ("patch", "sentence"),
    [
        (b"", "holds no change"),
        (b"--- a/code\n+++ b/code\n@@ -1,3 +1,3 @@\n one\n", "is damaged: a hunk is shorter than its header says"),
        (b"--- a/code\n+++ b/code\n@@ -1,3 +1,3 @@\n one\nNONSENSE\n", "is damaged: unexpected 'NONSENSE'"),
        (b"--- a/../code\n+++ b/../code\n@@ -1 +1 @@\n-one\n+two\n", "outside of the source"),
        (b"--- code\n+++ code\n@@ -1 +1 @@\n-one\n+two\n", "without an a/ or b/ prefix"),
        (b"--- a/gone\n+++ b/gone\n@@ -1 +1 @@\n-one\n+two\n", "changes gone, which the source does not have"),
        (b"--- /dev/null\n+++ b/code\n@@ -0,0 +1 @@\n+two\n", "creates code, which exists already"),
    ],
)
def test_a_damaged_patch_is_one_sentence(tmp_path: Path, patch: bytes, sentence: str) -> None:
    (tmp_path / "code").write_text(CODE)
    with pytest.raises(PatchError, match=sentence):
        apply_patch(patch, tmp_path)
