"""Completion in a real shell, as a person would press the tabulator."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from asymkv_gguf.cli import main


@pytest.fixture
def bash(tmp_path: Path) -> Iterator[pexpect.spawn[str]]:
    """An interactive bash that knows the command and its completion."""
    script = tmp_path / "bin" / "asymkv-gguf"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m asymkv_gguf "$@"\n')
    script.chmod(0o755)
    (tmp_path / "novel.gguf").touch()
    environment = {**os.environ, "PATH": f"{script.parent}:{os.environ['PATH']}", "PS1": "", "TERM": "dumb"}
    shell = pexpect.spawn("bash", ["--norc", "--noprofile", "-i"], env=environment, cwd=tmp_path, encoding="utf-8", timeout=20)
    shell.sendline("PS1='READY> '; eval \"$(asymkv-gguf completion bash)\"; echo LOADED=$?")
    shell.expect("LOADED=0")
    shell.expect("READY> ")
    yield shell
    shell.close(force=True)


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("asymkv-gguf rpc", "asymkv-gguf rpc-worker "),
        ("asymkv-gguf run --asymkv-bud", "asymkv-gguf run --asymkv-budget "),
        ("asymkv-gguf run -ctk q8", "asymkv-gguf run -ctk q8_0 "),
        ("asymkv-gguf completion fi", "asymkv-gguf completion fish "),
        ("asymkv-gguf run -m nov", "asymkv-gguf run -m novel.gguf"),
        ("asymkv-gguf run -f nov", "asymkv-gguf run -f novel.gguf"),
    ],
)
def test_bash_completes(bash: pexpect.spawn[str], typed: str, completed: str) -> None:
    bash.send(typed + "\t")
    bash.expect_exact(completed)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_asks_the_command(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capfd.readouterr().out
    assert f"_ASYMKV_GGUF_COMPLETE={shell}_complete" in script
    program = shutil.which(shell)
    if program is not None:  # it is at least a script of that shell
        assert subprocess.run([program, "-n"], input=script, text=True).returncode == 0


def test_clicks_own_variable_gives_the_same_script(capfd: pytest.CaptureFixture[str]) -> None:
    environment = {**os.environ, "_ASYMKV_GGUF_COMPLETE": "bash_source"}
    done = subprocess.run([sys.executable, "-m", "asymkv_gguf"], capture_output=True, text=True, env=environment, timeout=60)
    assert main(["completion", "bash"]) == 0
    assert done.stdout == capfd.readouterr().out


def test_an_unknown_shell_is_a_wrong_use(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in capfd.readouterr().err
