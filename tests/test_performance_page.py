"""The scripts that write docs/performance.md and measure on a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- performance.py: begin -->", "<!-- performance.py: end -->"


def write_page(work: Path) -> subprocess.CompletedProcess[str]:
    arguments = ["--quick", "--dummy", "tiny", "--threads", "1", "--work", str(work)]
    command = [sys.executable, str(ROOT / "benchmarks" / "performance.py"), *arguments]
    environment = {**os.environ, "ASYMKV_BENCH_DUMMY_DIR": str(work), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def test_the_page_is_written_from_measurements_that_are_kept(tmp_path: Path) -> None:
    first = write_page(tmp_path)
    assert first.returncode == 0, first.stderr
    work = tmp_path / "quick-tiny"
    page, template = ((at / "performance.md").read_text() for at in (work, ROOT / "docs"))
    assert page.partition(BEGIN)[0] == template.partition(BEGIN)[0]
    measured = page.partition(BEGIN)[2].partition(END)[0]
    lines = [line.strip("|").split("|") for line in measured.splitlines() if line.startswith("|")]
    goals = [line for line in lines if line[1].strip().startswith((">=", "<="))]
    assert len(goals) == 12 + 10 + 2  # off is not measured with a q8_0 cache
    for goal in goals:
        relation, bound = goal[1].split()
        met = float(goal[2]) >= float(bound) if relation == ">=" else float(goal[2]) <= float(bound)
        assert (goal[3].strip() == "yes") == met
    assert measured.count("asymkv-gguf bench --dummy tiny") == 3
    assert (work / "performance.png").read_bytes().startswith(b"\x89PNG")

    # all is there: nothing is measured again, nor written differently
    second = write_page(tmp_path)
    assert (second.returncode, second.stderr) == (0, "")
    assert (work / "performance.md").read_text() == page


def test_the_page_in_docs_has_its_marks() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    assert page.index(BEGIN) < page.index(END)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_the_gpu_script_says_what_is_missing(tmp_path: Path) -> None:
    for name in ("sh", "dirname"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    script = ROOT / "scripts" / "gpu_bench.sh"
    done = subprocess.run([str(tmp_path / "sh"), str(script)], capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr == "nvidia-smi is missing: this needs an NVIDIA GPU and its driver\n"
    assert subprocess.run(["sh", "-n", str(script)], capture_output=True, text=True).stderr == ""
