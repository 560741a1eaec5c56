"""`asymkv-gguf inspect`: the motivation for merging, with any model and any text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..llama import Llama
from ..preview import bytes_per_slot
from .asymkv_options import asymkv_options
from .budget import Budget
from .llama_options import llama_options, take_llama_arguments
from .plot_file import check_plot_file
from .progress import Reading
from .text_source import read_text

_OBSERVE = 64  # more queries than a compression needs: they are the sample

_EPILOG = """attention: Spearman correlation of the ranks that two slots have among a query's slots. response: of the ranks
that queries have at the two slots. keys, values: cosine; keys at one position. sigma: standard deviation over queries of the
two slots' logits' difference; merging is expected to beat evicting below about 0.9. alone, merged, lost: tokens after the
compression. random: pairs of slots that are not adjacent."""


@click.command(
    epilog=_EPILOG, context_settings={"show_default": True}, short_help="Measure how alike adjacent keys and values are."
)
@click.argument("model_file", metavar="[MODEL]", required=False)
@llama_options
@click.option("-f", "--file", "file", metavar="FILE", help="Read the text from a file.")
@click.option("-p", "--prompt", metavar="PROMPT", help="The text, or what follows the file's text.")
@click.option("--length", type=click.IntRange(min=1), default=1024, metavar="N", help="First tokens of the text, at most.")
@asymkv_options
@click.option("--random-seed", type=click.IntRange(min=0), default=0, metavar="N", help="Of the random pairs.")
@click.option("--json", "output", flag_value="json", help="Print one JSON object, with every KV head and its slots.")
@click.option("--csv", "output", flag_value="csv", help="Print CSV, one line for each KV head.")
@click.option("--table", "output", flag_value="table", default=True, help="Print a table, one line for each layer.")
@click.option("--plot", "plot_file", metavar="FILE.png", help="Draw likeness, sigma and a map of cardinalities, too.")
def inspect(**options: Any) -> None:
    """How alike adjacent keys and values are, and what a compression makes of them.

    MODEL is a GGUF file, as with -m. The text is read into a cache that holds all of it; adjacent slots are compared, and slots
    paired at random. Then the cache is compressed in one step to --asymkv-budget slots (default: an eighth of the text).
    """
    output, plot_file, length, seed = (options.pop(name) for name in ("output", "plot_file", "length", "random_seed"))
    if plot_file is not None:
        check_plot_file(Path(plot_file))
    _take_model_file(options)
    if not options["asymkv"] or options["policy"] == "none":
        raise click.UsageError("a stock cache has nothing to inspect; leave out --no-asymkv and --asymkv-policy none")
    text = read_text(options.pop("file"), options.pop("prompt"))
    llm, budget = _open(options, length)
    try:
        from ..inspection.measure import inspect as measure

        tokens = llm.tokenize(text.encode(), special=True)[:length]
        with Reading(llm):
            report = measure(llm, tokens, budget, seed)
        report.model = Path(llm.model_path).name
    finally:
        llm.close()
    if plot_file is not None:
        from ..inspection.plots import plot

        plot(report, Path(plot_file))
    click.echo({"json": report.json, "csv": report.csv, "table": report.table}[output]())


def _take_model_file(options: dict[str, Any]) -> None:
    """MODEL in the place of -m."""
    model_file = options.pop("model_file")
    if model_file is None:
        return
    source = click.get_current_context().get_parameter_source
    if any(source(name) is ParameterSource.COMMANDLINE for name in ("model", "hf_repo")):
        raise click.UsageError(f"{model_file} and -m or -hf are 2 models; give one of them")
    options["model"], options["hf_repo"] = model_file, None


def _open(options: dict[str, Any], length: int) -> tuple[Llama, int | None]:
    """The model with a cache for `length` tokens, and the slots that are to be left."""
    from ..inspection.measure import reading_config

    budget, has_observe = options.pop("budget") or Budget(), options["observe"] is not None
    arguments = take_llama_arguments({**options, "budget": None})
    config = arguments["asymkv"]
    if not has_observe:
        config = config.replace(observe=max(config.observe, min(_OBSERVE, config.recent)))
    n_keep = budget.slots
    if budget.n_bytes is not None:
        cache = {name: arguments[name] for name in ("flash_attn", "type_k", "type_v")}
        n_keep = budget.n_bytes // bytes_per_slot(arguments["model_path"], **cache)
    arguments["asymkv"] = reading_config(config, length, arguments.get("n_batch", 1))
    return Llama(**arguments), n_keep
