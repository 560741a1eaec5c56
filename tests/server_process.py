"""A real `asymkv-gguf serve` on a free port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import httpx
import openai

from asymkv_gguf.cli.demo import MODEL

SMALL = ("-c", "2048", "--asymkv-budget", "192", "--asymkv-chunk", "64", "-t", "1", "--temp", "0")


class Server:
    """Started when made; `notes` are the lines that it wrote to stderr so far."""

    def __init__(self, *options: object, model: object = MODEL, **environment: str) -> None:
        command = [sys.executable, "-m", "asymkv_gguf", "serve", "-m", str(model), "--port", "0", *map(str, options)]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env={**os.environ, **environment}
        )
        self.notes: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.notes.append(line.rstrip())
            if match := re.fullmatch(r"listening on (http://\S+)", line.strip()):
                self.url = match.group(1)
                break
        else:
            raise RuntimeError(f"the server did not start: {self.notes}")
        self._reader = threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True)
        self._reader.start()

    def _read(self, stream: Iterator[str]) -> None:
        self.notes.extend(line.rstrip() for line in stream)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGTERM)

    def end(self, with_signal: signal.Signals) -> int:
        self.process.send_signal(with_signal)
        code = self.process.wait(60)
        self._reader.join(10)
        return code

    # clients

    def openai(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)

    @contextmanager
    def http(self) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as client:
            yield client

    def metrics(self, **headers: str) -> dict[str, float]:
        with self.http() as client:
            text = client.get("/metrics", headers=headers).text
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
