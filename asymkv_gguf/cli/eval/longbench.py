"""`asymkv-gguf eval longbench`: LongBench's questions with LongBench's metrics."""

from __future__ import annotations

from typing import Any

import click

from .lists import NameList
from .options import EPILOG, Evaluation, eval_options


@click.command(epilog=EPILOG)
@click.option("--data", metavar="DIR", help="LongBench's .jsonl files, or data.zip; default: from the hub.")
@click.option("--prompts", metavar="FILE", help="LongBench's dataset2prompt.json; default: the one in DIR.")
@click.option("--max-lengths", metavar="FILE", help="LongBench's dataset2maxlen.json; default: the one in DIR.")
@click.option("--tasks", type=NameList(), help="Such as hotpotqa, or hotpotqa_e of LongBench-E; default: all of LongBench.")
@click.option("-n", "--samples", type=click.IntRange(min=1), help="The first of each task; default: all.")
@click.option("-c", "--ctx-size", "n_ctx", type=click.IntRange(0, 2**31 - 256), default=0, show_default=True,
              help="Longer prompts lose their middle; 0: what the model was trained for.")  # fmt: skip
@eval_options
def longbench(**options: Any) -> None:
    """LongBench's 21 tasks, and its metrics."""
    from ...eval.longbench.formats import read_max_lengths, read_prompts
    from ...eval.longbench.source import MAX_LENGTHS, PROMPTS, Source
    from ...eval.longbench.task import LongBench
    from ...eval.longbench.tasks import check_jieba, kind_of
    from ...eval.prompts import trained_context

    data, prompts_file, lengths_file = (options.pop(name) for name in ("data", "prompts", "max_lengths"))
    tasks, n_samples, n_ctx = (options.pop(name) for name in ("tasks", "samples", "n_ctx"))
    token, offline = options["hf_token"], options["offline"]
    try:
        for name in tasks or ():
            kind_of(name)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if data is None:
        for flag, file, name in (("--prompts", prompts_file, PROMPTS), ("--max-lengths", lengths_file, MAX_LENGTHS)):
            if file is None:
                raise click.UsageError(f"give {flag} FILE, LongBench's config/{name}, or --data DIR with all of its files")
        from ...eval.longbench.hub import archive

        source = Source(archive(token, offline))
    else:
        source = Source(data)
    if tasks is None:
        tasks = tuple(name for name in source.tasks if not name.endswith("_e"))
    source.check(tasks)
    check_jieba(tasks)
    prompts = read_prompts(prompts_file, source, tasks)
    max_lengths = read_max_lengths(lengths_file, source, tasks)
    evaluation = Evaluation(options)
    with evaluation.vocabulary() as vocabulary:
        n_ctx = n_ctx or trained_context(vocabulary)
        task = LongBench(vocabulary, source, tasks, prompts, max_lengths, n_ctx=n_ctx, n_samples=n_samples)
    for name, n in task.truncated.items():
        click.echo(
            f"eval longbench: {n:,} of {task.n_samples(name):,} prompts of {name} lost their middle (-c {n_ctx})", err=True
        )
    evaluation.run(task, tasks=list(tasks), samples=n_samples, n_ctx=n_ctx, truncated=task.truncated)
