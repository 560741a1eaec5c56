"""`asymkv-gguf completion`: the script that lets a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_EPILOG = """\b
bash, in ~/.bashrc:  eval "$(asymkv-gguf completion bash)"
zsh, in ~/.zshrc:    eval "$(asymkv-gguf completion zsh)"
fish:                asymkv-gguf completion fish > ~/.config/fish/completions/asymkv-gguf.fish
"""


@click.command(epilog=_EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes this command in a shell."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "asymkv-gguf", "_ASYMKV_GGUF_COMPLETE").source(), nl=False)
