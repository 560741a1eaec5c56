"""`asymkv-gguf eval needle`: whether one fact is found, by length and depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ...text_file import read_text_file
from .options import EPILOG, Evaluation, chat_option, check_plot_file, eval_options


class Numbers(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """`0,25,50`, between two bounds."""

    name = "N,N,..."

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = sorted({int(part) for part in str(value).split(",")})
        except ValueError:
            numbers = []
        if not numbers or not self.least <= numbers[0] <= numbers[-1] <= self.most:
            self.fail(f"{value!r} is no list of numbers between {self.least} and {self.most:,} such as 0,25,50", param, ctx)
        return tuple(numbers)


@click.command(epilog=EPILOG)
@click.option("-f", "--file", "file", metavar="FILE", help="The haystack, UTF-8; default: English small talk.")
@click.option("--lengths", type=Numbers(128, 1 << 24), default="2048,4096", show_default=True, help="Tokens, all included.")
@click.option("--depths", type=Numbers(0, 100), default="0,25,50,75,100", show_default=True, help="Per cent of the text.")
@click.option("--keys", type=click.IntRange(1, 100), default=1, show_default=True, help="Needles; one is asked for.")
@click.option("-r", "--repeats", type=click.IntRange(min=1), default=2, show_default=True, help="Texts in a place of the grid.")
@click.option("--heat-map", "heat_map", metavar="FILE.png", help="Draw depth x length for each column, too.")
@chat_option
@eval_options
def needle(**options: Any) -> None:
    """Whether a fact is found, by text length and depth.

    Models with a chat template are asked in it; others go on with "The code of Anna Reed is". The question comes after the
    text was read.
    """
    from ...eval.needle import Needle

    file, lengths, depths = (options.pop(name) for name in ("file", "lengths", "depths"))
    n_keys, n_repeats, heat_map = (options.pop(name) for name in ("keys", "repeats", "heat_map"))
    chat: bool | None = options.pop("chat")
    if heat_map is not None:
        check_plot_file(Path(heat_map), "--heat-map")
    text = read_text_file(file) if file is not None else None
    evaluation = Evaluation(options)
    shares = [depth / 100 for depth in depths]
    with evaluation.vocabulary() as words:
        task = Needle(words, lengths=lengths, depths=shares, n_keys=n_keys, n_repeats=n_repeats, text=text, chat=chat)
    report = evaluation.run(task, lengths=lengths, depths=depths, n_keys=n_keys, n_repeats=n_repeats)
    if heat_map is not None:
        from ...eval.plot import plot_heat_maps

        plot_heat_maps(report, task, Path(heat_map))
