"""Every architecture that llama.cpp knows, as a dummy model: merged, or refused and why.

python tools/architectures.py [ARCH...]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

Row = dict[str, Any]


def _run(script: str, directory: Path, archs: list[str]) -> dict[str, Row]:
    """Runs a script on all of them, and again on the rest where the process died on one."""
    rows: dict[str, Row] = {}
    while rest := [arch for arch in archs if arch not in rows]:
        log = directory / "log"
        with log.open("w") as errors:
            done = subprocess.run(
                [sys.executable, str(HERE / script), str(directory), *rest], stdout=subprocess.PIPE, stderr=errors, text=True
            )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        rows |= {line["arch"]: line for line in lines if len(line) > 1}
        if done.returncode != 0:
            if not lines or len(lines[-1]) > 1:
                raise RuntimeError(f"{script} ended with {done.returncode}:\n{log.read_text()[-2000:]}")
            arch = lines[-1]["arch"]
            why = [line for line in log.read_text().splitlines() if "GGML_ASSERT" in line]
            words = f"the process died ({-done.returncode}): {why[0] if why else 'no word'}"
            rows[arch] = {"arch": arch, "problem": words, "verdict": "failed", "reason": words}
    return rows


def examine(archs: list[str], directory: Path) -> list[Row]:
    """One row per architecture, in their order. `directory` keeps the dummy models."""
    stock = _run("arch_stock.py", directory, archs)
    made = [arch for arch in archs if (directory / f"{arch}.gguf").exists()]
    merged = _run("arch_merged.py", directory, made)
    return [{"problem": "", **stock[arch], **merged.get(arch, {"verdict": "none"})} for arch in archs]


def main(archs: list[str]) -> int:
    from asymkv_gguf.llama import _api

    with tempfile.TemporaryDirectory() as directory:
        rows = examine(archs or _api.architectures(), Path(directory))
    for row in rows:
        print(json.dumps(row))
    return int(any(row["verdict"] == "failed" for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
