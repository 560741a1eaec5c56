"""`asymkv-gguf demo`: the packaged model reads a text with the full cache and with a cache 8 times smaller."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import numpy as np

from .. import recall
from ..config import AsymKVConfig
from ..llama import Llama
from ..stats import size_text

MODEL = Path(__file__).parent.parent / "data" / "recall.gguf"

# the longest text, and so the full cache; the small one has 192 slots and 64 for the next batch, an eighth of it
N_CTX, BUDGET, CHUNK = 2048, 192, 64


@dataclass
class Outcome:
    """One cache: what it answered, and what that took."""

    accuracy: float = 0.0
    kv_bytes: int = 0
    tokens: int = 0
    slots: int = 0
    seconds: float = 0.0
    answers: list[str] = field(default_factory=list)


@click.command(context_settings={"show_default": True}, short_help="Ask the packaged model with a full and a merged cache.")
@click.option("--budget", type=int, default=BUDGET, metavar="N", help="Slots that a compression leaves.")
@click.option("--seed", type=click.IntRange(min=0), default=2, help="Another text and other questions.")
@click.option("-t", "--threads", "n_threads", type=click.IntRange(min=1), default=1, help="CPU threads; one is fast enough.")
@click.option("-ngl", "--gpu-layers", "n_gpu_layers", type=int, default=0, help="Layers on the GPU; -1: all.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def demo(budget: int, seed: int, n_threads: int, n_gpu_layers: int, as_json: bool) -> None:
    """Ask the packaged model about a text that it read with the full cache, and with a much smaller one.

    The text states who has which code; the questions ask for them. Both caches are asked from the state they were in
    after reading, and nothing is read twice.
    """
    try:
        config = AsymKVConfig(chunk=CHUNK).replace(budget=budget)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    document = recall.make_document(seed)
    full = read_and_ask(document, None, n_threads, n_gpu_layers)
    small = read_and_ask(document, config, n_threads, n_gpu_layers)
    full.kv_bytes = stock_bytes(config)
    if as_json:
        click.echo(json.dumps({"full": asdict(full), "asymkv": asdict(small)}))
    else:
        click.echo(report(document, full, small))


def read_and_ask(document: recall.Document, config: AsymKVConfig | None, n_threads: int = 1, n_gpu_layers: int = 0) -> Outcome:
    """Reads the text once, then asks every question from the state after reading."""
    llm = open_model(config, n_threads, n_gpu_layers)
    try:
        started = time.perf_counter()
        llm.eval(llm.tokenize(document.text.encode()))
        state = llm.save_state()
        outcome = Outcome(tokens=int(llm.n_tokens))
        if config is None:
            outcome.slots = int(llm.n_tokens)
        else:
            stats = llm.asymkv_stats()
            outcome.slots, outcome.kv_bytes = stats.slots, stats.kv_bytes
        for question in document.questions:
            llm.load_state(state)
            outcome.answers.append(answer_of(llm, question.prompt))
        outcome.seconds = time.perf_counter() - started
    finally:
        llm.close()
    right = sum(answer == question.answer for answer, question in zip(outcome.answers, document.questions, strict=True))
    outcome.accuracy = right / len(document.questions)
    return outcome


def open_model(config: AsymKVConfig | None, n_threads: int = 1, n_gpu_layers: int = 0) -> Llama:
    return Llama(
        str(MODEL),
        asymkv=config if config is not None else False,
        n_ctx=N_CTX,
        flash_attn=True,
        n_gpu_layers=n_gpu_layers,
        n_threads=n_threads,
        n_threads_batch=n_threads,
        verbose=False,
    )


def answer_of(llm: Llama, prompt: str) -> str:
    """The most likely next word."""
    llm.eval(llm.tokenize(prompt.encode(), add_bos=False))
    logits = np.ctypeslib.as_array(llm._ctx.get_logits_ith(-1), shape=(llm.n_vocab(),))
    answer: bytes = llm.detokenize([int(logits.argmax())])
    return answer.decode(errors="replace").strip()


def stock_bytes(config: AsymKVConfig) -> int:
    """K and V of the stock cache for the same longest text, which llama.cpp itself does not tell."""
    llm = open_model(config)
    try:
        return llm.asymkv_stats().stock_kv_bytes
    finally:
        llm.close()


def report(document: recall.Document, full: Outcome, small: Outcome) -> str:
    n = len(document.questions)
    smaller = full.kv_bytes / small.kv_bytes
    rows = [
        ("", "full cache", "asymkv"),
        ("right answers", f"{round(full.accuracy * n)} of {n}", f"{round(small.accuracy * n)} of {n}"),
        ("tokens read", f"{full.tokens:,}", f"{small.tokens:,}"),
        ("slots they take", f"{full.slots:,}", f"{small.slots:,}"),
        ("KV cache", size_text(full.kv_bytes), f"{size_text(small.kv_bytes)} ({smaller:.1f}x smaller)"),
        ("seconds", f"{full.seconds:.2f}", f"{small.seconds:.2f}"),
        ("", "", ""),
    ]
    for question, one, other in zip(document.questions, full.answers, small.answers, strict=True):
        marks = ["" if answer == question.answer else f" (it is {question.answer})" for answer in (one, other)]
        rows.append((f"{question.prompt} ...", one + marks[0], other + marks[1]))
    first = max(len(row[0]) for row in rows)
    second = max(len(row[1]) for row in rows)
    return "\n".join(f"{a:<{first}}  {b:<{second}}  {c}".rstrip() for a, b, c in rows)
