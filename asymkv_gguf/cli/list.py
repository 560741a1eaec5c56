"""`asymkv-gguf list`: the models in the cache."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import click

from ..stats import size_text


@click.command("list", short_help="List the GGUF models in the hub's cache.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def list_models(as_json: bool) -> None:
    """List the GGUF models in the cache of the hub, which other tools share."""
    from ..models.cache import cache_dir  # imports huggingface_hub
    from ..models.inventory import cached_models

    models = cached_models()
    if as_json:
        entries = [
            {
                "name": model.name,
                "repo": model.repo,
                "quant": model.quant,
                "size_bytes": model.size,
                "last_used": datetime.fromtimestamp(model.last_used, timezone.utc).isoformat(timespec="seconds"),
                "path": str(model.path),
                "whole": model.is_whole,
            }
            for model in models
        ]
        click.echo(json.dumps({"models": entries}, ensure_ascii=False))
        return
    if not models:
        click.echo(
            f"no GGUF model is in the cache ({cache_dir()}); get one with: asymkv-gguf download USER/REPO:QUANT", err=True
        )
        return
    rows = [("NAME", "QUANT", "SIZE", "LAST USED", "PATH")]
    for model in models:
        used = datetime.fromtimestamp(model.last_used).strftime("%Y-%m-%d %H:%M")
        size = size_text(model.size) if model.is_whole else f"{size_text(model.size)}, parts missing"
        rows.append((model.name, model.quant, size, used, str(model.path)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        click.echo("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]]))
