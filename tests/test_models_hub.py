"""Models from the hub: a real server on this machine, real connections that break, the real cache."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import VALID_TOKEN, Breakage, HubServer, Repo, sha256
from hub_tool import LARGE, MIB, RECALL, Tool
from split_model import split

from asymkv_gguf.cli import main
from asymkv_gguf.cli.demo import MODEL

SAY = ["-p", "The code of", "-n", "4", "-t", "1", "--temp", "0"]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    small = {"README.md": b"# A model\n", "mmproj-recall-f16.gguf": b"GGUF of a projector", "imatrix.gguf": b"GGUF"}
    quants = {"recall-Q4_K_M.gguf": RECALL, "recall-Q8_0.gguf": RECALL + b"\0", "recall-F16.gguf": RECALL + b"\0\0"}
    repos = {
        "org/recall": Repo({**small, **quants}),
        "org/large": Repo({"recall-Q8_0.gguf": LARGE}),
        "org/gated": Repo({"recall-Q8_0.gguf": RECALL}, gated=True),
        "org/other": Repo({"model.safetensors": b"x"}),
    }
    with HubServer(repos) as server:
        yield server


@pytest.fixture
def tool(tmp_path: Path, hub: HubServer) -> Tool:
    return Tool(tmp_path / "home", hub)


# what is downloaded, and what is taken from the cache


def test_a_model_of_the_hub_is_downloaded_once_and_runs_without_the_server_later(tool: Tool) -> None:
    first = tool("run", "-hf", "org/recall:Q8_0", *SAY)
    assert first.returncode == 0, first.stderr
    assert "downloading org/recall:Q8_0 (1.2 MiB)" in first.stderr
    assert first.stdout == tool.works("run", "-m", MODEL, *SAY)
    assert tool.files() == ["recall-Q8_0.gguf"]
    again = tool("run", "-hf", "org/recall:q8_0", *SAY)
    assert again.stdout == first.stdout
    assert "downloading" not in again.stderr
    assert len(tool.hub.bodies()) == 1
    tool.hub.close()
    offline = tool("run", "-hf", "org/recall:Q8_0", "--offline", *SAY)
    assert offline.stdout == first.stdout
    assert "reached" not in offline.stderr


def test_offline_asks_the_server_nothing_and_without_a_connection_the_cache_is_taken(tool: Tool) -> None:
    (path,) = tool.fetched_by_another("org/recall", "recall-Q8_0.gguf")
    tool.hub.requests.clear()
    tool.works("run", "-hf", "org/recall:Q8_0", "--offline", *SAY)
    assert tool.works("download", "org/recall:Q8_0", HF_HUB_OFFLINE="1").strip() == path
    assert tool.hub.requests == []
    tool.hub.close()
    done = tool("download", "org/recall:Q8_0")
    assert done.stdout.strip() == path
    sentence = f"{tool.hub.endpoint} cannot be reached (Connection refused); check the connection; taking what is cached"
    assert sentence in done.stderr


def test_the_default_is_the_q4_k_m_without_projector_and_papers(tool: Tool) -> None:
    path = tool.works("download", "org/recall").strip()
    assert Path(path).read_bytes() == RECALL
    assert tool.files() == ["recall-Q4_K_M.gguf"]


def test_a_file_can_be_named_with_hff_or_after_the_colon(tool: Tool) -> None:
    first = tool.works("download", "org/recall", "-hff", "recall-F16.gguf")
    assert first == tool.works("download", "org/recall:recall-F16.gguf")
    assert "recall-F16.gguf" in first


def test_a_split_model_in_a_directory_is_downloaded_whole_and_runs(tool: Tool, tmp_path: Path) -> None:
    parts = split(MODEL, tmp_path, "recall-Q8_0", n_tensors=10)
    assert len(parts) > 1
    files = {f"Q8_0/{part.name}": part.read_bytes() for part in parts}
    tool.hub.repos["org/split"] = Repo({"recall-Q4_0.gguf": RECALL, **files})
    answer = tool.works("run", "-hf", "org/split:Q8_0", *SAY)
    assert answer == tool.works("run", "-m", MODEL, *SAY)
    assert tool.files() == sorted(files)
    report = json.loads(tool.works("download", "org/split:Q8_0", "--json"))
    assert report["model"] == "org/split:Q8_0"
    assert report["path"] == report["files"][0]
    assert report["path"].endswith(f"Q8_0/{parts[0].name}")
    assert report["size_bytes"] == sum(map(len, files.values()))


def test_other_tools_find_the_file_where_huggingface_hub_keeps_it(tool: Tool) -> None:
    ours = tool.works("download", "org/recall:Q8_0").strip()
    assert tool.fetched_by_another("org/recall", "recall-Q8_0.gguf", offline=True) == [ours]


def test_a_file_that_another_tool_has_downloaded_is_taken(tool: Tool) -> None:
    (theirs,) = tool.fetched_by_another("org/recall", "recall-Q8_0.gguf")
    assert tool.works("download", "org/recall:Q8_0").strip() == theirs
    assert len(tool.hub.bodies()) == 1


def test_a_new_commit_with_the_same_file_costs_no_download(tool: Tool) -> None:
    tool.fetched_by_another("org/recall", "recall-Q8_0.gguf")
    tool.hub.repos["org/recall"].commit = "b" * 40
    path = tool.works("download", "org/recall:Q8_0")
    assert "b" * 40 in path
    assert len(tool.hub.bodies()) == 1


def test_an_older_commits_quant_is_found_offline_after_a_newer_commits(tool: Tool) -> None:
    tool.fetched_by_another("org/recall", "recall-Q8_0.gguf")
    tool.hub.repos["org/recall"].commit = "b" * 40
    tool.fetched_by_another("org/recall", "recall-F16.gguf")
    assert "a" * 40 in tool.works("download", "org/recall:Q8_0", HF_HUB_OFFLINE="1")


def test_a_repository_that_is_kept_by_xet_is_read_over_plain_http(tool: Tool) -> None:
    tool.hub.repos["org/recall"].xet = True
    for disabled in ("0", "1"):
        tool.home = tool.home.with_name(f"xet{disabled}")
        path = tool.works("download", "org/recall:Q8_0", HF_HUB_DISABLE_XET=disabled).strip()
        assert Path(path).read_bytes() == RECALL + b"\0"


# connections that break


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_broken_connection_goes_on_where_it_ended(tool: Tool, reset: bool) -> None:
    tool.hub.breakage = Breakage([15 * MIB], reset=reset)
    done = tool("download", "org/large:Q8_0")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == LARGE
    first, second = tool.hub.bodies()
    assert first.range is None
    assert second.range == f"bytes={10 * MIB}-"
    assert second.status == 206


def test_a_killed_download_goes_on_where_it_ended(tool: Tool) -> None:
    tool.hub.breakage = Breakage([21 * MIB], stall=True)
    process = tool.start("download", "org/large:Q8_0")
    assert process.stderr is not None
    lines = [process.stderr.readline() for _ in range(3)]
    assert lines[-1] == "70 % (20 MiB)\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    partial = tool.home / "hub" / "models--org--large" / "blobs" / f"{sha256(LARGE)}.incomplete"
    n_bytes = partial.stat().st_size
    assert 10 * MIB < n_bytes <= 20 * MIB
    done = tool("download", "org/large:Q8_0")
    assert done.returncode == 0, done.stderr
    assert "going on after 20 MiB" in done.stderr
    assert tool.hub.bodies()[-1].range == f"bytes={n_bytes}-"
    assert Path(done.stdout.strip()).read_bytes() == LARGE
    assert [blob.name for blob in tool.blobs()] == [sha256(LARGE)]


def test_a_server_that_ignores_ranges_sends_the_file_anew(tool: Tool) -> None:
    tool.hub.honours_ranges = False
    tool.hub.breakage = Breakage([15 * MIB])
    path = tool.works("download", "org/large:Q8_0").strip()
    assert Path(path).read_bytes() == LARGE


def test_what_is_not_the_beginning_of_the_file_is_fetched_anew(tool: Tool) -> None:
    blobs = tool.home / "hub" / "models--org--large" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{sha256(LARGE)}.incomplete").write_bytes(b"not what is at the beginning")
    done = tool("download", "org/large:Q8_0")
    assert "org/large/recall-Q8_0.gguf arrived damaged; fetching it anew\n" in done.stderr
    assert Path(done.stdout.strip()).read_bytes() == LARGE
    assert [request.range for request in tool.hub.bodies()] == ["bytes=28-", None]


def test_a_file_that_is_not_what_the_hub_promises_is_not_kept(tool: Tool) -> None:
    tool.hub.repos["org/recall"].promised_sha256 = "0123456789abcdef" * 4
    assert tool.fails("download", "org/recall:Q8_0") == (
        "org/recall/recall-Q8_0.gguf arrived damaged (its SHA-256 is not 0123456789ab...) and was removed; try again later"
    )
    assert tool.blobs() == []


def test_a_connection_that_breaks_again_and_again_keeps_what_arrived(tool: Tool) -> None:
    tool.hub.breakage = Breakage([15 * MIB, *[0] * 20], reset=True)
    sentence = tool.fails("download", "org/large:Q8_0")
    assert sentence.startswith("the download of org/large/recall-Q8_0.gguf broke after 10 MiB of 25 MiB (")
    assert sentence.endswith("); run the command again to go on from there")
    assert [blob.stat().st_size for blob in tool.blobs()] == [10 * MIB]
    tool.hub.breakage = Breakage()
    assert tool.works("download", "org/large:Q8_0")


def test_two_downloads_at_a_time_fetch_the_file_once(tool: Tool) -> None:
    both = [tool.start("download", "org/large:Q8_0") for _ in range(2)]
    (first_path, first_said), (second_path, second_said) = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert first_path == second_path
    assert "Traceback" not in first_said + second_said
    assert len(tool.hub.bodies()) == 1


@pytest.mark.parametrize(("history", "push_after"), [(set(), 1), ({"a" * 40}, 2)], ids=["forgotten", "kept"])
def test_a_repository_that_changes_while_its_parts_are_downloaded_is_not_mixed(
    tool: Tool, tmp_path: Path, history: set[str], push_after: int
) -> None:
    parts = split(MODEL, tmp_path, "recall-Q8_0", n_tensors=10)
    tool.hub.repos["org/split"] = Repo(
        {part.name: part.read_bytes() for part in parts}, next_commit="b" * 40, push_after=push_after, history=history
    )
    assert tool.fails("download", "org/split") == "org/split was changed while it was downloaded; run the command again"
    assert tool.works("download", "org/split")


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_a_disk_that_fills_up_keeps_what_was_written(tool: Tool) -> None:
    blocks = 12 * MIB // 1024
    process = subprocess.run(
        ["bash", "-c", f'ulimit -f {blocks}; exec "$@"', "bash", sys.executable, "-m", "asymkv_gguf", "download", "org/large"],
        env=tool.environment,
        capture_output=True,
        text=True,
    )
    (partial,) = tool.blobs()
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == (
        f"asymkv-gguf: {partial} could not be written after 12 MiB (File too large); make room, and run the command again to "
        "go on from there"
    )
    path = tool.works("download", "org/large").strip()
    assert Path(path).read_bytes() == LARGE
    assert tool.hub.bodies()[-1].range == f"bytes={12 * MIB}-"


# what cannot be had is one sentence


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "org/none",
            "there is no repository org/none at HUB, or it is private; check the name, or set HF_TOKEN (or give -hft) to a "
            "token that may read it",
        ),
        ("org/other", "org/other holds no GGUF model; look for a repository with GGUF files, often named ...-GGUF"),
        (
            "org/recall:Q5_0",
            "org/recall has no Q5_0; it has F16 (1.2 MiB), Q4_K_M (1.2 MiB), Q8_0 (1.2 MiB); name one, as in org/recall:F16",
        ),
        (
            "org/gated",
            "org/gated is gated; accept its licence at HUB/org/gated and set HF_TOKEN (or give -hft) to a token of your "
            "account",
        ),
    ],
)
def test_what_the_hub_does_not_give_is_one_sentence(tool: Tool, name: str, sentence: str) -> None:
    assert tool.fails("download", name) == sentence.replace("HUB", tool.hub.endpoint)
    assert tool.files() == []


def test_a_gated_model_is_had_with_a_token(tool: Tool) -> None:
    tool.works("download", "org/gated", HF_TOKEN=VALID_TOKEN)
    tool.home = tool.home.with_name("another")
    tool.works("run", "-hf", "org/gated", "-hft", VALID_TOKEN, *SAY)


def test_a_token_that_is_not_valid_is_named_as_the_cause(tool: Tool) -> None:
    assert tool.fails("run", "-hf", "org/recall", *SAY, HF_TOKEN="hf_wrong") == (
        f"{tool.hub.endpoint} does not accept the token for org/recall (HTTP 401); set HF_TOKEN (or give -hft) to a valid one, "
        "or unset it"
    )


def test_a_hub_out_of_order_is_told_with_its_status(tool: Tool) -> None:
    tool.hub.breakage.status = 503
    sentence = tool.fails("run", "-hf", "org/recall", *SAY)
    assert sentence.startswith(f"{tool.hub.endpoint} answered org/recall with HTTP 503; try again later; nothing of org/recall")


def test_a_login_page_is_no_hub(tool: Tool) -> None:
    tool.hub.breakage.login_page = True
    assert tool.fails("download", "org/recall").startswith(
        f"what answered org/recall at {tool.hub.endpoint} is not a hub; check HF_ENDPOINT, and whether a proxy or a login page "
        "is in between; nothing of org/recall is in the cache"
    )


def test_without_a_connection_the_sentence_says_what_is_cached(tool: Tool) -> None:
    tool.fetched_by_another("org/recall", "recall-Q8_0.gguf")
    tool.hub.close()
    assert tool.fails("download", "org/none") == (
        f"{tool.hub.endpoint} cannot be reached (Connection refused); check the connection; "
        f"nothing of org/none is in the cache ({tool.home / 'hub'})"
    )
    has = "the cache of org/recall has no Q4_0; it has Q8_0 (1.2 MiB); name one, as in org/recall:Q8_0"
    assert tool.fails("download", "org/recall:Q4_0").endswith(f"; {has}")
    assert tool.fails("run", "-hf", "org/recall:Q4_0", "--offline", *SAY) == (
        f"{has}; leave out --offline (and HF_HUB_OFFLINE) to download it"
    )


def test_a_disk_that_is_too_small_is_told_before_the_download(tool: Tool) -> None:
    tool.hub.repos["org/large"].claimed_size = 1 << 60
    sentence = tool.fails("download", "org/large")
    assert sentence.startswith(f"org/large:Q8_0 needs 1,073,741,824 GiB more, and {tool.home / 'hub'} has ")
    assert sentence.endswith(" free; make room, or set HF_HUB_CACHE to another disk")
    assert tool.hub.bodies() == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give either -m FILE, a GGUF file, or -hf USER/REPO[:QUANT], a model of the hub"),
        (["-m", "a.gguf", "-hf", "org/m"], "give either -m FILE, a GGUF file, or -hf USER/REPO[:QUANT], a model of the hub"),
        (["-m", "a.gguf", "-hff", "b.gguf"], "-hff names a file of the hub; give its repository with -hf, or the file with -m"),
        (["-hf", "model"], "'model' names no model of the hub; give USER/REPO or USER/REPO:QUANT, such as org/model:Q8_0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_model_comes_from_one_place(capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str) -> None:
    assert main(["run", *arguments, *SAY]) == 2
    assert sentence in capsys.readouterr().err


def test_the_command_line_counts_more_than_the_environment(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    tool.works("run", "-hf", "org/recall", *SAY, ASYMKV_RUN_MODEL="no/such.gguf")
    monkeypatch.setenv("ASYMKV_RUN_HF_REPO", "org/none")
    assert main(["run", "-m", str(MODEL), *SAY]) == 0
    monkeypatch.setenv("ASYMKV_RUN_MODEL", str(MODEL))
    assert main(["run", *SAY]) == 2
