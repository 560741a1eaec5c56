"""`asymkv-gguf run`: one text through a model."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import click

from ..chat.endless import full_cache_bytes
from ..llama import Llama
from ..session_file import SessionFile
from .asymkv_options import asymkv_options
from .choices import choose_as_saved, choose_no_end, said
from .llama_options import llama_options, sampling_options, take_llama_arguments, take_sampling
from .progress import Reading
from .text_source import read_text

if TYPE_CHECKING:
    from ..chat.conversation import Conversation

_EPILOG = (
    "FILE's text comes first, then PROMPT. Without both, the text is read from a pipe. -f - is the pipe, too. "
    "With --session, the text is appended to what the session holds, which is not read again."
)
_NO_TURN = "-n 0 writes nothing, so there is no turn to take; leave out -st, or give -n 1 or more"


@click.command(epilog=_EPILOG, context_settings={"show_default": True})
@llama_options
@click.option("-f", "--file", "file", metavar="FILE", help="Read the text from a file.")
@click.option("-p", "--prompt", metavar="PROMPT", help="The text, or what follows the file's text.")
@click.option("-sys", "--system-prompt", "system", metavar="PROMPT", help="With -st: the system prompt.")
@click.option("-st", "--single-turn", is_flag=True, help="One turn of a chat, in the model's own chat template.")
@click.option("-n", "--predict", "n_predict", type=click.IntRange(min=-1), default=-1, help="Tokens to write; -1: no limit.")
@sampling_options
@asymkv_options
@click.option(
    "--session", "session_path", metavar="FILE", help="Go on where FILE was saved, if there is one; save it at the end."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the text.")
def run(**options: Any) -> None:
    """Read a text and write what follows.

    The cache keeps --asymkv-budget slots, however long the text is. Beyond what the model was trained for positions
    become compact, unless -c or --asymkv-positions says otherwise.
    """
    choices = said(options)
    arguments = take_llama_arguments(options)
    session_path = options.pop("session_path")
    file = SessionFile(session_path) if session_path is not None else None
    if file is not None and file.exists:
        choose_as_saved(arguments, choices, file.path)
    elif arguments["asymkv"]:
        n_trained = choose_no_end(arguments, choices, forgets=False)
        if n_trained is not None and options["n_predict"] < 0:
            options["n_predict"] = n_trained  # what is written has an end
    text = read_text(options.pop("file"), options.pop("prompt"), may_be_empty=file is not None and file.exists)
    started = time.perf_counter()
    llm = Llama(**arguments)
    load_seconds = time.perf_counter() - started
    as_json = options.pop("as_json")
    try:
        conversation = _conversation(llm, file, options) if file is not None and options["single_turn"] else None
        if file is not None and conversation is None:
            _resume(llm, file)
        n_resumed = int(llm.n_tokens)
        with Reading(llm) as reading:
            started = time.perf_counter()
            answer, finish_reason = "", None
            pieces = _turn(conversation, text) if conversation is not None else _pieces(llm, text, options)
            try:
                for piece, reason in pieces:
                    finish_reason = reason or finish_reason
                    answer += piece
                    if not as_json:
                        sys.stdout.write(piece)
                        sys.stdout.flush()
            except KeyboardInterrupt:
                if file is None or not reading.done:
                    raise
                pieces.close()
                finish_reason = "interrupted"  # what was read is worth saving
            total_seconds = time.perf_counter() - started
        stats = llm.asymkv_stats() if llm.asymkv is not None else None
        if as_json:
            # the token that ends an answer at its longest was sampled, but not read again
            n_prompt = n_resumed + (reading.n_tokens if text else 0)  # without a text, what was read first is the answer's
            n_written = int(llm.n_tokens) - n_prompt + (finish_reason == "length")
            if conversation is not None:
                n_prompt, n_written = conversation.turn.n_prompt, conversation.turn.n_written
            report = {
                "text": answer,
                "usage": {
                    "prompt_tokens": n_prompt,
                    "completion_tokens": n_written,
                    "total_tokens": n_prompt + n_written,
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
            click.echo(f"asymkv: {stats.notice(full_cache_bytes(llm, stats))}", err=True)
        if file is not None:
            if conversation is None and finish_reason == "length":
                llm.eval([llm.last_sampled])
            click.echo(file.save(llm, conversation), err=True)
        if finish_reason == "interrupted":
            raise KeyboardInterrupt
    finally:
        llm.close()


def _pieces(llm: Llama, text: str, options: dict[str, Any]) -> Generator[tuple[str, str | None], None, None]:
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
            raise click.UsageError(_NO_TURN)
        llm.eval(llm.tokenize(text.encode(), add_bos=llm.n_tokens == 0, special=True))
        return iter(())
    prompt: str | list[int] = text
    if llm.n_tokens > 0:  # a session's text, which goes on
        prompt = [*llm._input_ids.tolist(), *(llm.tokenize(text.encode(), add_bos=False, special=True) if text else [])]
    common = {**take_sampling(options), "max_tokens": n_predict if n_predict > 0 else None, "stream": True}
    if single_turn:
        messages = [{"role": "user", "content": text}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        return iter(llm.create_chat_completion(messages, **common))
    return iter(llm.create_completion(prompt, **common))


def _conversation(llm: Llama, file: SessionFile, options: dict[str, Any]) -> Conversation:
    """The file's, or a new one; the options are those of _stream."""
    from ..chat.conversation import Conversation

    n_predict, system = options["n_predict"], options["system"]
    if n_predict == 0:
        raise click.UsageError(_NO_TURN)
    conversation = Conversation(llm, sampling=take_sampling(options), max_tokens=n_predict if n_predict > 0 else None)
    _resume(llm, file, conversation)
    if system is not None and system != conversation.system:
        conversation.set_system(system)
        if conversation.n_turns:
            click.echo(f"session {file.path}: the conversation is read again, after the new system prompt", err=True)
    return conversation


def _resume(llm: Llama, file: SessionFile, conversation: Conversation | None = None) -> None:
    if file.exists:
        session = file.resume(llm, conversation)
        click.echo(f"session {file.path}: resumed {session.n_tokens:,} tokens", err=True)
    (conversation or llm).on_reread = _say_reread


def _say_reread(n_again: int, n_kept: int) -> None:
    click.echo(f"session: reading {n_again:,} tokens again, {n_kept:,} are kept", err=True)


def _turn(conversation: Conversation, text: str) -> Generator[tuple[str, str | None], None, None]:
    """As _pieces."""
    conversation.on_progress = conversation.llm.on_progress
    for piece in conversation.say(text):
        yield piece, None
    yield "", conversation.turn.finish_reason
