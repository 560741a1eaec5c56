"""Chat and run have no end where nobody set one: beyond what the model was trained for, memory and positions are bounded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from asymkv_gguf import AsymKVConfig, Llama, recall
from asymkv_gguf.chat.endless import ENDLESS, full_cache_bytes, is_without_an_end, without_an_end
from asymkv_gguf.cli.demo import MODEL
from asymkv_gguf.preview import trained_context
from asymkv_gguf.session import saved_settings

TRAINED = 4096
CACHE = ["-t", "1", "--temp", "0", "--asymkv-budget", "192", "--asymkv-chunk", "64"]
DOCUMENTS = [recall.make_document(seed, tokens=1500) for seed in (5, 6, 7, 8)]


def tool(cwd: Path, command: str, text: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "asymkv_gguf", command, "-m", str(MODEL), *CACHE, *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "XDG_STATE_HOME": str(cwd / "state")},
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    return done


def lines(documents: list[recall.Document]) -> str:
    return "".join(document.text.replace("\n", " ") + "\n" for document in documents)


def test_a_chat_goes_on_beyond_what_the_model_was_trained_for_and_its_session_the_next_day(tmp_path: Path) -> None:
    done = tool(tmp_path, "chat", lines(DOCUMENTS) + "/stats\n", "-n", "1", "--session", "a.session")
    assert done.returncode == 0, done.stderr
    assert "overflow" not in done.stderr
    tokens = [int(number.replace(",", "")) for number in re.findall(r"([\d,]+) tokens in 2\d\d slots, ", done.stderr)]
    assert tokens == sorted(tokens)
    assert len(tokens) == len(DOCUMENTS)
    assert tokens[-1] > 1.4 * TRAINED
    assert re.search(r"^tokens +[\d,]+$", done.stderr, re.MULTILINE), "of no n_ctx"
    assert re.search(r"^horizon +4,096 tokens$", done.stderr, re.MULTILINE)
    assert re.search(r"320 KiB instead of \d\.\d MiB", done.stderr), "a full cache for as many tokens, not for n_ctx"

    saved = saved_settings(tmp_path / "a.session")
    assert (saved["n_ctx"], saved["asymkv positions"], saved["asymkv horizon"]) == (ENDLESS, "compact", TRAINED)
    question = DOCUMENTS[-1].questions[-1]
    resumed = tool(tmp_path, "run", "", "-n", "1", "--session", "a.session", "-st", "-p", question.prompt)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.strip() == question.answer

    other = tool(tmp_path, "chat", "", "--session", "a.session", "--asymkv-horizon", "0")
    assert other.returncode == 1
    assert "it was saved with asymkv horizon 4,096, and here it is not set" in other.stderr


@pytest.mark.parametrize("arguments", [["-c", TRAINED], ["--asymkv-positions", "original"]], ids=["-c", "positions"])
def test_who_sets_an_end_has_one(tmp_path: Path, arguments: list[object]) -> None:
    done = tool(tmp_path, "chat", lines(DOCUMENTS), "-n", "1", *arguments)
    assert "and n_ctx is 4,096; raise it (-c; 0: what the model was trained for)" in done.stderr


def test_a_text_of_any_length_is_run_and_its_beginning_kept(tmp_path: Path) -> None:
    question = DOCUMENTS[0].questions[0]
    (tmp_path / "long.txt").write_text(lines(DOCUMENTS))
    asked = ["-f", "long.txt", "-p", question.prompt, "-n", "1", "--asymkv-budget", "1024"]
    done = tool(tmp_path, "run", "", *asked)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == question.answer
    assert "overflow" not in done.stderr
    refused = tool(tmp_path, "run", "", *asked, "--asymkv-positions", "original")
    assert refused.returncode == 1
    assert (
        "exceed context window of 4096; raise n_ctx with compact positions (-c N --asymkv-positions compact" in refused.stderr
    )


def test_an_answer_has_an_end(tmp_path: Path) -> None:
    done = tool(tmp_path, "chat", "The train\n/stats\n", "-n", "-1")
    (written,) = re.findall(r"wrote ([\d,]+)", done.stderr)
    assert int(written.replace(",", "")) <= TRAINED


def test_what_is_chosen() -> None:
    config = AsymKVConfig(budget=512)
    chosen = without_an_end(config, 8192, 256, None)
    assert chosen == config.replace(positions="compact", horizon=8192)
    assert without_an_end(config, 8192, 256, 0) == config.replace(positions="compact")
    limited = config.replace(horizon=1000)
    assert without_an_end(limited, 8192, 256, 1000) == limited.replace(positions="compact")
    merging = config.replace(score="mass")  # lets no slot leave
    assert without_an_end(merging, 8192, 256, None) == merging.replace(positions="compact")
    least = 2 * (config.recent + config.room(256))
    assert without_an_end(config, least - 1, 256, None) is None
    assert without_an_end(config, least, 256, None) is not None


def test_the_trained_context_is_known_before_loading(tiny: Callable[[str], Path]) -> None:
    assert trained_context(str(MODEL)) == TRAINED
    llm = Llama(str(tiny("llama")), asymkv={"budget": 192}, verbose=False)
    assert trained_context(str(tiny("llama"))) == llm.n_ctx()
    assert not is_without_an_end(llm)
    stats = llm.asymkv_stats()
    assert full_cache_bytes(llm, stats) == stats.stock_kv_bytes
    llm.close()
