"""`asymkv-gguf bench`: speed and memory at several depths, stock llama.cpp and the merged cache side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..cache_types import KV_TYPES
from ..model_file import check_model_file
from .asymkv_options import asymkv_options, take_config
from .budget import config_for_bytes
from .model_source import take_model
from .plot_file import check_plot_file, missing_extra

if TYPE_CHECKING:
    from ..bench.measure import Plan
    from ..bench.report import Report

_EPILOG = """Modes: stock is llama-cpp-python's own libllama, off is ours without merging, on merges. They take turns, each in
a process of its own. A depth is read in batches, and the last -p tokens before it are what prefill t/s says; then -n tokens
are decoded -r times (median, min..max). Deep texts take stock long: with --sample N, stock and off read one window in N,
the cache is filled with copies in between, and the time of what was left out is interpolated."""


class NumberList(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """`0,8192,32768`."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = {int(part) for part in str(value).split(",")}
        except ValueError:
            numbers = {-1}
        if min(numbers) < 0:
            self.fail(f"{value!r} is no list of depths such as 0,8192,32768", param, ctx)
        return tuple(sorted(numbers))


class ModeList(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """`stock,off,on`, or some of them."""

    name = "MODE,..."
    known = ("stock", "off", "on")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        given = [part.strip() for part in str(value).split(",")]
        for mode in given:
            if mode not in self.known:
                self.fail(f"unknown mode {mode!r}; there are {', '.join(self.known)}", param, ctx)
        return tuple(mode for mode in self.known if mode in given)


@click.command(epilog=_EPILOG, context_settings={"show_default": True})
@click.option("-m", "--model", metavar="FILE", help="The GGUF file.")
@click.option("-hf", "--hf-repo", metavar="USER/REPO[:QUANT]", help="Instead: a model of the hub; QUANT: Q4_K_M.")
@click.option("--dummy", metavar="SIZE", help="Instead: random weights, shaped as Llama 1B, 3B or 8B in Q4_0.")
@click.option("--dummy-dir", metavar="DIR", help="Where dummies are kept; default: this user's cache.")
@click.option("--modes", type=ModeList(), default="stock,off,on", help="What is compared.")
@click.option("-p", "--n-prompt", type=click.IntRange(min=0), default=512, help="Tokens of a prefill measurement.")
@click.option("-n", "--n-gen", type=click.IntRange(min=1), default=32, help="Tokens of a decode measurement.")
@click.option("-d", "--n-depth", type=NumberList(), default="0,2560,8192", help="Tokens that are there before.")
@click.option("-r", "--repetitions", type=click.IntRange(min=1), default=3, help="Of each measurement.")
@click.option("--sample", type=click.IntRange(min=1), default=1, metavar="N", help="stock and off read 1 in N windows of -p.")
@click.option("-b", "--batch-size", "n_batch", type=click.IntRange(min=1), help="Tokens read at once.")
@click.option("-ub", "--ubatch-size", "n_ubatch", type=click.IntRange(min=1), help="Tokens computed at once.")
@click.option("-t", "--threads", "n_threads", type=click.IntRange(1, 512), help="CPU threads; default: cores.")
@click.option("-ngl", "--n-gpu-layers", type=int, default=0, help="Layers on the GPU; -1: all.")
@click.option("-fa", "--flash-attn", type=click.Choice(["on", "off", "auto"]), default="auto", help="Flash attention.")
@click.option("-ctk", "--cache-type-k", "type_k", type=click.Choice(list(KV_TYPES)), default="f16", help="Keys.")
@click.option("-ctv", "--cache-type-v", "type_v", type=click.Choice(list(KV_TYPES)), default="f16", help="Values.")
@asymkv_options
@click.option("--bandwidth", type=click.FloatRange(min=0, min_open=True), metavar="GB/S", help="Instead of measuring it.")
@click.option("--json", "output", flag_value="json", help="Print one JSON object.")
@click.option("--csv", "output", flag_value="csv", help="Print CSV.")
@click.option("--md", "output", flag_value="md", default=True, help="Print Markdown tables.")
@click.option("--plot", "plot_file", metavar="FILE.png", help="Draw decode speed and memory against depth, too.")
def bench(**options: Any) -> None:
    """Measure prefill, decode and memory at several depths.

    Stock llama.cpp, this library without merging, and the merged cache take turns in one run.
    """
    output, plot_file = options.pop("output"), options.pop("plot_file")
    if plot_file is not None:
        check_plot_file(Path(plot_file))
    try:
        from ..bench.measure import measure
        from ..bench.report import Report
    except ImportError as error:
        raise missing_extra(error, "bench") from error
    plan = _take_plan(options)
    report = Report(_settings(plan))
    with _Progress() as progress:
        try:
            measure(plan, progress, report)
        except BaseException:
            if report.rows:
                progress.close()
                click.echo("asymkv-gguf: not all was measured; these are the rows until then", err=True)
                _print(report, output)
            raise
    if plot_file is not None:
        from ..bench.plot import plot

        plot(report.as_dict()["rows"], report.heading(), Path(plot_file))
    _print(report, output)


def _print(report: Report, output: str) -> None:
    click.echo({"json": report.json, "csv": report.csv, "md": report.markdown}[output]())


def _take_plan(options: dict[str, Any]) -> Plan:
    import psutil

    from ..bench.measure import Plan

    model, modes = _take_model(options), options.pop("modes")
    if not options["asymkv"]:
        raise click.UsageError("--no-asymkv is said with --modes stock,off here")
    config, budget = take_config(options)
    assert config is not None
    types = {name: KV_TYPES[options.pop(name)] for name in ("type_k", "type_v")}
    flash_attn = options.pop("flash_attn") != "off"
    n_batch = options.pop("n_batch")
    if budget.n_bytes is not None:
        config = config_for_bytes(config, budget.n_bytes, str(model), n_batch, flash_attn=flash_attn, **types)
    n_batch = n_batch or config.default_batch()
    if "on" in modes:
        try:
            config.check_batch(n_batch)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    n_threads = options.pop("n_threads") or psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    bandwidth = options.pop("bandwidth")
    return Plan(
        model=model,
        modes=modes,
        depths=options.pop("n_depth"),
        n_prompt=options.pop("n_prompt"),
        n_decode=options.pop("n_gen"),
        repetitions=options.pop("repetitions"),
        config=config,
        arguments={
            "n_batch": n_batch,
            "n_ubatch": min(options.pop("n_ubatch") or 512, n_batch),
            "n_threads": n_threads,
            "n_threads_batch": n_threads,
            "n_gpu_layers": options.pop("n_gpu_layers"),
            "flash_attn": flash_attn,
            "swa_full": False,  # as llama-bench has it
            **types,
        },
        bandwidth=bandwidth * 1e9 if bandwidth is not None else None,
        sample=options.pop("sample"),
    )


def _take_model(options: dict[str, Any]) -> Path:
    model, repo, dummy, directory = (options.pop(name) for name in ("model", "hf_repo", "dummy", "dummy_dir"))
    given = [flag for flag, value in (("-m", model), ("-hf", repo), ("--dummy", dummy)) if value is not None]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} are {len(given)} models; give one of them")
    if not given:
        raise click.UsageError("there is no model; give -m FILE, or --dummy 1B for random weights")
    if dummy is None:
        model = take_model({"model": model, "hf_repo": repo, "hf_file": None, "hf_token": None, "offline": False})
        check_model_file(model)
        return Path(model)
    from ..bench.dummy import SHAPES, dummy_model

    if dummy not in SHAPES:
        raise click.UsageError(f"unknown dummy {dummy!r}; there are {', '.join(SHAPES)}")
    if directory is None:
        import platformdirs

        directory = platformdirs.user_cache_path("asymkv-gguf") / "dummies"
    return dummy_model(dummy, Path(directory))


def _settings(plan: Plan) -> dict[str, Any]:
    """What the report says about how it was made."""
    names = {number: name for name, number in KV_TYPES.items()}
    arguments = plan.arguments
    return {
        "model": str(plan.model),
        "modes": list(plan.modes),
        "depths": list(plan.depths),
        "prompt": plan.n_prompt,
        "decode": plan.n_decode,
        "repetitions": plan.repetitions,
        "sample": plan.sample,
        "n_ctx": plan.n_ctx,
        "batch": arguments["n_batch"],
        "ubatch": arguments["n_ubatch"],
        "threads": arguments["n_threads"],
        "gpu_layers": arguments["n_gpu_layers"],
        "flash_attn": arguments["flash_attn"],
        "type_k": names[arguments["type_k"]],
        "type_v": names[arguments["type_v"]],
        "asymkv": plan.config.as_dict(),
    }


class _Progress:
    """On a terminal a bar over the tokens that are read; elsewhere a line for each new thing that is measured."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._what = ""

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, what: str, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            if what != self._what:
                click.echo(f"bench: {what}", err=True)
        elif total:
            if self._bar is None:
                self._bar = click.progressbar(length=total, file=sys.stderr, show_pos=True)
                self._bar.__enter__()
            self._bar.label = what
            self._bar.update(done - self._bar.pos)
        else:
            self.close()
            click.echo(f"\r\x1b[Kbench: {what}", nl=False, err=True)
        self._what = what

    def close(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None
        elif self._what and sys.stderr.isatty():
            click.echo("\r\x1b[K", nl=False, err=True)
        self._what = ""
