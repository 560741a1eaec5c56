"""`asymkv-gguf rm`: a model out of the cache."""

from __future__ import annotations

import json
import sys

import click

from ..stats import size_text
from .model_source import parse_name


@click.command(short_help="Remove a model from the hub's cache.")
@click.argument("model", metavar="USER/REPO[:QUANT]")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def rm(model: str, yes: bool, as_json: bool) -> None:
    """Remove a model from the cache: one QUANT (or file), or all GGUF files of the repository.

    Other files of the repository, and other repositories, are left alone.
    """
    from ..models.removal import plan_removal  # imports huggingface_hub

    removal = plan_removal(parse_name(model))
    what = ", ".join([*removal.files, *(["an interrupted download"] if removal.interrupted else [])])
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"rm would remove {what}, and there is no terminal to ask at; give -y")
        click.confirm(f"Remove {what} of {model} ({size_text(removal.freed)})?", abort=True, err=True)
    removal.execute()
    if as_json:
        click.echo(
            json.dumps({"model": removal.name, "files": removal.files, "freed_bytes": removal.freed}, ensure_ascii=False)
        )
    click.echo(f"removed {what} of {model}: {removal.freed:,} bytes ({size_text(removal.freed)}) are freed", err=True)
