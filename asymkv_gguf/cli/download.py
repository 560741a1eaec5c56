"""`asymkv-gguf download`: a model of the hub into the cache."""

from __future__ import annotations

import json

import click

from .model_source import parse_name


@click.command()
@click.argument("model", metavar="USER/REPO[:QUANT]")
@click.option("-hff", "--hf-file", metavar="FILE", help="The GGUF file, instead of QUANT.")
@click.option("-hft", "--hf-token", metavar="TOKEN", help="Access token; HF_TOKEN.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the path.")
def download(model: str, hf_file: str | None, hf_token: str | None, as_json: bool) -> None:
    """Download a model of the hub, and print its path.

    QUANT is Q4_K_M by default, or a file's name. A download that was interrupted goes on where it ended.
    """
    from ..models import local_files  # imports huggingface_hub

    name = parse_name(model, hf_file)
    files = local_files(name, token=hf_token)
    if as_json:
        size = sum(file.stat().st_size for file in files)
        report = {"model": str(name), "path": str(files[0]), "files": [str(file) for file in files], "size_bytes": size}
        click.echo(json.dumps(report, ensure_ascii=False))
    else:
        click.echo(str(files[0]))
