"""`asymkv-gguf run`: one text through a model."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import llama_cpp

from ..llama import Llama
from .asymkv_options import asymkv_options, take_config
from .budget import config_for_bytes
from .progress import Reading

_KV_TYPES = {
    "f32": llama_cpp.GGML_TYPE_F32,
    "f16": llama_cpp.GGML_TYPE_F16,
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
    "q5_1": llama_cpp.GGML_TYPE_Q5_1,
    "q5_0": llama_cpp.GGML_TYPE_Q5_0,
    "iq4_nl": llama_cpp.GGML_TYPE_IQ4_NL,
    "q4_1": llama_cpp.GGML_TYPE_Q4_1,
    "q4_0": llama_cpp.GGML_TYPE_Q4_0,
}  # of those that llama.cpp takes: bf16 has no number in llama_cpp's Python

_EPILOG = "FILE's text comes first, then PROMPT. Without both, the text is read from a pipe. -f - is the pipe, too."


@click.command(epilog=_EPILOG, context_settings={"show_default": True})
@click.option("-m", "--model", required=True, metavar="FILE", help="The GGUF file.")
@click.option("-f", "--file", "file", metavar="FILE", help="Read the text from a file.")
@click.option("-p", "--prompt", metavar="PROMPT", help="The text, or what follows the file's text.")
@click.option("-sys", "--system-prompt", "system", metavar="PROMPT", help="With -st: the system prompt.")
@click.option("-st", "--single-turn", is_flag=True, help="One turn of a chat, in the model's own chat template.")
@click.option("-n", "--predict", "n_predict", type=click.IntRange(min=-1), default=-1, help="Tokens to write; -1: no limit.")
@click.option("-c", "--ctx-size", "n_ctx", type=click.IntRange(0, 2**31 - 256), default=0, help="Longest text; 0: as trained.")
@click.option("-b", "--batch-size", "n_batch", type=click.IntRange(min=1), help="Tokens read at once.")
@click.option("-ub", "--ubatch-size", "n_ubatch", type=click.IntRange(min=1), help="Tokens computed at once.")
@click.option("-t", "--threads", "n_threads", type=click.IntRange(1, 512), help="CPU threads.")
@click.option("-tb", "--threads-batch", "n_threads_batch", type=click.IntRange(1, 512), help="While reading; as -t.")
@click.option("-ngl", "--gpu-layers", "n_gpu_layers", type=int, default=0, help="Layers on the GPU; -1: all.")
@click.option("-fa", "--flash-attn", type=click.Choice(["on", "off", "auto"]), default="auto", help="Flash attention.")
@click.option("-ctk", "--cache-type-k", "type_k", type=click.Choice(list(_KV_TYPES)), default="f16", help="Keys.")
@click.option("-ctv", "--cache-type-v", "type_v", type=click.Choice(list(_KV_TYPES)), default="f16", help="Values.")
@click.option("--temp", "temperature", type=click.FloatRange(min=0), default=0.8, help="Temperature; 0: greedy.")
@click.option("--top-k", type=click.IntRange(min=0), default=40, help="Most likely tokens considered; 0: all.")
@click.option("--top-p", type=click.FloatRange(0, 1), default=0.95, help="Probability mass considered.")
@click.option("--min-p", type=click.FloatRange(0, 1), default=0.05, help="Least probability, relative to the best.")
@click.option("-s", "--seed", type=int, default=-1, help="Seed; -1: random.")
@asymkv_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the text.")
@click.option("-v", "--verbose", is_flag=True, help="llama.cpp's own log on stderr.")
def run(**options: Any) -> None:
    """Read a text and write what follows.

    The cache keeps --asymkv-budget slots, however long the text is.
    """
    config, budget = take_config(options)
    n_batch = options.pop("n_batch")
    if config is not None and n_batch is not None and budget.n_bytes is None:
        try:
            config.check_batch(n_batch)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    text = read_text(options.pop("file"), options.pop("prompt"))
    types = {name: _KV_TYPES[options.pop(name)] for name in ("type_k", "type_v")}
    flash_attn = options.pop("flash_attn") != "off"
    if config is not None and budget.n_bytes is not None:
        config = config_for_bytes(config, budget.n_bytes, options["model"], flash_attn=flash_attn, **types)

    given = {"n_batch": n_batch, **{name: options.pop(name) for name in ("n_ubatch", "n_threads", "n_threads_batch")}}
    given["n_threads_batch"] = given["n_threads_batch"] or given["n_threads"]
    started = time.perf_counter()
    llm = Llama(
        options.pop("model"),
        asymkv=config if config is not None else False,
        n_ctx=options.pop("n_ctx"),
        n_gpu_layers=options.pop("n_gpu_layers"),
        flash_attn=flash_attn,
        verbose=options.pop("verbose"),
        **types,
        **{name: value for name, value in given.items() if value is not None},
    )
    load_seconds = time.perf_counter() - started
    as_json = options.pop("as_json")
    try:
        with Reading(llm) as reading:
            started = time.perf_counter()
            answer, finish_reason = "", None
            for piece, reason in _pieces(llm, text, options):
                finish_reason = reason or finish_reason
                answer += piece
                if not as_json:
                    sys.stdout.write(piece)
                    sys.stdout.flush()
            total_seconds = time.perf_counter() - started
        stats = llm.asymkv_stats() if config is not None else None
        if as_json:
            # the token that ends an answer at its longest was sampled, but not read again
            n_written = int(llm.n_tokens) - reading.n_tokens + (finish_reason == "length")
            report = {
                "text": answer,
                "usage": {
                    "prompt_tokens": reading.n_tokens,
                    "completion_tokens": n_written,
                    "total_tokens": reading.n_tokens + n_written,
                },
                "finish_reason": finish_reason,
                "timings": {
                    "load_seconds": load_seconds,
                    "prompt_seconds": reading.seconds,
                    "predict_seconds": max(total_seconds - reading.seconds, 0.0),
                },
                "asymkv": stats.as_dict() if stats is not None else None,
            }
            click.echo(json.dumps(report, ensure_ascii=False))
        elif not answer.endswith("\n"):
            sys.stdout.write("\n")
        if stats is not None:
            click.echo(f"asymkv: {stats.notice()}", err=True)
    finally:
        llm.close()


def _pieces(llm: Llama, text: str, options: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Reads `text` and yields what the model writes, as it comes; at the end with the reason why it ended."""
    for chunk in _stream(llm, text, options):
        choice = chunk["choices"][0]
        piece = choice["text"] if "text" in choice else choice["delta"].get("content")
        yield piece or "", choice["finish_reason"]


def _stream(llm: Llama, text: str, options: dict[str, Any]) -> Iterator[Any]:
    n_predict = options.pop("n_predict")
    system, single_turn = options.pop("system"), options.pop("single_turn")
    if n_predict == 0:  # read only; llama_cpp would take 0 for "no limit"
        if single_turn:
            raise click.UsageError("-n 0 writes nothing, so there is no turn to take; leave out -st, or give -n 1 or more")
        llm.eval(llm.tokenize(text.encode(), special=True))
        return iter(())
    seed = options.pop("seed")
    common = {**options, "max_tokens": n_predict if n_predict > 0 else None, "stream": True}
    if seed >= 0:
        common["seed"] = seed
    if single_turn:
        messages = [{"role": "user", "content": text}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        return iter(llm.create_chat_completion(messages, **common))
    return iter(llm.create_completion(text, **common))


def read_text(file: str | None, prompt: str | None) -> str:
    """The file's text, then the prompt; or the pipe."""
    if file is None and prompt is None:
        if sys.stdin.isatty():
            raise click.UsageError("there is no text; give -p PROMPT, -f FILE, or a pipe")
        file = "-"
    parts = []
    if file == "-":
        try:
            parts.append(sys.stdin.buffer.read().decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"standard input is not UTF-8 text (byte {error.start}); convert it first") from error
    elif file is not None:
        try:
            parts.append(Path(file).read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"text file {file} is not UTF-8 text (byte {error.start}); convert it first") from error
        except OSError as error:
            raise ValueError(f"text file {file} cannot be read: {error.strerror}") from error
    if prompt is not None:
        parts.append(prompt)
    text = "".join(parts)
    if not text:
        raise click.UsageError("the text is empty; give -p PROMPT, -f FILE, or a pipe")
    return text
