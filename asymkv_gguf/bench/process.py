"""A worker process as its owner sees it: one call, one answer."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

_WORKER = Path(__file__).with_name("worker.py")


class WorkerError(RuntimeError):
    """A mode could not be measured."""


class Worker:
    """One mode, opened in a process of its own, so that its memory can be told apart."""

    def __init__(self, mode: str, seed: int, arguments: dict[str, Any]) -> None:
        self.mode = mode
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  closed in close()
        # imports as they are here, but not from the script's own directory
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
            env=environment,
            start_new_session=True,  # Ctrl-C is the owner's to handle
        )
        try:
            self.state = self._ask({"do": "open", "mode": mode, "seed": seed, "arguments": arguments})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def position(self) -> int:
        return int(self.state["position"])

    def ask(self, do: str, **request: int) -> dict[str, Any]:
        """One of the methods of worker.Bench; `state` is what its answer says about the process."""
        self.state = self._ask({"do": do, **request})
        return self.state

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"mode {self.mode}: its process ended {self._how_it_ended()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"mode {self.mode}: {answer['error']}")
        return answer

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        if code == -9:
            return "with signal 9, as happens when memory is short; lower -d, or measure fewer --modes at once"
        self._errors.seek(0)
        last = next((line for line in reversed(self._errors.read().splitlines()) if line.strip()), "no reason given")
        return f"with {code}: {last.strip()}"

    def kill(self) -> None:
        """It holds nothing that has to be saved."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._errors.close()
