"""`asymkv-gguf doctor`: what is installed, whether it works, and what to do if not."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import click

from ..doctor import Check, examine

_COLOURS = {"ok": "green", "note": "yellow", "failed": "red"}


@click.command(short_help="Look at the installation, and try it.")
@click.option("--rpc", "rpc_servers", metavar="HOST:PORT,...", help="Ask these RPC workers, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(rpc_servers: str | None, as_json: bool) -> int:
    """Look at the installation, and let the packaged model answer questions from a merged cache.

    Ends with 0 if everything that has to work does, else with 1.
    """
    checks = []
    for check in shown(examine(rpc_servers), quiet=as_json):
        checks.append(check)
    fine = all(check.status != "failed" for check in checks)
    if as_json:
        click.echo(json.dumps({"ok": fine, "checks": [asdict(check) for check in checks]}, ensure_ascii=False))
    return 0 if fine else 1


def shown(checks: Iterator[Check], *, quiet: bool) -> Iterator[Check]:
    """Prints each check as soon as it is done."""
    for check in checks:
        if not quiet:
            mark = click.style(f"{check.status:<7}", fg=_COLOURS[check.status])
            click.echo(f"{mark}{check.name:<13}{check.text}")
            if check.remedy:
                click.echo(f"{'':20}-> {check.remedy}")
        yield check


def alone(arguments: Sequence[str]) -> int:
    """The command where nothing else can be imported."""
    color = False if os.environ.get("NO_COLOR") else None
    try:
        result = doctor.main(list(arguments), prog_name="asymkv-gguf doctor", standalone_mode=False, color=color)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return result if isinstance(result, int) else 0
