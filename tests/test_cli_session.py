"""`run --session FILE`: a text that goes on with the next command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import settings

from asymkv_gguf import Llama, SessionError, load_session, save_session
from asymkv_gguf.cli import main
from asymkv_gguf.cli.demo import MODEL
from asymkv_gguf.session_file import SessionFile
from asymkv_gguf.state import read_state

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--asymkv-budget", 128, "--asymkv-recent", 40, "-b", 64, "-ub", 64, "-c", 1024, "-t", 1, "--temp", 0)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """The command in this process: its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("".join(f"The code of number {i} is {i * i}. " for i in range(16)))

    def run(*arguments: object, model: Path = MODEL) -> tuple[int, str, str]:
        code = main([str(argument) for argument in ("run", "-m", model, *SMALL, *arguments)])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_text_in_two_commands_is_the_text_in_one(tiny: Callable[[str], Path], run: Run) -> None:
    """Down to the last bit of the cache, and with a compression in each half."""
    model = tiny("llama")
    assert run("-f", "text.txt", "-n", 80, "--session", "whole", model=model)[0] == 0
    assert run("-f", "text.txt", "-n", 40, "--session", "half", model=model)[0] == 0
    assert run("-p", "", "-n", 40, "--session", "half", model=model)[0] == 0
    states = []
    for name in ("whole", "half"):
        asymkv = {"budget": 128, "recent": 40}
        llm = Llama(str(model), asymkv=asymkv, **{**settings(), "swa_full": False})
        assert load_session(llm, name).n_tokens > 500
        states.append((llm._input_ids.tolist(), read_state(llm.ctx).tobytes()))
        llm.close()
    assert states[0] == states[1]


def test_it_is_said_what_was_resumed_and_saved(run: Run) -> None:
    code, _, err = run("-f", "text.txt", "-n", 0, "--session", "s")
    assert code == 0
    saved = next(line for line in err.splitlines() if line.startswith("session s: "))
    n_tokens = int(saved.split()[3].replace(",", ""))
    assert saved.startswith(f"session s: saved {n_tokens:,} tokens (")
    code, out, err = run("-p", " The code of", "-n", 3, "--session", "s", "--json")
    assert code == 0
    assert err.splitlines()[0] == f"session s: resumed {n_tokens:,} tokens"
    usage = json.loads(out)["usage"]
    assert n_tokens < usage["prompt_tokens"] < n_tokens + 10
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    code, out, err = run("-p", "", "-n", 3, "--session", "s", "--json")
    assert json.loads(out)["usage"]["prompt_tokens"] == usage["total_tokens"]


def test_a_conversation_goes_on_and_is_not_read_again(run: Run) -> None:
    code, _, err = run("-st", "-f", "text.txt", "-n", 3, "--session", "s", "-sys", "Be brief.")
    assert code == 0
    first = Path("s").read_bytes()
    code, out, err = run("-st", "-p", "The code of", "-n", 3, "--session", "s", "--json")
    assert code == 0
    assert "again" not in err
    report = json.loads(out)
    assert report["text"]
    assert report["usage"]["prompt_tokens"] > 100
    llm = Llama(str(MODEL), asymkv={"budget": 128, "recent": 40}, **{**settings(), "swa_full": False})
    messages = load_session(llm, "s").extra["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert messages[-1]["content"] == report["text"]
    assert Path("s").read_bytes() != first


def test_texts_and_conversations_do_not_mix(run: Run) -> None:
    assert run("-st", "-p", "x", "-n", 1, "--session", "talk")[0] == 0
    assert run("-p", "x", "-n", 1, "--session", "text")[0] == 0
    before = Path("talk").read_bytes(), Path("text").read_bytes()
    code, out, err = run("-p", "x", "-n", 1, "--session", "talk")
    assert (code, out) == (1, "")
    assert err.endswith("asymkv-gguf: session talk holds a conversation; give -st for its next turn, or use chat\n")
    code, out, err = run("-st", "-p", "x", "-n", 1, "--session", "text")
    assert (code, out) == (1, "")
    assert "session text holds a text, and no conversation; `run` without -st goes on with it" in err
    assert (Path("talk").read_bytes(), Path("text").read_bytes()) == before


def test_a_session_that_does_not_fit_is_one_sentence_and_stays(run: Run) -> None:
    assert run("-f", "text.txt", "-n", 1, "--session", "s")[0] == 0
    before = Path("s").read_bytes()
    code, out, err = run("-p", "x", "-n", 1, "--session", "s", "--asymkv-budget", 256)
    assert (code, out) == (1, "")
    assert err == "asymkv-gguf: session s cannot be resumed: it was saved with asymkv budget 128, and here it is 256\n"
    assert Path("s").read_bytes() == before


def test_where_nothing_can_be_saved_is_said_before_the_text_is_read(run: Run) -> None:
    code, out, err = run("-p", "x", "-n", 1, "--session", "none/s")
    assert (code, out) == (1, "")
    assert err.startswith("asymkv-gguf: session none/s cannot be saved: there is no directory ")


def test_a_wrong_use_is_refused(run: Run) -> None:
    code, _, err = run("-st", "-p", "x", "-n", 0, "--session", "s")
    assert code == 2
    assert "-n 0 writes nothing" in err
    assert not Path("s").exists()
    code, _, err = run("-p", "", "-n", 1, "--session", "s")
    assert code == 2
    assert "the text is empty" in err


def test_what_another_process_saved_meanwhile_is_not_overwritten(run: Run) -> None:
    assert run("-p", "The code", "-n", 1, "--session", "talk.session")[0] == 0
    slow, quick = SessionFile("talk.session"), SessionFile("talk.session")
    llm = Llama(str(MODEL), asymkv={"budget": 128, "recent": 40}, **{**settings(), "swa_full": False})
    slow.resume(llm)
    quick.resume(llm)
    llm.eval(llm.tokenize(b" of Anna", add_bos=False))
    assert quick.save(llm).startswith("session talk.session: saved ")
    saved = Path("talk.session").read_bytes()
    sentence = slow.save(llm)
    assert sentence.startswith("session talk-2.session: saved ")
    assert sentence.endswith(", as talk.session was changed by another process meanwhile")
    assert Path("talk.session").read_bytes() == saved
    assert slow.save(llm).startswith("session talk-2.session: saved ")  # its own from now on
    late = SessionFile("talk.session")
    assert not late.resume(llm).extra
    Path("talk.session").unlink()
    assert late.save(llm).startswith("session talk.session: saved ")
    llm.close()


def test_a_file_that_is_no_session_is_never_replaced(run: Run) -> None:
    llm = Llama(str(MODEL), asymkv={"budget": 128, "recent": 40}, **{**settings(), "swa_full": False})
    before = Path("text.txt").read_bytes()
    with pytest.raises(SessionError, match=r"file text\.txt is not a session of asymkv-gguf, and is left as it is"):
        save_session(llm, "text.txt")
    assert Path("text.txt").read_bytes() == before
    Path("empty").touch()
    assert save_session(llm, "empty") == Path("empty").stat().st_size
    llm.close()


def test_another_system_prompt_says_that_the_conversation_is_read_again(run: Run) -> None:
    assert run("-st", "-f", "text.txt", "-n", 1, "--session", "s", "-sys", "Be brief.")[0] == 0
    code, _, err = run("-st", "-p", "The code of", "-n", 1, "--session", "s", "-sys", "Be brief.")
    assert (code, "again" in err) == (0, False)
    code, _, err = run("-st", "-p", "The code of", "-n", 1, "--session", "s", "-sys", "Be long.")
    assert code == 0
    assert "session s: the conversation is read again, after the new system prompt\n" in err


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
@pytest.mark.parametrize("turn", [[], ["-st"]], ids=["text", "conversation"])
def test_ctrl_c_while_it_writes_keeps_what_was_read(run: Run, turn: list[str]) -> None:
    arguments = map(str, ("run", "-m", MODEL, *SMALL, "-f", "text.txt", "-n", 900, "--session", "s", *turn))
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "asymkv_gguf", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.read(1)  # it writes
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "session s: saved " in err.decode()
    assert "Traceback" not in err.decode()
    code, _, second = run("-p", " The", "-n", 1, "--session", "s", *turn)
    assert code == 0
    assert "session s: resumed " in second
    assert "again" not in second
