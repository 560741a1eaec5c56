"""`asymkv-gguf eval drift`: how far distributions are from the full cache's."""

from __future__ import annotations

from typing import Any

import click

from ...text_file import read_text_file
from .options import EPILOG, Evaluation, eval_options


@click.command(epilog=EPILOG)
@click.option("-f", "--file", "file", metavar="FILE", required=True, help="The text, UTF-8.")
@click.option("--length", type=click.IntRange(min=2), default=2048, show_default=True, help="Tokens of a window.")
@click.option("--scored", type=click.IntRange(min=1), default=128, show_default=True, help="Last tokens of it, compared.")
@click.option("--stride", type=click.IntRange(min=1), help="Tokens from one window's start to the next; default: --length.")
@click.option("-n", "--samples", type=click.IntRange(min=1), default=8, show_default=True, help="Windows at most.")
@eval_options
def drift(**options: Any) -> None:
    """How far next-token distributions are from the full cache's.

    On your own text, without labels, with any model: KL divergence and agreement of the most likely token, after all but the
    last tokens of a window were read. The full cache's side is computed once, and kept in --work.
    """
    from ...eval.drift import Drift

    text = read_text_file(options.pop("file"))
    length, scored, stride, most = (options.pop(name) for name in ("length", "scored", "stride", "samples"))
    evaluation = Evaluation(options)
    with evaluation.vocabulary() as words:
        task = Drift(words, text, length=length, scored=scored, stride=stride, most=most, work=evaluation.work)
    evaluation.run(task, length=length, scored=scored, stride=stride or length)
