"""`asymkv-gguf eval ppl`: how well the next token of a text is expected."""

from __future__ import annotations

from typing import Any

import click

from ...text_file import read_text_file
from .options import EPILOG, Evaluation, eval_options


@click.command(epilog=EPILOG)
@click.option("-f", "--file", "file", metavar="FILE", required=True, help="The text, UTF-8.")
@click.option("--length", type=click.IntRange(min=2), default=2048, show_default=True, help="Tokens of a window.")
@click.option("--stride", type=click.IntRange(min=1), help="Tokens from one window's start to the next; default: --length.")
@click.option("--buckets", type=click.IntRange(min=1), default=4, show_default=True, help="Parts of a window, told apart.")
@click.option("-n", "--samples", type=click.IntRange(min=1), default=16, show_default=True, help="Windows at most.")
@eval_options
def ppl(**options: Any) -> None:
    """How well the next token of a text is expected.

    Windows of the text are read from an empty cache. What is told is the mean negative log-likelihood of a token, in nats,
    over whole windows and over parts of them.
    """
    from ...eval.ppl import Perplexity

    text = read_text_file(options.pop("file"))
    length, stride, buckets, most = (options.pop(name) for name in ("length", "stride", "buckets", "samples"))
    evaluation = Evaluation(options)
    with evaluation.vocabulary() as vocabulary:
        task = Perplexity(vocabulary, text, length=length, stride=stride, n_buckets=buckets, most=most)
    evaluation.run(task, length=length, stride=stride or length)
