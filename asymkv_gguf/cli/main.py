"""The command group, and how a command ends: 0 done, 1 failed, 2 used wrongly, 130 interrupted.

Model text, or one JSON object, goes to stdout; everything else to stderr. Every option can also be set by an environment
variable: ASYMKV_RUN_THREADS=8 is `asymkv-gguf run --threads 8`.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

import click

from .. import __version__
from .bench import bench
from .chat import chat
from .completion import completion
from .demo import demo
from .doctor import doctor
from .download import download
from .eval import eval_group
from .inspect import inspect
from .list import list_models
from .rm import rm
from .rpc_worker import rpc_worker
from .run import run
from .serve import serve

OK, FAILED, INTERRUPTED = 0, 1, 130


_EPILOG = """\b
asymkv-gguf demo                                what this is about, in a second
asymkv-gguf -m model.gguf                       chat with a model
asymkv-gguf -hf user/repo                       chat with a model of the Hugging Face hub
asymkv-gguf run -m model.gguf -f book.txt -p "In short:"
"""


class _Commands(click.Group):
    """Without a command's name, options are those of `chat`; without anything, the help is shown."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [command.name or "" for command in COMMANDS]

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and args[0].lower().endswith(".gguf"):
            ctx.fail(f"{args[0]} is no command; a model is given with -m {args[0]}")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {flag for parameter in self.get_params(ctx) for flag in parameter.opts}
        if not args:
            args = ["--help"]
        elif args[0].startswith("-") and args[0] not in own:
            args = [chat.name or "", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_Commands, epilog=_EPILOG, context_settings={"auto_envvar_prefix": "ASYMKV", "help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="asymkv-gguf")
def cli() -> None:
    """Long texts through GGUF models in a KV cache of fixed size, whose old slots are merged (AsymKV)."""


# in the order of the help; one line for each command
COMMANDS = [
    chat,
    run,
    serve,
    download,
    list_models,
    rm,
    demo,
    bench,
    inspect,
    eval_group,
    rpc_worker,
    doctor,
    completion,
]


def _name_variables(command: click.Command, names: str) -> None:
    """Environment variables of a command's options, and of those of its sub-commands: ASYMKV_EVAL_PPL_LENGTH."""
    for parameter in command.params:
        # named as the flag is, which people know, not as the Python parameter
        flag = max(parameter.opts, key=len)
        parameter.envvar = f"{names}_{flag.lstrip('-')}".upper().replace("-", "_")
        if parameter.type is click.STRING and parameter.metavar == "FILE":
            parameter.type = click.Path(readable=False)  # a shell completes it; whether it can be read is checked later
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            _name_variables(child, f"{names}_{name}")


for command in COMMANDS:
    _name_variables(command, f"ASYMKV_{command.name}")
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    _open_closed_streams()
    try:
        result = cli.main(
            arguments, prog_name="asymkv-gguf", standalone_mode=False, color=False if os.environ.get("NO_COLOR") else None
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has left; that is its right
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        click.echo(f"asymkv-gguf: {_sentence(error)}", err=True)
        return FAILED
    return result if isinstance(result, int) else OK


def _sentence(error: Exception) -> str:
    """The system's own errors come with a number, which is of no use here."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error) or type(error).__name__
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if error.errno == errno.ENOSPC:
        return f"the output is not complete: {error.strerror}; make room, and run the command again"
    return error.strerror


def _open_closed_streams() -> None:
    """A stream that was closed for us (`>&-`) is as good as the null device; no file may get its number by chance."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
