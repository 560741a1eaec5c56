"""Where the model comes from: a file, or the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from ..models import ModelName


def take_model(options: dict[str, Any]) -> str:
    """Takes -m, -hf and what belongs to it; the path of the GGUF file, which is downloaded if need be."""
    names = ("model", "hf_repo", "hf_file", "hf_token", "offline")
    model, repo, file, token, offline = (options.pop(name) for name in names)
    if model is not None and repo is not None:
        # the command line counts more than the environment
        model, repo = (value if _is_typed(name) else None for name, value in (("model", model), ("hf_repo", repo)))
    if (model is None) == (repo is None):
        raise click.UsageError("give either -m FILE, a GGUF file, or -hf USER/REPO[:QUANT], a model of the hub")
    if model is not None:
        if file is not None and _is_typed("hf_file"):
            raise click.UsageError("-hff names a file of the hub; give its repository with -hf, or the file with -m")
        return str(model)
    from ..models import local_path  # imports huggingface_hub, which a file does not need

    return str(local_path(parse_name(str(repo), file), token=token, offline=offline))


def parse_name(repo: str, file: str | None = None) -> ModelName:
    """A model's name as typed; a wrong one is a wrong use."""
    from ..models import ModelName

    try:
        return ModelName.parse(repo, file)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _is_typed(name: str) -> bool:
    context = click.get_current_context(silent=True)
    return context is None or context.get_parameter_source(name) is ParameterSource.COMMANDLINE
