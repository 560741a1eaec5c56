"""The wheel's bill of materials: what it lists, that it is valid CycloneDX, and that it is the same for the same input."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "cmake"))

import prepare_source  # noqa: E402
import write_sbom  # noqa: E402


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The two files of llama.cpp that name its versions."""
    tree = tmp_path / "llama.cpp"
    for name, prefix, numbers in (("CMakeLists.txt", "LLAMA", (0, 5, 0)), ("ggml/CMakeLists.txt", "GGML", (0, 25, 3))):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        lines = [f"set({prefix}_VERSION_{part} {n})" for part, n in zip(("MAJOR", "MINOR", "PATCH"), numbers, strict=True)]
        (tree / name).write_text("\n".join(lines) + "\n")
    return tree


def command(tree: Path, output: Path, *more: str) -> list[str]:
    script = str(ROOT / "cmake/write_sbom.py")
    return [sys.executable, script, "--root", str(ROOT), "--tree", str(tree), "--output", str(output), *more]


def written(tree: Path, output: Path, *, ggml: str = "") -> dict[str, Any]:
    subprocess.run(command(tree, output, "--ggml", ggml), check=True)
    text = output.read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill: dict[str, Any] = json.loads(text)
    return bill


def components(bill: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {component["name"]: component for component in bill["components"]}


def test_it_lists_what_is_compiled_and_copied_into_the_wheel(tree: Path, tmp_path: Path) -> None:
    parts = components(written(tree, tmp_path / "bill.json"))
    assert set(parts) == {"llama.cpp", "ggml", "recall.gguf"}
    assert (parts["llama.cpp"]["version"], parts["ggml"]["version"]) == ("0.5.0", "0.25.3")
    model = ROOT / "asymkv_gguf/data/recall.gguf"
    assert parts["recall.gguf"]["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(model.read_bytes()).hexdigest()}]


def test_llama_cpps_pedigree_is_the_pinned_archive_and_every_patch(tree: Path, tmp_path: Path) -> None:
    pedigree = components(written(tree, tmp_path / "bill.json"))["llama.cpp"]["pedigree"]
    (archive,) = pedigree["ancestors"]
    assert archive["purl"] == f"pkg:pypi/llama-cpp-python@{prepare_source.VERSION}"
    assert archive["hashes"] == [{"alg": "SHA-256", "content": prepare_source.SHA256}]
    series = prepare_source.read_series(ROOT / "patches")
    texts = [patch["diff"]["text"]["content"] for patch in pedigree["patches"]]
    assert texts == [(ROOT / "patches" / name).read_text() for name in series]
    assert pedigree["notes"].endswith(", ".join(series))


def test_bundled_libraries_are_named(tree: Path, tmp_path: Path) -> None:
    thin = components(written(tree, tmp_path / "thin.json"))["ggml"]["description"]
    bundled = components(written(tree, tmp_path / "bundled.json", ggml="ggml;ggml-base;ggml-cpu"))["ggml"]["description"]
    assert "none of its libraries" in thin
    assert bundled.endswith("its RPC backend, and ggml, ggml-base, ggml-cpu")


def test_the_same_input_gives_the_same_bytes_and_a_date_only_where_one_is_given(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    first = written(tree, tmp_path / "1.json")
    assert written(tree, tmp_path / "2.json") == first
    assert "timestamp" not in first["metadata"]
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    dated = written(tree, tmp_path / "3.json")
    assert dated["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"
    assert dated["serialNumber"] != first["serialNumber"]


def test_a_tree_without_a_version_stops_with_one_sentence(tree: Path, tmp_path: Path) -> None:
    (tree / "CMakeLists.txt").write_text("")
    done = subprocess.run(command(tree, tmp_path / "bill.json"), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"{tree / 'CMakeLists.txt'} names no version LLAMA_VERSION_MAJOR, _MINOR and _PATCH"]


def test_the_installed_wheel_has_its_bill_and_all_licences() -> None:
    try:
        installed = importlib.metadata.distribution("asymkv-gguf")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("asymkv-gguf runs from source here: a bill of materials comes with its wheel")
    bill = json.loads(installed.read_text("sboms/asymkv-gguf.cdx.json") or "")
    assert bill["metadata"]["component"]["version"] == write_sbom.project_version(ROOT) == installed.version
    assert set(components(bill)) == {"llama.cpp", "ggml", "recall.gguf"}
    assert "Permission is hereby granted" in (installed.read_text("licenses/LICENSE") or "")
    for name, holder in (("LICENSE.llama.cpp", "The ggml authors"), ("LICENSE.llama-cpp-python", "Andrei Betlen")):
        path = Path(str(installed.locate_file(f"asymkv_gguf/licenses/{name}")))
        assert holder.lower() in path.read_text().lower()


def test_a_wheel_that_lacks_something_is_refused_by_the_release(tmp_path: Path) -> None:
    wheel = tmp_path / "asymkv_gguf-0.1.0-py3-none-any.whl"
    look = [sys.executable, str(ROOT / "scripts/look_into_wheel.py"), str(wheel)]
    for tag, sentence in (
        ("py3-none-any", "its tags are py3-none-any, not py3-none-PLATFORM"),
        ("py3-none-linux_x86_64", "asymkv_gguf/licenses/LICENSE.llama.cpp is missing, or does not name The ggml authors"),
    ):
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("asymkv_gguf-0.1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
            names = ("WHEEL", "RECORD")
            archive.writestr(
                "asymkv_gguf-0.1.0.dist-info/RECORD", "".join(f"asymkv_gguf-0.1.0.dist-info/{name},,\n" for name in names)
            )
        done = subprocess.run(look, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (1, f"{wheel}: {sentence}\n")
