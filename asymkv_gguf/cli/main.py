"""The command group, and how a command ends: 0 done, 1 failed, 2 used wrongly, 130 interrupted.

Model text, or one JSON object, goes to stdout; everything else to stderr. Every option can also be set by an environment
variable: ASYMKV_RUN_THREADS=8 is `asymkv-gguf run --threads 8`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from .. import __version__
from .demo import demo
from .run import run

OK, FAILED, INTERRUPTED = 0, 1, 130


@click.group(context_settings={"auto_envvar_prefix": "ASYMKV", "help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="asymkv-gguf")
def cli() -> None:
    """Long texts through GGUF models in a KV cache of fixed size, whose old slots are merged (AsymKV)."""


for command in (run, demo):
    for parameter in command.params:
        # named as the flag is, which people know, not as the Python parameter
        flag = max(parameter.opts, key=len)
        parameter.envvar = f"ASYMKV_{command.name}_{flag.lstrip('-')}".upper().replace("-", "_")
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    try:
        result = cli.main(arguments, prog_name="asymkv-gguf", standalone_mode=False)
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
        click.echo(f"asymkv-gguf: {error or type(error).__name__}", err=True)
        return FAILED
    return result if isinstance(result, int) else OK
