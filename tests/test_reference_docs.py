"""docs/cli.md, docs/api.md and the policies in docs/how-it-works.md say what the commands and the source say."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import write_api_docs  # noqa: E402
import write_cli_docs  # noqa: E402
import write_policy_docs  # noqa: E402

from asymkv_gguf.cli import main  # noqa: E402
from asymkv_gguf.cli.main import COMMANDS  # noqa: E402
from asymkv_gguf.policies import POLICIES  # noqa: E402


def test_the_help_of_every_command_is_in_the_docs() -> None:
    assert write_cli_docs.TARGET.read_text(encoding="utf-8") == write_cli_docs.text(), (
        "docs/cli.md is stale; run: python tools/write_cli_docs.py"
    )


def test_the_api_is_in_the_docs() -> None:
    assert write_api_docs.TARGET.read_text(encoding="utf-8") == write_api_docs.text(), (
        "docs/api.md is stale; run: python tools/write_api_docs.py"
    )


def names(command: click.Command) -> list[str]:
    """As they are typed, those of sub-commands, too."""
    children = command.commands.values() if isinstance(command, click.Group) else ()
    return [str(command.name), *(f"{command.name} {name}" for child in children for name in names(child))]


def test_the_policies_are_in_the_docs() -> None:
    page = write_policy_docs.TARGET.read_text(encoding="utf-8")
    assert page == write_policy_docs.text(), "docs/how-it-works.md is stale; run: python tools/write_policy_docs.py"
    assert all(f"\n| `{name}` | {policy.summary} | " in page for name, policy in POLICIES.items())


@pytest.mark.parametrize("name", [name for command in COMMANDS for name in names(command)])
def test_the_docs_hold_what_the_command_prints(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    printed = capfd.readouterr().out
    # on its own, click takes at most 80 columns, and breaks the lines elsewhere
    assert "".join(printed.split()) == "".join(written(name).split())


def written(name: str) -> str:
    section = write_cli_docs.TARGET.read_text(encoding="utf-8").split(f"\n## asymkv-gguf {name}\n")[1]
    return section.split("```")[1].strip("\n")


def test_every_public_name_has_a_docstring() -> None:
    text = write_api_docs.text()
    assert "\n### Llama\n" in text
    for heading in text.split("\n### ")[1:]:
        name, _, rest = heading.partition("\n")
        assert rest.split("```\n", 1)[1].strip() or name.isupper(), f"{name} has no docstring"
