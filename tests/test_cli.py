"""The command: what it prints where, and how it ends."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pseudo_terminal import PseudoTerminal

from asymkv_gguf import recall
from asymkv_gguf.cli import main
from asymkv_gguf.cli.demo import MODEL

TEXT = recall.make_document(3, tokens=700).text
ONE_THREAD = {"ASYMKV_RUN_THREADS": "1"}  # threads that wait for each other are slow on a busy machine
SMALL = ["-c", "2048", "--asymkv-budget", "192", "--asymkv-chunk", "64"]


def start(*arguments: object, cwd: Path, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "asymkv_gguf", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        **options,
    )


def command(*arguments: object, cwd: Path, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    process = start(*arguments, cwd=cwd, stdin=subprocess.PIPE, env={**os.environ, **ONE_THREAD, **environment})
    out, err = process.communicate(stdin, timeout=300)
    assert "Traceback" not in err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


InProcess = Callable[..., tuple[int, str, str]]


@pytest.fixture
def in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> InProcess:
    """The command without a new process: its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


def test_text_goes_to_stdout_and_the_notice_to_stderr(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    done = command("run", "-m", MODEL, "-f", file, "-p", "The code of", "-n", 5, "--temp", 0, *SMALL, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.strip()
    assert "asymkv" not in done.stdout
    notice = done.stderr.strip().splitlines()[-1]
    assert notice.startswith("asymkv: 7")
    assert notice.endswith("slots (320 KiB instead of 2.5 MiB)")


def test_json_is_one_object_with_text_usage_timings_and_cache(tmp_path: Path) -> None:
    done = command("run", "-m", MODEL, "-p", TEXT, "-n", 5, "--temp", 0, *SMALL, "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert set(report) == {"text", "usage", "finish_reason", "timings", "asymkv"}
    usage = report["usage"]
    assert usage["completion_tokens"] == 5
    assert usage["total_tokens"] == usage["prompt_tokens"] + 5
    assert report["asymkv"]["tokens"] == usage["total_tokens"] - 1  # the last token was sampled, not read
    assert report["asymkv"]["capacity"] == 256
    assert set(report["timings"]) == {"load_seconds", "prompt_seconds", "predict_seconds"}


def test_the_text_can_come_from_a_pipe(tmp_path: Path) -> None:
    piped = command("run", "-m", MODEL, "-n", 5, "--temp", 0, *SMALL, cwd=tmp_path, stdin=TEXT)
    given = command("run", "-m", MODEL, "-n", 5, "--temp", 0, *SMALL, "-p", TEXT, cwd=tmp_path)
    assert piped.returncode == given.returncode == 0
    assert piped.stdout == given.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_at_a_terminal_a_bar_tells_how_fast_a_long_text_is_read(tmp_path: Path) -> None:
    with PseudoTerminal("run", "-m", MODEL, "-p", TEXT, "-n", 1, "-t", 1, "-b", 2, *SMALL, cwd=tmp_path) as terminal:
        assert terminal.wait_for_end() == 0
    assert re.search(r"reading.*\d+/698 tokens.*t/s", terminal.raw)
    assert "reading" not in terminal.screen  # it leaves
    assert "instead of 2.5 MiB" in terminal.screen


def test_the_stock_cache_needs_no_notice(tmp_path: Path) -> None:
    done = command("run", "-m", MODEL, "-p", "The", "-n", 3, "--temp", 0, "--no-asymkv", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["asymkv"] is None
    assert "asymkv:" not in done.stderr


def test_reading_without_writing(tmp_path: Path) -> None:
    done = command("run", "-m", MODEL, "-p", TEXT, "-n", 0, *SMALL, "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert report["text"] == ""
    assert report["usage"]["completion_tokens"] == 0
    assert report["asymkv"]["tokens"] == report["usage"]["prompt_tokens"]


def test_a_turn_of_a_chat(tmp_path: Path) -> None:
    done = command("run", "-m", MODEL, "-p", "The", "-sys", "Be brief.", "-st", "-n", 3, *SMALL, "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["usage"]["prompt_tokens"] > 1


def test_every_option_of_the_cache_arrives(tmp_path: Path) -> None:
    options = shlex.split(
        "--asymkv-sinks 8 --asymkv-recent 48 --asymkv-observe 16 --asymkv-score mass"
        " --asymkv-weights fisher --asymkv-per-layer --asymkv-max-cardinality 5"
        " -b 32 -ub 32 -t 1 -tb 1 -fa on -ctk q8_0 -ctv q8_0 -ngl 0 -s 1"
    )
    done = command("run", "-m", MODEL, "-p", TEXT, "-n", 3, *SMALL, *options, "--json", cwd=tmp_path)
    cache = json.loads(done.stdout)["asymkv"]
    assert (cache["groups"], cache["evictions"]) == (1, 0)
    assert cache["kv_bytes"] < 256 * 1280  # less than f16


def test_the_papers_setting_is_one_flag(tmp_path: Path) -> None:
    done = command("run", "-m", MODEL, "-p", "The", "-n", 1, "--asymkv-policy", "asymkv-paper", "--json", cwd=tmp_path)
    cache = json.loads(done.stdout)["asymkv"]
    assert (cache["budget"], cache["groups"]) == (2080, 1)


@pytest.mark.parametrize(("budget", "n_bytes", "batch"), [("1MiB", 1 << 20, []), ("1.75MiB", 7 << 18, ["-b", "512"])])
def test_a_budget_in_mebibytes_is_never_exceeded(in_process: InProcess, budget: str, n_bytes: int, batch: list[str]) -> None:
    arguments = ["-m", MODEL, "-p", "The", "-n", 1, "-t", 1, "--asymkv-budget", budget, *batch, "--json"]
    cache = json.loads(in_process("run", *arguments)[1])["asymkv"]
    assert n_bytes // 2 < cache["kv_bytes"] <= n_bytes


def test_an_environment_variable_stands_for_an_option(tmp_path: Path) -> None:
    done = command("run", "-p", "The", "-n", 1, "--json", cwd=tmp_path, ASYMKV_RUN_MODEL=str(MODEL), ASYMKV_RUN_ASYMKV="0")
    assert json.loads(done.stdout)["asymkv"] is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-m", "no/such.gguf", "-p", "x"], "asymkv-gguf: model file no/such.gguf does not exist"),
        (
            ["-m", "cut.gguf", "-p", "x"],
            "asymkv-gguf: model file cut.gguf is truncated or damaged (9,999 bytes); download it again",
        ),
        (["-m", "text.txt", "-p", "x"], "asymkv-gguf: model file text.txt is not a GGUF file; convert the model to GGUF first"),
        (["-m", MODEL, "-f", "no/such.txt"], "asymkv-gguf: text file no/such.txt cannot be read: No such file or directory"),
        (["-m", MODEL, "-f", "latin1.txt"], "asymkv-gguf: text file latin1.txt is not UTF-8 text (byte 3); convert it first"),
        (["-m", MODEL, "-f", "text.txt", "-c", "256"], "exceed context window of 256"),
        (
            ["-m", MODEL, "-p", "x", "--asymkv-budget", "1KiB"],
            "asymkv-gguf: 1.0 KiB are too few for this model's cache; give --asymkv-budget 1MiB or more",
        ),
        (
            ["-m", MODEL, "-p", "x", "--asymkv-budget", "1MiB", "-b", "512"],
            "asymkv-gguf: 1.0 MiB are too few for this model's cache with batches of 512; give --asymkv-budget 2MiB or more",
        ),
        (["-m", "empty.gguf", "-p", "x"], "asymkv-gguf: model file empty.gguf is empty; download it again"),
        (["-m", MODEL, "-p", "x", "-fa", "off", "-ctv", "q8_0"], "V cache"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_fails_is_one_sentence_and_exit_code_1(
    tmp_path: Path, in_process: InProcess, arguments: list[object], sentence: str
) -> None:
    (tmp_path / "cut.gguf").write_bytes(MODEL.read_bytes()[:9999])
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "text.txt").write_text("The harbour was quiet." * 80)
    (tmp_path / "latin1.txt").write_bytes("caf\xe9".encode("latin-1"))
    code, out, err = in_process("run", *arguments)
    assert code == 1
    assert out == ""
    assert sentence in err
    assert len(err.strip().splitlines()) == 1


def test_a_failing_process_ends_with_that_code_and_no_traceback(tmp_path: Path) -> None:
    assert command("run", "-m", "no/such.gguf", "-p", "x", cwd=tmp_path).returncode == 1
    assert command("run", "-m", "no/such.gguf", "--asymkv-budget", "-5", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--asymkv-budget", "0"], "0 is no size for a cache; give 1 or more"),
        (["--asymkv-budget", "-5"], "-5 is no size for a cache; give 1 or more"),
        (["--asymkv-budget", "much"], "'much' is neither a number of slots nor a size such as 260MiB"),
        (["--asymkv-budget", "1.5"], "'1.5' is neither a number of slots nor a size such as 260MiB"),
        (["--asymkv-budget", "0.0MiB"], "0.0MiB is no size for a cache; give 1 or more"),
        (["--asymkv-budget", "50"], "budget 50 is too small for 4 sinks and 64 recent tokens; raise it to 69 or more"),
        (["--asymkv-budget", "256", "-b", "512"], "budget 256 is too small for 4 sinks, 64 recent tokens and batches of 512"),
        (["--asymkv-observe", "100"], "observe 100 is more than the 64 recent tokens"),
        (["--asymkv-score", "foo"], "'foo' is not one of 'mass', 'output', 'exact', 'random'"),
        (["--asymkv-weights", "foo"], "'foo' is not one of 'mean', 'mass', 'slimmer', 'fisher'"),
        (["-ctk", "q9"], "'q9' is not one of"),
        (["-n", "-2"], "-2 is not in the range x>=-1"),
        (["--no-such-option"], "No such option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_is_one_sentence_and_exit_code_2(in_process: InProcess, arguments: list[str], sentence: str) -> None:
    code, out, err = in_process("run", "-m", MODEL, "-p", "x", *arguments)
    assert code == 2
    assert out == ""
    assert sentence in err


def test_no_text_is_a_wrong_use(tmp_path: Path) -> None:
    done = command("run", "-m", MODEL, cwd=tmp_path)
    assert done.returncode == 2
    assert "the text is empty; give -p PROMPT, -f FILE, or a pipe" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
def test_ctrl_c_ends_with_130(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = start("run", "-m", MODEL, "-f", pipe, cwd=tmp_path)
    with pipe.open("w"):  # comes back as soon as the command waits for its text
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err.strip()) == (130, "interrupted")


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
def test_ctrl_c_while_the_command_starts_is_no_traceback(tmp_path: Path) -> None:
    options = ["-X", "importtime", "-m", "asymkv_gguf", "run", "-m", str(MODEL)]
    process = subprocess.Popen([sys.executable, *options], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "llama_cpp.llama_types" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX shell")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_as_good_as_the_null_device(tmp_path: Path, closed: str) -> None:
    words = [sys.executable, "-m", "asymkv_gguf", "run", "-m", str(MODEL), "-p", "The", "-n", "1", "-t", "1", "--json"]
    done = subprocess.run(["/bin/sh", "-c", f"{shlex.join(words)} {closed}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{") == (">&-" not in closed.replace("2>&-", ""))
    assert ("asymkv: " in done.stderr) == ("2>&-" not in closed)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("command", [["run", "-n", "1", "-p", "The"], ["chat", "-n", "1", "-p", "The", "-st"]])
def test_a_full_disk_behind_stdout_is_one_sentence(tmp_path: Path, command: list[str]) -> None:
    words = [sys.executable, "-m", "asymkv_gguf", *command, "-m", str(MODEL), "-t", "1"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == "asymkv-gguf: the output is not complete: No space left on device; make room, and run the command again"


def test_an_error_of_the_system_has_no_number(in_process: InProcess, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    code, _, err = in_process("run", "-m", MODEL, "-f", "directory")
    assert (code, err) == (1, "asymkv-gguf: text file directory cannot be read: Is a directory\n")


def test_a_model_without_its_flag_is_told_the_flag(in_process: InProcess) -> None:
    code, _, err = in_process("model.gguf")
    assert code == 2
    assert "model.gguf is no command; a model is given with -m model.gguf" in err


def test_the_help_lists_the_commands_that_people_need_first_and_cuts_no_sentence(in_process: InProcess) -> None:
    code, out, _ = in_process()
    assert code == 0
    commands = out.split("Commands:\n")[1].split("\n\n")[0]
    assert [line.split()[0] for line in commands.splitlines()][:3] == ["chat", "run", "serve"]
    assert "..." not in commands
    assert "asymkv-gguf demo " in out


def test_version_and_help_end_with_0(tmp_path: Path) -> None:
    version = command("--version", cwd=tmp_path)
    assert version.returncode == 0
    assert version.stdout.startswith("asymkv-gguf, version ")
    for arguments in (["--help"], ["run", "-h"], ["demo", "-h"]):
        assert command(*arguments, cwd=tmp_path).returncode == 0


def test_the_installed_command_is_the_module(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("asymkv-gguf")
    done = subprocess.run([str(script), "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == command("--version", cwd=tmp_path).stdout


def test_the_demo_prints_both_caches_side_by_side(tmp_path: Path) -> None:
    done = command("demo", cwd=tmp_path)
    assert done.returncode == 0
    assert "full cache" in done.stdout
    assert "8.0x smaller" in done.stdout
    assert done.stdout.count("The code of ") == 10


def test_the_demos_json_has_both_caches(tmp_path: Path) -> None:
    report = json.loads(command("demo", "--json", cwd=tmp_path).stdout)
    full, small = report["full"], report["asymkv"]
    for outcome in (full, small):
        assert {"accuracy", "kv_bytes", "tokens", "slots", "seconds"} <= set(outcome)
    assert full["tokens"] == small["tokens"] > 1800
    assert full["kv_bytes"] >= 8 * small["kv_bytes"]
    assert full["slots"] >= 7 * small["slots"]
    assert full["accuracy"] == 1.0


def test_environment_variables_are_named_as_the_flags_are(tmp_path: Path) -> None:
    done = command("run", "-m", MODEL, "-p", "The code", "--json", cwd=tmp_path, ASYMKV_RUN_PREDICT="2", ASYMKV_RUN_TEMP="0")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["usage"]["completion_tokens"] == 2
    done = command("run", "-m", MODEL, "-p", "The code", cwd=tmp_path, ASYMKV_RUN_ASYMKV_BUDGET="-5")
    assert done.returncode == 2
    done = command("run", "-m", MODEL, "-p", "The code", cwd=tmp_path, ASYMKV_RUN_THREADS="99999")
    assert done.returncode == 2
