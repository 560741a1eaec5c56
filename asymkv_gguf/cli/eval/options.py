"""What all evaluations have in common: the model, the columns, the output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ...llama import Llama
from ...model_file import check_model_file
from ..llama_options import take_devices
from ..model_source import take_model
from .progress import EvalProgress

if TYPE_CHECKING:
    from ...eval.columns import Column
    from ...eval.report import Report
    from ...eval.runner import Engine
    from ...eval.task import Task

F = TypeVar("F", bound=Callable[..., Any])

EPILOG = """A column is POLICY@BUDGET[:TYPE][,SETTING=VALUE...]: h2o@256 leaves 256 slots, h2o@8x takes an eighth of the memory,
h2o@8x:q8_0 stores them in q8_0, asymkv-exact@8x,score=output changes a setting. none is the full cache, none:q4_0 the same in
q4_0. With --work DIR, results are kept, and a run that was interrupted goes on. docs/eval.md says what the numbers mean."""

_OPTIONS = [
    click.option("-m", "--model", metavar="FILE", help="The GGUF file."),
    click.option("-hf", "--hf-repo", metavar="USER/REPO[:QUANT]", help="Instead: a model of the hub; QUANT: Q4_K_M."),
    click.option("-hff", "--hf-file", metavar="FILE", help="With -hf: the GGUF file, instead of QUANT."),
    click.option("-hft", "--hf-token", metavar="TOKEN", help="With -hf: access token; HF_TOKEN."),
    click.option("--offline", is_flag=True, help="With -hf: only what is in the cache."),
    click.option("--columns", metavar="COLUMN,...", help="What is compared, instead of every policy at --budgets."),
    click.option("--budgets", metavar="N|Nx,...", default="8x,4x", show_default=True, help="Budgets of the default columns."),
    click.option("--work", metavar="DIR", type=click.Path(), help="Keep results here, and go on with those that are there."),
    click.option("-b", "--batch-size", "n_batch", type=click.IntRange(min=1), help="Tokens read at once; the most that fits."),
    click.option("-ub", "--ubatch-size", "n_ubatch", type=click.IntRange(min=1), help="Tokens computed at once."),
    click.option("-t", "--threads", "n_threads", type=click.IntRange(1, 512), help="CPU threads."),
    click.option("-ngl", "--gpu-layers", "n_gpu_layers", type=int, help="Layers on the GPU; -1: all, as with --rpc."),
    click.option("--rpc", "rpc_servers", metavar="HOST:PORT,...", help="RPC workers that compute layers, see rpc-worker."),
    click.option("--json", "output", flag_value="json", help="Print one JSON object."),
    click.option("--csv", "output", flag_value="csv", help="Print CSV."),
    click.option("--md", "output", flag_value="md", default=True, help="Print a Markdown table."),
    click.option("--plot", "plot_file", metavar="FILE.png", help="Draw quality against bytes, too."),
    click.option("-v", "--verbose", is_flag=True, help="llama.cpp's own log on stderr."),
]  # fmt: skip


def eval_options(function: F) -> F:
    """What `Evaluation` takes."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def chat_option(function: F) -> F:
    """How questions are asked; None: as the model wants it."""
    return click.option("--chat/--no-chat", default=None, help="Ask in the chat template, or let a sentence be gone on with.")(
        function
    )


class Evaluation:
    """Takes the options above, checks them before anything is measured, then measures and prints."""

    def __init__(self, options: dict[str, Any], default_model: Path | None = None) -> None:
        from ...eval.columns import default_columns, parse_columns
        from ...eval.runner import Engine

        self.output: str = options.pop("output")
        plot_file = options.pop("plot_file")
        self.plot_file = Path(plot_file) if plot_file is not None else None
        if self.plot_file is not None:
            check_plot_file(self.plot_file, "--plot")
        columns, budgets = options.pop("columns"), options.pop("budgets")
        try:
            self.columns: tuple[Column, ...] = parse_columns(columns) if columns is not None else default_columns(budgets)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        work = options.pop("work")
        self.work = Path(work).expanduser() if work is not None else None
        if default_model is not None and options["model"] is None and options["hf_repo"] is None:
            options["model"] = str(default_model)
        model = take_model(options)
        check_model_file(model)
        n_threads = options.pop("n_threads")
        threads = {"n_threads": n_threads, "n_threads_batch": n_threads} if n_threads is not None else {}
        arguments = {**take_devices(options), **threads, "verbose": options.pop("verbose")}
        self._n_ctx_train = 0  # unknown
        self.engine: Engine = Engine(model, options.pop("n_batch"), options.pop("n_ubatch"), arguments)

    @contextmanager
    def vocabulary(self) -> Iterator[Llama]:
        """The model without weights, to make a task with."""
        from ...preview import vocabulary

        llm = vocabulary(self.engine.model)
        arch = llm.metadata.get("general.architecture")
        self._n_ctx_train = int(llm.metadata.get(f"{arch}.context_length", 0))
        try:
            yield llm
        finally:
            llm.close()

    def run(self, task: Task[Any], **settings: Any) -> Report:
        """Measures, and prints the report; `settings` are what it says about how the task was made."""
        from ...eval.report import Report
        from ...eval.results import Results
        from ...eval.runner import run

        results = Results(self.work)
        with EvalProgress(task.name) as progress:
            longest = max((sample.n_tokens for sample in task.samples()), default=0)
            if 0 < self._n_ctx_train < longest:
                progress.note(
                    f"texts of {longest:,} tokens are longer than the {self._n_ctx_train:,} that the model is trained for"
                )
            try:
                outcome = run(task, self.columns, self.engine, results, progress)
            except BaseException:
                if self.work is not None:
                    progress.note(f"what was measured is kept in {self.work}; the same command goes on")
                raise
        report = Report(task.name, task.metrics, self.columns, outcome, {"model": self.engine.model, **settings})
        if self.plot_file is not None:
            from ...eval.plot import plot_frontier

            plot_frontier(report, f"{task.name}, {Path(self.engine.model).name}", self.plot_file)
        click.echo({"json": report.json, "csv": report.csv, "md": report.text}[self.output]())
        return report


def check_plot_file(path: Path, flag: str) -> None:
    """Before anything is measured: it could be drawn, and written."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise click.ClickException(f'{error.name} is not installed; run: pip install "asymkv-gguf[plot]"') from error
    if path.suffix.lower() != ".png":
        raise click.UsageError(f"the plot is a PNG, so {flag} {path} should end in .png")
    if not path.absolute().parent.is_dir():
        raise click.UsageError(f"there is no directory {path.absolute().parent} for {flag}; make it first")
