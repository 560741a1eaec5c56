"""Every block of code in the guides does what a reader would do: real commands, real Python, a real server and real workers."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from asymkv_gguf import recall
from asymkv_gguf.cli.demo import MODEL

DOCS = Path(__file__).parent.parent / "docs"
GUIDES = ("quickstart.md", "cookbook.md", "rpc.md")

_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
_STAYS = re.compile(r"^asymkv-gguf (?:serve|rpc-worker) ")  # does not end by itself
_READY = ("listening on http://", "use it with --rpc ")
_PORTS = ("8080", "50052", "50053")
_THREADS = {f"ASYMKV_{name}_THREADS": "1" for name in ("RUN", "CHAT", "SERVE", "RPC_WORKER", "DEMO")}


@dataclass
class Block:
    language: str
    code: str
    reason: str | None  # why it is not run


def blocks(guide: str) -> list[Block]:
    text = (DOCS / guide).read_text(encoding="utf-8")
    return [Block(found["language"], found["code"], found["reason"]) for found in _BLOCK.finditer(text)]


@pytest.mark.skipif(sys.platform == "win32", reason="the blocks are for a POSIX shell")
@pytest.mark.parametrize("guide", GUIDES)
def test_every_block_of_the_guide_runs(guide: str, tmp_path: Path) -> None:
    shutil.copy(MODEL, tmp_path / "model.gguf")
    (tmp_path / "book.txt").write_text(recall.make_document(3, tokens=1500).text)
    environment = {**os.environ, **_THREADS, "PATH": f"{command_directory(tmp_path)}:{os.environ['PATH']}"}
    ports = {port: str(free_port()) for port in _PORTS}
    environment["ASYMKV_SERVE_PORT"] = ports["8080"]
    with contextlib.ExitStack() as running:
        for block in blocks(guide):
            if block.reason is not None:
                continue
            code = re.sub(r"\b(8080|50052|50053)\b", lambda port: ports[port.group()], block.code)
            lines = [line for line in code.splitlines() if line.strip()]
            if all(_STAYS.match(line) for line in lines):
                for line in lines:
                    running.enter_context(started(line, tmp_path, environment))
                continue
            shell = ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else [sys.executable, "-c"]
            done = subprocess.run(
                [*shell, code],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                env=environment,
                stdin=subprocess.DEVNULL,
                timeout=120,
            )
            assert done.returncode == 0, f"{code}\n{done.stderr}"
            assert "Traceback" not in done.stderr
            assert done.stdout.strip() or ">" in code, f"{code}\nprinted nothing"


def command_directory(tmp_path: Path) -> Path:
    """A directory with the command, as pip makes it, for this Python."""
    script = tmp_path / "bin" / "asymkv-gguf"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom asymkv_gguf.cli import main\nsys.exit(main())\n")
    script.chmod(0o755)
    return script.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def started(line: str, directory: Path, environment: dict[str, str]) -> Iterator[None]:
    """A command that stays, once it has said that it is ready."""
    command = ["bash", "-c", f"exec {line}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=directory, env=environment) as process:
        assert process.stderr is not None
        try:
            said = ""
            while not any(ready in said for ready in _READY):
                more = process.stderr.readline()
                assert more, f"{line} ended: {said}"
                said += more
            yield
        finally:
            process.kill()


def test_the_guides_have_no_block_that_is_neither_run_nor_excused() -> None:
    for guide in GUIDES:
        text = (DOCS / guide).read_text(encoding="utf-8")
        found = blocks(guide)
        assert len(found) == text.count("```") // 2 > 3
        assert {block.language for block in found} <= {"sh", "python"}


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in [*DOCS.glob("*.md"), DOCS.parent / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
