"""Writes docs/api.md: the public classes and functions, their signatures and docstrings, read from the source by griffe."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import griffe

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "api.md"

# what of each module is public; the package's own list is its __all__
MODULES = {
    "asymkv_gguf": None,
    "asymkv_gguf.models": None,
    "asymkv_gguf.rpc": ("DEFAULT_PORT", "check_worker"),
    "asymkv_gguf.reference": ("Group", "Params", "compress", "Result"),
}

INTRODUCTION = """\
# Python API

Signatures and docstrings of what is public. Written by `python tools/write_api_docs.py`; a test compares.
"""


def text() -> str:
    package = griffe.load("asymkv_gguf", search_paths=[str(ROOT)])
    parts = [INTRODUCTION]
    for name, members in MODULES.items():
        module = package if name == "asymkv_gguf" else package[name.removeprefix("asymkv_gguf.")]
        parts.append(f"## {name}\n")
        parts += paragraphs(resolved(module))
        for member in members if members is not None else module.exports or ():
            if str(member) == "__version__":
                continue
            parts += described(resolved(module[str(member)]))
    return "\n".join(parts)


def described(item: griffe.Object) -> Iterator[str]:
    """One class with its public members, one function, or one constant."""
    if isinstance(item, griffe.Attribute):
        yield f"### {item.name}\n"
        yield code(f"{item.name} = {item.value}")
    elif isinstance(item, griffe.Function):
        yield f"### {item.name}\n"
        yield code(signature(item))
        yield from paragraphs(item)
    elif isinstance(item, griffe.Class):
        yield from described_class(item)


def described_class(item: griffe.Class) -> Iterator[str]:
    yield f"### {item.name}\n"
    bases = f"({', '.join(str(base) for base in item.bases)})" if item.bases else ""
    constructor = item.members.get("__init__")
    lines = [f"class {item.name}{bases}"]
    if isinstance(constructor, griffe.Function) and constructor.lines:  # that of a dataclass has no source
        lines.append(signature(constructor, name=item.name))
    yield code("\n".join(lines))
    yield from paragraphs(item)
    members = [member for name, member in item.members.items() if not name.startswith("_")]
    fields = [member for member in members if isinstance(member, griffe.Attribute) and "property" not in member.labels]
    if fields:
        yield table(fields)
    for member in members:
        if isinstance(member, griffe.Attribute) and "property" in member.labels:
            yield f"#### {item.name}.{member.name}\n"
            yield code(f"{member.name}: {member.annotation}")
            yield from paragraphs(member)
        elif isinstance(member, griffe.Function):
            yield f"#### {item.name}.{member.name}\n"
            yield code(signature(member))
            yield from paragraphs(member)


def resolved(item: griffe.Object | griffe.Alias) -> griffe.Object:
    return item.final_target if isinstance(item, griffe.Alias) else item


def signature(function: griffe.Function, name: str | None = None) -> str:
    decorator = "@classmethod\n" if "classmethod" in function.labels else ""
    shown = str(function.signature(return_type=name is None, name=name or function.name))
    shown = re.sub(r"\((self|cls)(, )?", "(", shown, count=1)
    return decorator + shown


def table(fields: list[griffe.Attribute]) -> str:
    """Attributes, with the comment beside or above them."""
    rows = ["| attribute | type | default | |", "|---|---|---|---|"]
    for field in fields:
        cells = [f"`{part}`" if part else "" for part in (field.name, field.annotation, field.value)]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in [*cells, comment(field)]) + " |")
    return "\n".join(rows) + "\n"


def comment(field: griffe.Attribute) -> str:
    beside = re.search(r"#\s*(.+)$", field.source)
    if beside is not None:
        return beside.group(1)
    assert isinstance(field.filepath, Path)
    assert field.lineno is not None
    above = re.match(r"\s*#: (.+)", field.filepath.read_text(encoding="utf-8").splitlines()[field.lineno - 2])
    return above.group(1) if above is not None else ""


def paragraphs(item: griffe.Object) -> Iterator[str]:
    """The docstring; what is aligned or indented in it stays as it is."""
    if item.docstring is None:
        return
    kept: list[str] = []
    for paragraph in item.docstring.value.strip().split("\n\n"):
        if any(re.search(r"\S {2,}\S|^ ", line) for line in paragraph.splitlines()):
            kept.append(paragraph)
            continue
        if kept:
            yield code(textwrap.dedent("\n\n".join(kept)), "text")
            kept = []
        yield paragraph + "\n"
    if kept:
        yield code(textwrap.dedent("\n\n".join(kept)), "text")


def code(source: str, language: str = "python") -> str:
    return f"```{language}\n{source}\n```\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
    print(f"wrote {TARGET}", file=sys.stderr)
