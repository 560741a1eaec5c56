"""Write the bill of materials of the wheel: CycloneDX 1.6, JSON.

    write_sbom.py --root PROJECT --tree WORK/llama.cpp --ggml "TARGET;..." --output FILE

Components are what is compiled or copied into the wheel: llama.cpp (with the patches as its pedigree), ggml or the part of
it that is used, and the packaged model. Python packages that pip installs beside the wheel are in its METADATA. The same
input gives the same bytes: the serial number is computed from the content, and the time is SOURCE_DATE_EPOCH or left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from prepare_source import PACKAGE, SHA256, VERSION, SourceError, read_series, sha256_of

MODEL = "asymkv_gguf/data/recall.gguf"
_NAMESPACE = uuid.UUID("b1f3a0de-5c39-5d2e-9a8e-4f6c1d0e7a42")
_MIT = [{"license": {"id": "MIT"}}]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--tree", type=Path, required=True)
    parser.add_argument("--ggml", default="", help="ggml's libraries in the wheel, with ; between them; empty: none")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    try:
        bill = bill_of_materials(options.root, options.tree, [name for name in options.ggml.split(";") if name])
        options.output.write_text(json.dumps(bill, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    except (SourceError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def bill_of_materials(root: Path, tree: Path, ggml_libraries: list[str]) -> dict[str, Any]:
    version = project_version(root)
    product = {
        "type": "library",
        "bom-ref": "asymkv-gguf",
        "name": "asymkv-gguf",
        "version": version,
        "purl": f"pkg:pypi/asymkv-gguf@{version}",
        "licenses": _MIT,
    }
    parts = [_llama(root, tree), _ggml(tree, ggml_libraries), _model(root, version)]
    bill: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": product},
        "components": parts,
        "dependencies": [
            {"ref": "asymkv-gguf", "dependsOn": [part["bom-ref"] for part in parts]},
            {"ref": "llama.cpp", "dependsOn": ["ggml"]},
        ],
    }
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        bill["metadata"]["timestamp"] = datetime.fromtimestamp(int(epoch), timezone.utc).isoformat()
    bill["serialNumber"] = f"urn:uuid:{uuid.uuid5(_NAMESPACE, json.dumps(bill, sort_keys=True))}"
    return bill


def _llama(root: Path, tree: Path) -> dict[str, Any]:
    version = cmake_version(tree / "CMakeLists.txt", "LLAMA")
    series = [(name, (root / "patches" / name).read_text(encoding="utf-8")) for name in read_series(root / "patches")]
    patches = [{"type": "unofficial", "diff": {"text": {"contentType": "text/x-diff", "content": text}}} for _, text in series]
    return {
        "type": "library",
        "bom-ref": "llama.cpp",
        "name": "llama.cpp",
        "version": version,
        "purl": f"pkg:github/ggml-org/llama.cpp@v{version}",
        "licenses": _MIT,
        "description": "libllama, with our sources in it",
        "pedigree": {
            "ancestors": [
                {
                    "type": "library",
                    "name": PACKAGE,
                    "version": VERSION,
                    "purl": f"pkg:pypi/{PACKAGE}@{VERSION}",
                    "licenses": _MIT,
                    "description": "the source archive that llama.cpp is taken from, under vendor/llama.cpp",
                    "hashes": [{"alg": "SHA-256", "content": SHA256}],
                }
            ],
            "patches": patches,
            "notes": "patches, in their order: " + ", ".join(name for name, _ in series),
        },
    }


def _ggml(tree: Path, libraries: list[str]) -> dict[str, Any]:
    version = cmake_version(tree / "ggml/CMakeLists.txt", "GGML")
    inside = ", ".join(libraries) if libraries else "none of its libraries, those of the installed llama-cpp-python are used"
    return {
        "type": "library",
        "bom-ref": "ggml",
        "name": "ggml",
        "version": version,
        "purl": f"pkg:github/ggml-org/ggml@v{version}",
        "licenses": _MIT,
        "description": f"the copy in llama.cpp: its headers, its RPC backend, and {inside}",
    }


def _model(root: Path, version: str) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": Path(MODEL).name,
        "version": version,
        "licenses": _MIT,
        "description": f"{MODEL}, the demo's model, trained by tools/train_recall_model.py",
        "hashes": [{"alg": "SHA-256", "content": sha256_of(root / MODEL)}],
    }


def project_version(root: Path) -> str:
    found = re.search(r'^version = "([^"]+)"$', (root / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise SourceError(f"{root / 'pyproject.toml'} names no version")
    return found[1]


def cmake_version(file: Path, prefix: str) -> str:
    text = file.read_text(encoding="utf-8")
    numbers = [
        re.search(rf"^set\({prefix}_VERSION_{part} +(\d+)\)", text, re.MULTILINE) for part in ("MAJOR", "MINOR", "PATCH")
    ]
    if None in numbers:
        raise SourceError(f"{file} names no version {prefix}_VERSION_MAJOR, _MINOR and _PATCH")
    return ".".join(number[1] for number in numbers if number)


if __name__ == "__main__":
    sys.exit(main())
