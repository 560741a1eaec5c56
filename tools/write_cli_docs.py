"""Writes docs/cli.md: the help of every command, as `asymkv-gguf COMMAND --help` prints it in 100 columns."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from asymkv_gguf.cli.main import COMMANDS, cli

TARGET = Path(__file__).parent.parent / "docs" / "cli.md"
WIDTH = 100

INTRODUCTION = """\
# The command line

What `asymkv-gguf COMMAND --help` prints. Written by `python tools/write_cli_docs.py`; a test compares.

Model text, tables and JSON go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted.
Every option has an environment variable, named after the command and the option: `ASYMKV_RUN_THREADS=8` is
`asymkv-gguf run --threads 8`. `NO_COLOR` turns colours off.
"""


def text() -> str:
    parts = [INTRODUCTION, section(cli, "asymkv-gguf")]
    for command in COMMANDS:
        parts += sections(command, f"asymkv-gguf {command.name}")
    return "\n".join(parts)


def sections(command: click.Command, name: str) -> list[str]:
    """Of a command, and of its sub-commands."""
    children = command.commands.values() if isinstance(command, click.Group) else ()
    return [section(command, name), *(part for child in children for part in sections(child, f"{name} {child.name}"))]


def section(command: click.Command, name: str) -> str:
    # -h and the names of environment variables come from the group
    context = click.Context(command, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH, **settings(command))
    help_text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    return f"## {name}\n\n```\n{help_text}\n```\n"


def settings(command: click.Command) -> dict[str, Any]:
    own = {**cli.context_settings, **command.context_settings}
    return {name: own[name] for name in ("help_option_names", "show_default") if name in own}


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
    print(f"wrote {TARGET}", file=sys.stderr)
