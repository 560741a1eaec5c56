"""Writes docs/models.md: every architecture that llama.cpp knows, and whether it is merged. Takes a minute or two.

python tools/write_models_docs.py [--check]     --check: compares, and writes nothing
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import architectures

TARGET = Path(__file__).parent.parent / "docs" / "models.md"
CACHES = {
    "plain": "all layers",
    "plain, sliding window": "layers without a window",
    "hybrid": "attention layers",
    "hybrid, sliding window": "attention layers without a window",
}

INTRO = """\
# Models

What becomes of each architecture that llama.cpp {version} knows: {n_merged} of {n} are merged, {n_refused} are
refused with their reason, and llama.cpp itself runs no model of {n_none}. `python tools/write_models_docs.py` wrote this
page: it makes a small model with random weights of every architecture, and holds each merged one to four promises, per
head and per layer, with flash attention and without:

- while nothing is merged, its logits are stock llama.cpp's, bit for bit;
- a key computed at one place and rotated by d positions is the key computed d positions later;
- all invariants of the cache hold after every batch (`asymkv_check` in `asymkv.h`);
- after merging, saving, restoring and taking back recent tokens, the next logits are the same: bit for bit, and in layers
  with a sliding window, which llama.cpp restores in another order, up to rounding.

What counts is the file, and the library looks at it when it is opened: a model whose layers all have a sliding window is
refused with a sentence although its architecture stands among the merged. Models with M-RoPE, which also read images, read
text only with a merged cache: embeddings are refused. Random weights say nothing about how much a merged cache keeps:
[measure that](eval.md) with your model.

## Merged

Layers with a sliding window, and recurrent ones, keep llama.cpp's own cache, which does not grow.

| architecture | what is merged | RoPE |
| --- | --- | --- |
"""


def line_of(row: dict[str, Any]) -> str:
    """A row of one of the tables."""
    if row["verdict"] == "merged":
        return f"| `{row['arch']}` | {CACHES[row['kind']]} | {row['rope']} |"
    if row["verdict"] == "refused":
        return f"| `{row['arch']}` | {row['reason'].removeprefix(prefix(row['arch']))} |"
    return f"| `{row['arch']}` | {row['problem']} |"


def prefix(arch: str) -> str:
    """How a reason begins."""
    return f"the architecture '{arch}' cannot be merged: "


def text(rows: list[dict[str, Any]], version: str) -> str:
    parts = {verdict: [row for row in rows if row["verdict"] == verdict] for verdict in ("merged", "refused", "none")}
    failed = [row for row in rows if row["verdict"] == "failed"]
    if failed:
        raise SystemExit("\n".join(f"{row['arch']}: {row['reason']}" for row in failed))
    intro = INTRO.format(version=version, n=len(rows), **{f"n_{name}": len(part) for name, part in parts.items()})
    lines = [*map(line_of, parts["merged"])]
    lines += ["", "## Refused", "", "| architecture | because |", "| --- | --- |", *map(line_of, parts["refused"])]
    lines += ["", "## Not run by llama.cpp itself", "", "| architecture | llama.cpp says |", "| --- | --- |"]
    lines += map(line_of, parts["none"])
    return intro + "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    from asymkv_gguf.llama import _api
    from asymkv_gguf.native.loader import BINDING, BINDING_VERSION

    with tempfile.TemporaryDirectory() as directory:
        rows = architectures.examine(_api.architectures(), Path(directory))
    page = text(rows, f"({BINDING} {BINDING_VERSION}'s)")
    if arguments == ["--check"]:
        same = TARGET.read_text(encoding="utf-8") == page
        print(f"{TARGET} is {'what was found' if same else 'stale; run: python tools/write_models_docs.py'}", file=sys.stderr)
        return int(not same)
    TARGET.write_text(page, encoding="utf-8")
    print(f"wrote {TARGET}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
