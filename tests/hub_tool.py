"""The command as a process, with a cache of its own and a server on this machine as its hub."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pexpect
from hub_server import HubServer
from huggingface_hub import hf_hub_download

from asymkv_gguf.cli.demo import MODEL

MIB = 1 << 20
RECALL = MODEL.read_bytes()
LARGE = RECALL + bytes(24 * MIB)  # huggingface_hub writes in pieces of 10 MiB; what follows the tensors is not read


class Tool:
    """The command, with a cache of its own and the server as its hub."""

    def __init__(self, home: Path, hub: HubServer) -> None:
        self.home = home
        self.hub = hub

    @property
    def environment(self) -> dict[str, str]:
        # a developer's own token or cache must not change what is tested
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "ASYMKV_RUN"))}
        return {**inherited, "HF_HOME": str(self.home), "HF_ENDPOINT": self.hub.endpoint, "HF_HUB_DISABLE_XET": "1"}

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "asymkv_gguf", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.environment, **environment},
        )

    def __call__(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def works(self, *arguments: object, **environment: str) -> str:
        done = self(*arguments, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, *arguments: object, **environment: str) -> str:
        """The one sentence on stderr."""
        done = self(*arguments, **environment)
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        lines = done.stderr.strip().splitlines()
        assert lines[-1].startswith("asymkv-gguf: ")
        assert len([line for line in lines if line.startswith("asymkv-gguf: ")]) == 1
        return lines[-1].removeprefix("asymkv-gguf: ")

    def files(self) -> list[str]:
        """The files that snapshots hold, as paths in their repository."""
        snapshots = (self.home / "hub").glob("*/snapshots/*")
        return sorted(str(file.relative_to(one)) for one in snapshots for file in one.rglob("*") if file.is_file())

    def blobs(self) -> list[Path]:
        return sorted((self.home / "hub").glob("*/blobs/*"))

    def fetched_by_another(self, repo: str, *files: str, offline: bool = False) -> list[str]:
        """The files' paths, as another tool has them from the same hub and cache."""
        cache, hub = self.home / "hub", self.hub.endpoint
        return [
            hf_hub_download(repo, file, cache_dir=cache, endpoint=hub, token=False, local_files_only=offline) for file in files
        ]

    def at_terminal(self, *arguments: str) -> pexpect.spawn[str]:
        command = ["-m", "asymkv_gguf", *arguments]
        return pexpect.spawn(
            sys.executable,
            command,
            env={**self.environment, "TERM": "xterm"},
            encoding="utf-8",
            dimensions=(24, 200),
            timeout=60,
        )
