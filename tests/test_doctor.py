"""`doctor`, and what every command says when the installation is broken."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pexpect
import pytest

from asymkv_gguf import doctor, llama
from asymkv_gguf.cli import main
from asymkv_gguf.native import loader
from asymkv_gguf.native.ggml import Device, ggml


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "asymkv_gguf", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


def report(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["doctor", "--json", *arguments])
    answer = json.loads(capfd.readouterr().out)
    return code, {"ok": answer["ok"], **{check["name"]: check for check in answer["checks"]}}


def test_a_sound_installation_ends_with_0_and_every_check_has_its_data(capfd: pytest.CaptureFixture[str]) -> None:
    code, checks = report(capfd)
    assert code == 0
    assert checks.pop("ok") is True
    assert list(checks) == [
        "versions", "memory", "model cache", "extras", "libraries", "backends", "CPU", "native ops", "compression", "RPC",
        "self-test",
    ]  # fmt: skip
    assert {check["status"] for check in checks.values()} <= {"ok", "note"}
    native = loader.load()
    assert checks["versions"]["data"]["llama-cpp-python"].startswith("0.3.36")
    assert checks["libraries"]["data"]["libllama"] == str(native.library)
    assert str(native.library) in checks["libraries"]["data"]["loaded"]
    assert checks["backends"]["data"]["devices"][0]["memory_total"] > 0
    assert checks["CPU"]["data"]["usable_cores"] >= 1
    self_test = checks["self-test"]["data"]
    assert self_test["right"] == self_test["questions"] == 10
    assert self_test["slots"] < self_test["tokens"] / 4


def test_the_report_is_one_line_for_each_check_and_goes_to_stdout() -> None:
    done = command("doctor")
    assert done.returncode == 0
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok     versions     asymkv-gguf ")
    assert lines[-1].startswith("ok     self-test    10 of 10 answers right")


@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_terminal_gets_colours_unless_no_color_is_set(no_color: str) -> None:
    environment: Any = {**os.environ, "NO_COLOR": no_color, "TERM": "xterm"}
    text = pexpect.run(f"{sys.executable} -m asymkv_gguf doctor", env=environment, timeout=120, encoding="utf-8")
    assert "self-test" in text
    assert ("\x1b[" in text) == (no_color == "")


def test_a_missing_library_is_what_doctor_reports(tmp_path: Path) -> None:
    done = command("doctor", "--json", ASYMKV_GGUF_NATIVE=str(tmp_path))
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert answer["ok"] is False
    last = answer["checks"][-1]
    assert (last["name"], last["status"]) == ("libraries", "failed")
    assert last["text"] == f"asymkv-gguf's libllama is missing from {tmp_path / 'lib'}"
    assert last["remedy"] == "install the package with pip instead of importing it from its source directory"


def test_the_remedy_stands_below_what_failed(tmp_path: Path) -> None:
    done = command("doctor", ASYMKV_GGUF_NATIVE=str(tmp_path))
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("                    -> install the package with pip")


def test_a_wrong_option_of_doctor_is_a_wrong_use_in_a_broken_installation_too(tmp_path: Path) -> None:
    assert command("doctor", "--no-such", ASYMKV_GGUF_NATIVE=str(tmp_path)).returncode == 2


@pytest.mark.parametrize("arguments", [["run", "-m", "x.gguf"], ["--version"], []], ids=" ".join)
def test_a_broken_installation_is_one_sentence_for_every_command(tmp_path: Path, arguments: list[str]) -> None:
    done = command(*arguments, ASYMKV_GGUF_NATIVE=str(tmp_path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"asymkv-gguf: asymkv-gguf's libllama is missing from {tmp_path / 'lib'}; "
        "install the package with pip instead of importing it from its source directory\n"
    )


def test_the_console_script_says_it_in_one_sentence_too(tmp_path: Path) -> None:
    script = tmp_path / "asymkv-gguf"  # as pip writes it
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom asymkv_gguf.cli import main\nsys.exit(main())\n")
    script.chmod(0o755)
    environment = {**os.environ, "ASYMKV_GGUF_NATIVE": str(tmp_path)}
    done = subprocess.run([str(script), "run"], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("asymkv-gguf: asymkv-gguf's libllama is missing from ")
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_python_package_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "cffi.py").write_text("raise ModuleNotFoundError(\"No module named 'cffi'\")\n")
    done = command("doctor", PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    assert done.returncode == 1
    assert done.stderr == "asymkv-gguf: No module named 'cffi'; reinstall asymkv-gguf with pip\n"


def test_programs_that_import_a_broken_package_still_get_the_exception(tmp_path: Path) -> None:
    environment = {**os.environ, "ASYMKV_GGUF_NATIVE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", "import asymkv_gguf"], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.stderr.splitlines()[-1].startswith("ImportError: asymkv-gguf's libllama is missing from ")


def test_another_version_of_llama_cpp_python_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.3.99" if name == "llama-cpp-python" else real(name))
    check = next(check for check in doctor.examine() if check.name == "versions")
    assert (check.status, check.remedy) == ("failed", "pip install llama-cpp-python==0.3.36")


def test_a_model_cache_that_cannot_be_written_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/proc/1/hub")  # not even root can write there
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    check = doctor.model_cache()
    assert (check.status, check.remedy) == ("failed", "set HF_HOME to a directory that you can write")


def test_the_model_cache_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    blob = tmp_path / "hub" / "models--a--b" / "blobs" / "0"
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / "1"
    for directory in (blob.parent, snapshot):
        directory.mkdir(parents=True)
    blob.write_bytes(bytes(3 << 20))
    (snapshot / "model.gguf").symlink_to(blob)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    check = doctor.model_cache()
    assert (check.data["repositories"], check.data["bytes"]) == (1, 3 << 20)
    assert f"{tmp_path / 'hub'}: 1 repositories, 3.0 MiB" in check.text


def test_missing_extras_are_listed_with_the_command_that_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = ["numpy>=1", "pytest>=8; extra == 'server'", "no-such-thing>=1; extra == 'plot'", "x; extra == 'dev'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requirements)
    check = doctor.extras()
    assert check.text == "server (installed), plot (without no-such-thing)"
    assert (check.status, check.remedy) == ("note", "if you want them: pip install 'asymkv-gguf[plot]'")


def device(name: str, native_ops: int) -> Device:
    return Device(name, "", "CPU" if name == "CPU" else "GPU", 0, 0, native_ops, 0)


def test_each_device_has_native_ops_or_is_portable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASYMKV_NATIVE_OPS", raising=False)
    devices = [device("CUDA0", 3), device("Vulkan0", 0), device("CPU", 1)]
    monkeypatch.setattr(ggml(), "devices", lambda: devices)
    check = doctor.native_ops()
    assert check.text == (
        "CUDA0: attention with cardinalities and compression; Vulkan0: none, composed of stock ops; "
        "CPU: attention with cardinalities"
    )
    assert check.data["devices"] == {"CUDA0": "native", "Vulkan0": "portable", "CPU": "native"}
    monkeypatch.setenv("ASYMKV_NATIVE_OPS", "0")
    check = doctor.native_ops()
    assert check.text == "none, all is composed of stock ops: ASYMKV_NATIVE_OPS=0 forbids them"
    assert set(check.data["devices"].values()) == {"portable"}


def test_a_ggml_of_ours_without_native_ops_is_said_to_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASYMKV_NATIVE_OPS", raising=False)
    monkeypatch.setattr(ggml(), "devices", lambda: [device("Vulkan0", 0)])
    monkeypatch.setattr(llama, "_native", replace(llama._native, bundled=True))
    assert doctor.native_ops().text == "none, all is composed of stock ops: no device has them"


def test_workers_are_asked_when_named(capfd: pytest.CaptureFixture[str]) -> None:
    code, checks = report(capfd, "--rpc", "127.0.0.1:9")
    assert code == 1
    assert checks["RPC workers"]["status"] == "failed"
    assert checks["RPC workers"]["text"] == "RPC worker 127.0.0.1:9 cannot be reached (Connection refused)"
    assert checks["RPC workers"]["remedy"] == "start it there: asymkv-gguf rpc-worker --host 127.0.0.1 --port 9"


def test_a_check_that_breaks_is_part_of_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> doctor.Check:
        raise OSError("no\nluck")

    monkeypatch.setattr(doctor, "self_test", broken)
    check = list(doctor.examine())[-1]
    assert (check.name, check.status, check.text) == ("self-test", "failed", "no luck")
