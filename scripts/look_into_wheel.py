"""Look into a built wheel: its tag, the licences, the bill of materials, its record.

    python scripts/look_into_wheel.py WHEEL...

Needs cyclonedx-python-lib[json-validation]. Ends with 1 and one sentence for what is wrong.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

LICENCES = {
    "asymkv_gguf/licenses/LICENSE.llama.cpp": "The ggml authors",
    "asymkv_gguf/licenses/LICENSE.llama-cpp-python": "Andrei Betlen",
}


def main(wheels: list[str]) -> int:
    for wheel in wheels:
        try:
            look(Path(wheel))
        except ValueError as error:
            print(f"{wheel}: {error}", file=sys.stderr)
            return 1
    return 0


def look(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    (info,) = {name.partition("/")[0] for name in files if ".dist-info/" in name}
    check_tag(files[f"{info}/WHEEL"].decode())
    check_record(files, info)
    for name, holder in LICENCES.items():
        if holder.lower() not in files.get(name, b"").decode().lower():
            raise ValueError(f"{name} is missing, or does not name {holder}")
    if b"Permission is hereby granted" not in files.get(f"{info}/licenses/LICENSE", b""):
        raise ValueError("its own licence is missing")
    names = check_bill(files.get(f"{info}/sboms/asymkv-gguf.cdx.json"))
    for name in sorted(files):
        if name.startswith(("asymkv_gguf/lib/", "asymkv_gguf/licenses/", info)):
            print(f"{len(files[name]):>10,}  {name}")
    print(f"{len(files)} files, {wheel.stat().st_size:,} bytes; bill of materials: {', '.join(names)}")


def check_tag(text: str) -> None:
    tags = [line.partition(": ")[2] for line in text.splitlines() if line.startswith("Tag: ")]
    if not tags or not all(tag.startswith("py3-none-") and not tag.endswith("-any") for tag in tags):
        raise ValueError(f"its tags are {', '.join(tags) or 'missing'}, not py3-none-PLATFORM")


def check_record(files: dict[str, bytes], info: str) -> None:
    rows = list(csv.reader(io.StringIO(files[f"{info}/RECORD"].decode())))
    if {row[0] for row in rows} != set(files):
        raise ValueError("its RECORD does not list the files that are there")
    for name, digest, _ in rows:
        if digest:
            found = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=").decode()
            if digest != f"sha256={found}":
                raise ValueError(f"its RECORD has another checksum for {name}")


def check_bill(text: bytes | None) -> list[str]:
    """The names of its components, with their versions."""
    if text is None:
        raise ValueError("it has no bill of materials")
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.decode())
    if problem is not None:
        raise ValueError(f"its bill of materials is not valid: {problem}")
    components = json.loads(text)["components"]
    return [f"{component['name']} {component['version']}" for component in components]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
