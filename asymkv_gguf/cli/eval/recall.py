"""`asymkv-gguf eval recall`: which facts of a text can still be told."""

from __future__ import annotations

from typing import Any

import click

from ...text_file import read_text_file
from ..demo import MODEL
from .options import EPILOG, Evaluation, chat_option, eval_options


@click.command(epilog=EPILOG)
@click.option("--plain", is_flag=True, help="Right is an answer that has the word in it.")
@click.option("-f", "--file", "file", metavar="FILE", help="With --plain: hide the facts in this text, UTF-8.")
@click.option("--length", type=click.IntRange(min=256), default=2048, show_default=True, help="Tokens, question included.")
@click.option("--facts", type=click.IntRange(1, 100), default=10, show_default=True, help="Facts in each text.")
@click.option("-n", "--samples", type=click.IntRange(min=1), default=8, show_default=True, help="Texts.")
@chat_option
@eval_options
def recall(**options: Any) -> None:
    """Which facts of a text can still be told after reading it.

    Without -m, the packaged model reads texts of the kind that it was trained for, and goes on with "The code of Anna Reed
    is". With --plain, a model with a chat template is asked in it, and has to write the answer.
    """
    from ...eval.recall_task import RecallInOwnLanguage, RecallInPlainEnglish

    plain, file = options.pop("plain"), options.pop("file")
    length, n_facts, n_documents = (options.pop(name) for name in ("length", "facts", "samples"))
    chat: bool | None = options.pop("chat")
    if not plain and (file is not None or chat is not None):
        raise click.UsageError(f"{'-f' if file is not None else '--chat'} belongs to --plain; add --plain, or leave it out")
    text = read_text_file(file) if file is not None else None
    evaluation = Evaluation(options, default_model=MODEL)
    sizes = {"length": length, "n_facts": n_facts, "n_documents": n_documents}
    with evaluation.vocabulary() as words:
        task = RecallInPlainEnglish(words, text=text, chat=chat, **sizes) if plain else RecallInOwnLanguage(words, **sizes)
    evaluation.run(task, **sizes)
