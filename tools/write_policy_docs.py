"""Writes the table of policies into docs/how-it-works.md, from asymkv_gguf.policies."""

from __future__ import annotations

import sys
from pathlib import Path

from asymkv_gguf import AsymKVConfig
from asymkv_gguf.policies import POLICIES

TARGET = Path(__file__).parent.parent / "docs" / "how-it-works.md"
BEGIN, END = "<!-- policies, written by tools/write_policy_docs.py -->\n", "<!-- end of policies -->\n"


def table() -> str:
    lines = ["| policy | what becomes of slots that do not fit | its score |", "| --- | --- | --- |"]
    for name, policy in POLICIES.items():
        lines.append(f"| `{name}` | {policy.summary} | `{AsymKVConfig.of_policy(name).score}` |")
    return "\n".join(lines) + "\n"


def text() -> str:
    """The page with the table of today."""
    before, _, rest = TARGET.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
    print(f"wrote {TARGET}", file=sys.stderr)
