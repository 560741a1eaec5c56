"""`list`, `rm`, and what a terminal shows: the real cache, a real pty."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from hub_server import HubServer, Repo, sha256
from hub_tool import LARGE, MIB, RECALL, Tool
from huggingface_hub import DeleteCacheStrategy
from split_model import split

from asymkv_gguf.cli.demo import MODEL
from asymkv_gguf.errors import HubError
from asymkv_gguf.models.removal import Removal

SHARED = b"The same bytes in two files."


@pytest.fixture
def hub() -> Iterator[HubServer]:
    quants = {"recall-Q4_K_M.gguf": RECALL, "recall-Q8_0.gguf": RECALL + b"\0"}
    repos = {
        "org/recall": Repo({**quants, "README.md": b"# A model\n", "mmproj-f16.gguf": SHARED}),
        "org/large": Repo({"recall-Q8_0.gguf": LARGE}),
    }
    with HubServer(repos) as server:
        yield server


@pytest.fixture
def tool(tmp_path: Path, hub: HubServer) -> Tool:
    return Tool(tmp_path / "home", hub)


def names(tool: Tool) -> list[str]:
    return [model["name"] for model in json.loads(tool.works("list", "--json"))["models"]]


def test_the_list_has_name_quant_size_last_use_and_path(tool: Tool, tmp_path: Path) -> None:
    (path,) = tool.fetched_by_another("org/recall", "recall-Q8_0.gguf")
    parts = split(MODEL, tmp_path, "m-Q4_0", n_tensors=10)
    tool.hub.repos["abc/split"] = Repo({part.name: part.read_bytes() for part in parts})
    tool.fetched_by_another("abc/split", parts[1].name)
    tool.fetched_by_another("org/recall", "README.md", "mmproj-f16.gguf")
    header, incomplete, whole = tool.works("list").splitlines()
    assert header.split() == ["NAME", "QUANT", "SIZE", "LAST", "USED", "PATH"]
    assert incomplete.startswith("abc/split:Q4_0")
    assert "parts missing" in incomplete
    assert whole.split()[:3] == ["org/recall:Q8_0", "Q8_0", "1.2"]
    assert whole.endswith(path)
    models = json.loads(tool.works("list", "--json"))["models"]
    assert [model["whole"] for model in models] == [False, True]
    assert models[1]["path"] == path
    assert models[1]["size_bytes"] == len(RECALL) + 1
    assert models[1]["last_used"][:2] == "20"


def test_an_empty_cache_says_how_to_fill_it(tool: Tool) -> None:
    done = tool("list")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        f"no GGUF model is in the cache ({tool.home / 'hub'}); get one with: asymkv-gguf download USER/REPO:QUANT\n"
    )
    assert names(tool) == []


def test_one_quant_is_removed_and_everything_else_stays(tool: Tool) -> None:
    tool.fetched_by_another("org/recall", "README.md", "recall-Q8_0.gguf", "recall-Q4_K_M.gguf")
    tool.fetched_by_another("org/large", "recall-Q8_0.gguf")
    done = tool("rm", "org/recall:q8_0", "-y", "--json")
    assert json.loads(done.stdout) == {
        "model": "org/recall:q8_0",
        "files": ["recall-Q8_0.gguf"],
        "freed_bytes": len(RECALL) + 1,
    }
    assert done.stderr == f"removed recall-Q8_0.gguf of org/recall:q8_0: {len(RECALL) + 1:,} bytes (1.2 MiB) are freed\n"
    assert tool.files() == ["README.md", "recall-Q4_K_M.gguf", "recall-Q8_0.gguf"]  # the last one is org/large's
    assert sha256(RECALL + b"\0") not in [blob.name for blob in tool.blobs()]
    assert names(tool) == ["org/large:Q8_0", "org/recall:Q4_K_M"]


def test_a_blob_that_another_file_refers_to_is_not_removed(tool: Tool) -> None:
    tool.hub.repos["org/recall"].files["recall-copy-F16.gguf"] = RECALL
    _, path = tool.fetched_by_another("org/recall", "recall-Q4_K_M.gguf", "recall-copy-F16.gguf")
    assert "0 bytes" in tool("rm", "org/recall:Q4_K_M", "-y").stderr
    assert Path(path).read_bytes() == RECALL


def test_a_repository_loses_its_gguf_files_and_keeps_the_others(tool: Tool) -> None:
    tool.fetched_by_another("org/recall", "recall-Q8_0.gguf", "README.md", "mmproj-f16.gguf")
    assert "removed mmproj-f16.gguf, recall-Q8_0.gguf of org/recall" in tool("rm", "org/recall", "-y").stderr
    assert tool.files() == ["README.md"]


def test_a_repository_of_gguf_files_only_leaves_nothing_behind(tool: Tool) -> None:
    tool.fetched_by_another("org/recall", "recall-Q8_0.gguf")
    tool.hub.repos["org/recall"].commit = "b" * 40
    tool.fetched_by_another("org/recall", "recall-Q4_K_M.gguf")
    tool.works("rm", "org/recall", "-y")
    assert not (tool.home / "hub" / "models--org--recall").exists()


def test_a_split_with_a_part_missing_can_be_removed(tool: Tool, tmp_path: Path) -> None:
    parts = split(MODEL, tmp_path, "m-Q4_0", n_tensors=10)
    tool.hub.repos["org/split"] = Repo({part.name: part.read_bytes() for part in parts})
    tool.fetched_by_another("org/split", parts[1].name)
    tool.works("rm", "org/split:Q4_0", "-y")
    assert tool.files() == []


def test_an_interrupted_download_can_be_removed(tool: Tool) -> None:
    blobs = tool.home / "hub" / "models--org--large" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{sha256(LARGE)}.incomplete").write_bytes(LARGE[: 10 * MIB])
    assert tool("rm", "org/large", "-y").stderr == (
        f"removed an interrupted download of org/large: {10 * MIB:,} bytes (10 MiB) are freed\n"
    )
    assert not blobs.parent.exists()


def test_what_is_not_cached_cannot_be_removed(tool: Tool) -> None:
    assert tool.fails("rm", "org/recall", "-y") == f"nothing of org/recall is in the cache ({tool.home / 'hub'})"
    tool.fetched_by_another("org/recall", "recall-Q8_0.gguf")
    assert tool.fails("rm", "org/recall:Q2_K", "-y") == (
        "the cache of org/recall has no Q2_K; it has Q8_0 (1.2 MiB); name one, as in org/recall:Q8_0"
    )


def test_what_may_not_be_deleted_is_told(tmp_path: Path) -> None:
    class Forbidden(DeleteCacheStrategy):
        def execute(self) -> None:
            """huggingface_hub only logs what the system does not let it delete."""

    none: frozenset[Path] = frozenset()
    strategy = Forbidden(expected_freed_size=1, blobs=none, refs=none, repos=frozenset([tmp_path]), snapshots=none)
    removal = Removal("org/recall", ("recall-Q8_0.gguf",), 1, (strategy,), ())
    with pytest.raises(HubError, match=f"{tmp_path} could not be removed; check its permissions"):
        removal.execute()


def test_without_a_terminal_rm_wants_a_yes(tool: Tool) -> None:
    tool.fetched_by_another("org/recall", "recall-Q8_0.gguf")
    done = tool("rm", "org/recall:Q8_0")
    assert done.returncode == 2
    assert "rm would remove recall-Q8_0.gguf, and there is no terminal to ask at; give -y" in done.stderr
    assert tool.files() == ["recall-Q8_0.gguf"]


@pytest.mark.skipif(sys.platform == "win32", reason="no pty")
def test_at_a_terminal_rm_asks(tool: Tool) -> None:
    tool.fetched_by_another("org/recall", "recall-Q8_0.gguf")
    for answer, left, code in (("n", ["recall-Q8_0.gguf"], 130), ("y", [], 0)):
        terminal = tool.at_terminal("rm", "org/recall:Q8_0")
        terminal.expect_exact("Remove recall-Q8_0.gguf of org/recall:Q8_0 (1.2 MiB)? [y/N]: ")
        terminal.sendline(answer)
        terminal.expect(pexpect.EOF)
        terminal.close()
        assert terminal.exitstatus == code
        assert tool.files() == left


@pytest.mark.skipif(sys.platform == "win32", reason="no pty")
def test_at_a_terminal_there_is_one_bar_for_all_parts(tool: Tool, tmp_path: Path) -> None:
    parts = split(MODEL, tmp_path, "m-Q4_0", n_tensors=10)
    tool.hub.repos["org/split"] = Repo({part.name: part.read_bytes() for part in parts})
    terminal = tool.at_terminal("download", "org/split")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    shown = str(terminal.before)
    assert "org/split:Q4_0: 100%|" in shown
    assert "B/s]" in shown
    assert parts[0].name not in shown.split("100%|")[0]  # no second bar, named after a file
    assert "downloading" not in shown
    assert "\x1b[3" not in shown  # no colour


@pytest.mark.skipif(sys.platform == "win32", reason="no pty")
def test_ctrl_c_keeps_what_arrived(tool: Tool) -> None:
    tool.hub.breakage.after = [15 * MIB]
    tool.hub.breakage.stall = True
    terminal = tool.at_terminal("download", "org/large")
    terminal.expect_exact("10.0M/")
    terminal.sendintr()
    terminal.expect_exact("interrupted")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 130
    assert [blob.stat().st_size for blob in tool.blobs()] == [10 * MIB]
