"""`asymkv-gguf eval`: what a smaller cache keeps; one file for each evaluation."""

from __future__ import annotations

import click

from .drift import drift
from .longbench import longbench
from .needle import needle
from .ppl import ppl
from .recall import recall
from .ruler import ruler

__all__ = ["eval_group"]


@click.group("eval", short_help="Measure what policies and budgets keep.")
def eval_group() -> None:
    """Measure what policies and budgets keep, against the full cache on the same texts."""


# in the order of the help; one line for each evaluation
for _command in (drift, ppl, recall, needle, ruler, longbench):
    eval_group.add_command(_command)
