"""tools/update_llama.py: the patch series on the pinned source, on changed ones, and the pins."""

from __future__ import annotations

import shutil
import sys
import tarfile
from pathlib import Path

import pytest
from llama_source import source_archive

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "cmake"), str(ROOT / "tools")]

import prepare_source  # noqa: E402
import update_llama  # noqa: E402
from patch_hunks import try_patch  # noqa: E402
from strict_patch import apply_patch  # noqa: E402

CODE = "one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n"
PATCH = """\
Why

--- a/src/code.cpp
+++ b/src/code.cpp
@@ -2,3 +2,4 @@ around here
 two
-three
+THREE
+three and a half
 four
@@ -7,2 +8,2 @@
 seven
-eight
+EIGHT
"""
KV_CACHE = "src/llama-kv-cache.cpp"
GRAPH = "src/llama-graph.cpp"
TRANSPORT = "ggml/src/ggml-rpc/transport.cpp"


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """llama.cpp as the pinned archive has it."""
    tree = tmp_path_factory.mktemp("upstream") / "llama.cpp"
    prepare_source.extract(source_archive(), tree)
    return tree


def changed(upstream: Path, directory: Path, *, moved: bool, broken: bool) -> Path:
    tree = directory / "llama.cpp"
    shutil.copytree(upstream, tree)
    if moved:
        (tree / KV_CACHE).write_text("// new\n\n// lines\n" + (tree / KV_CACHE).read_text())
    if broken:
        graph = (tree / GRAPH).read_text()
        old = '#include "llama-kv-cache.h"'
        assert old in graph
        (tree / GRAPH).write_text(graph.replace(old, '#include "llama-kv-store.h"', 1))
        (tree / TRANSPORT).unlink()
    return tree


def project(directory: Path) -> Path:
    """A copy of what names the version."""
    for name in (*update_llama.PINNED_IN, "patches"):
        source, target = ROOT / name, directory / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.gguf"))
        elif source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return directory


def test_all_hunks_fit_the_pinned_version_and_nothing_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = project(tmp_path)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    options = ["--source", str(source_archive()), "--root", str(root)]
    assert update_llama.main([prepare_source.VERSION, *options]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-3].endswith(" fit where they were, 0 have moved, 0 need hands")
    assert said[-2] == "the pins say so already"
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_a_changed_source_is_told_hunk_by_hunk(tmp_path: Path, upstream: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = changed(upstream, tmp_path, moved=True, broken=True)
    assert update_llama.main(["0.3.99", "--source", str(tree), "--dry-run"]) == 1
    said = capsys.readouterr().out
    lines = said.splitlines()
    hands = [line for line in lines if line.startswith("NEEDS HANDS")]
    assert len(hands) == 4
    assert "0002-attention-hooks.patch: src/llama-graph.cpp:8: line 9 is " in hands[0]
    assert """is '#include "llama-kv-store.h"', not '#include "llama-kv-cache.h"'""" in hands[0]
    assert all(line.endswith("transport.cpp:" + line.split(":")[2] + ": there is no such file any more") for line in hands[1:])
    moved = [line for line in lines if line.startswith("moved")]
    assert moved
    assert all(KV_CACHE in line for line in moved)
    assert "0001-kv-cache-hooks.patch: src/llama-kv-cache.cpp:730 -> line 733" in said
    assert lines[-1].startswith("llama-cpp-python 0.3.99: of ")
    assert lines[-1].endswith(f"{len(moved)} have moved, 4 need hands")


def test_a_version_whose_hunks_have_only_moved_is_taken_over_and_then_builds_exactly(tmp_path: Path, upstream: Path) -> None:
    tree = changed(upstream, tmp_path, moved=True, broken=False)
    archive = tmp_path / "llama_cpp_python-0.3.99.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(tree, "llama_cpp_python-0.3.99/vendor/llama.cpp")
    root = project(tmp_path / "project")
    assert update_llama.main(["0.3.99", "--source", str(archive), "--root", str(root)]) == 0

    prepare = (root / "cmake/prepare_source.py").read_text()
    assert 'VERSION = "0.3.99"' in prepare
    assert f'SHA256 = "{prepare_source.sha256_of(archive)}"' in prepare
    assert '"llama-cpp-python==0.3.99"' in (root / "pyproject.toml").read_text()
    assert 'BINDING_VERSION = "0.3.99"' in (root / "asymkv_gguf/native/loader.py").read_text()
    for path in update_llama.pinned_files(root):
        assert prepare_source.VERSION not in path.read_text(), path

    prepare_source.prepare(root / "patches", tmp_path / "work", str(tree))  # the build's own, which takes no moved hunk
    patched = (tmp_path / "work/llama.cpp" / KV_CACHE).read_text()
    assert patched.startswith("// new\n")
    assert "return make_context(std::move(sinfos), std::move(ubatches));" in patched


def test_nothing_is_changed_while_a_hunk_needs_hands(tmp_path: Path, upstream: Path) -> None:
    tree = changed(upstream, tmp_path, moved=True, broken=True)
    archive = tmp_path / "llama_cpp_python-0.3.99.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(tree, "llama_cpp_python-0.3.99/vendor/llama.cpp")
    root = project(tmp_path / "project")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert update_llama.main(["0.3.99", "--source", str(archive), "--root", str(root)]) == 1
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


# single hunks


def tried(tmp_path: Path, code: str) -> tuple[list[tuple[int | None, str]], str, str]:
    """Where each hunk fits, or why not; the code and the patch after that."""
    file = tmp_path / "src/code.cpp"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code)
    trials, patch = try_patch("0001.patch", PATCH.encode(), tmp_path)
    return [(trial.found, trial.reason) for trial in trials], file.read_text(), patch.decode()


def test_a_moved_hunk_is_applied_where_it_stands_and_gets_its_new_lines(tmp_path: Path) -> None:
    found, code, patch = tried(tmp_path, "zero\n" + CODE.replace("five\n", "five\nand\na half\n"))
    assert found == [(3, ""), (10, "")]
    assert "three and a half" in code
    assert "EIGHT" in code
    assert "@@ -3,3 +3,4 @@ around here\n" in patch
    assert "@@ -10,2 +11,2 @@\n" in patch
    again = tmp_path / "again"
    again.mkdir()
    (again / "src").mkdir()
    (again / "src/code.cpp").write_text("zero\n" + CODE.replace("five\n", "five\nand\na half\n"))
    apply_patch(patch.encode(), again)
    assert (again / "src/code.cpp").read_text() == code


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (CODE.replace("three", "3"), "line 3 is '3', not 'three'"),
        ("zero\n" + CODE + "two\nthree\nfour\n", "its lines stand at several places: lines 3, 11"),
        ("nothing\nof it\nseven\neight\n", "none of its lines is there any more; the first is 'two'"),
        ("zero\none\ntwo\nthree\n", "the file ends before its line 'four'"),
    ],
    ids=["changed", "twice", "gone", "shorter"],
)
def test_a_hunk_that_needs_hands_says_why_and_the_others_are_still_tried(tmp_path: Path, code: str, reason: str) -> None:
    found, after, _ = tried(tmp_path, code)
    assert found[0] == (None, reason)
    assert "three and a half" not in after
    if "eight" in code:
        assert found[1][0] is not None
        assert "EIGHT" in after


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["newest"], 2, "VERSION: 'newest' is no version; give one such as "),
        (["0.3.99", "--source", "."], 2, "--source: a directory has no checksum to pin; give the archive, or --dry-run"),
        (["0.3.99", "--source", "/no/such.tar.gz"], 1, "update_llama: /no/such.tar.gz does not exist"),
        (["0.3.99", "--source", __file__], 1, "does not have 0.3.99 in its name; give the archive of that version"),
    ],
)
def test_wrong_use_is_one_sentence(arguments: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        found: object = update_llama.main(arguments)
    except SystemExit as ended:
        found = ended.code
    assert found == code
    assert sentence in capsys.readouterr().err
