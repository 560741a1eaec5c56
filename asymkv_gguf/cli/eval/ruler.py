"""`asymkv-gguf eval ruler`: retrieval, tracking, counting and questions, at any length."""

from __future__ import annotations

from typing import Any

import click

from ...text_file import read_text_file
from .lists import LengthList, NameList
from .options import EPILOG, Evaluation, eval_options

_KINDS = click.Choice(["words", "numbers", "uuids"])


@click.command(epilog=EPILOG)
@click.option("--tasks", type=NameList(), help="Task types; default: all, qa with --questions.")
@click.option("--lengths", type=LengthList(), default="4096", show_default=True, help="Tokens, the answer's included.")
@click.option("-n", "--samples", type=click.IntRange(min=1), default=10, show_default=True, help="Of each task and length.")
@click.option("-s", "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Other texts, other questions.")
@click.option("-f", "--file", "files", metavar="FILE", multiple=True, help="Haystack instead of noise; documents of qa.")
@click.option("--questions", metavar="FILE", help="For qa: question, answers and document or context, one JSON a line.")
@click.option("--needle-keys", type=_KINDS, default="words", show_default=True, help="niah: what is asked for.")
@click.option("--needle-values", type=_KINDS, default="numbers", show_default=True, help="niah: what is the answer.")
@click.option("--needles", type=click.IntRange(min=2), default=4, show_default=True, help="niah: keys, values or queries.")
@click.option("--needle-haystack", is_flag=True, help="niah_multikey: the haystack is needles, too.")
@click.option("--chains", type=click.IntRange(min=1), default=1, show_default=True, help="variable_tracking: chains.")
@click.option("--hops", type=click.IntRange(min=1), default=4, show_default=True, help="variable_tracking: steps of a chain.")
@click.option("--alpha", type=click.FloatRange(min=1, min_open=True), default=2.0, show_default=True,
              help="frequent_words: how fast frequencies fall.")  # fmt: skip
@click.option("--chat/--no-chat", default=None, help="Prompts in the model's chat template; default: if it has one.")
@eval_options
def ruler(**options: Any) -> None:
    """RULER's task types, with generated texts.

    The score is the share of the expected strings that occur in the answer.
    """
    from ...eval.ruler.generate import TYPES
    from ...eval.ruler.needles import Kinds
    from ...eval.ruler.options import RulerOptions
    from ...eval.ruler.questions import read_documents, read_questions
    from ...eval.ruler.task import Ruler

    files, questions, tasks = options.pop("files"), options.pop("questions"), options.pop("tasks")
    if tasks is None:
        tasks = tuple(name for name in TYPES if name != "qa" or questions is not None)
    unknown = next((name for name in tasks if name not in TYPES), None)
    if unknown is not None:
        raise click.UsageError(f"RULER has no task {unknown!r}; there are {', '.join(TYPES)}")
    if "qa" in tasks and questions is None:
        raise click.UsageError("the task qa needs --questions FILE, one JSON object with question and answers a line")
    documents = read_documents(files) if "qa" in tasks else []
    settings = {name: options.pop(name) for name in ("needles", "needle_haystack", "chains", "hops", "alpha")}
    given = RulerOptions(
        text="\n".join(map(read_text_file, files)) if files else None,
        kinds=Kinds(options.pop("needle_keys"), options.pop("needle_values")),
        documents=documents,
        questions=read_questions(questions, documents) if "qa" in tasks else [],
        **settings,
    )
    lengths, n_samples, seed, chat = (options.pop(name) for name in ("lengths", "samples", "seed", "chat"))
    evaluation = Evaluation(options)
    with evaluation.vocabulary() as vocabulary:
        task = Ruler(vocabulary, tasks, lengths, n_samples, given, seed=seed, chat=chat)
    evaluation.run(task, tasks=list(tasks), lengths=list(lengths), samples=n_samples, seed=seed, chat=task.chat, **settings)
