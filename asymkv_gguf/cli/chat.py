"""`asymkv-gguf chat`: talk to a model; what the command does without a name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..chat.sinks import with_protected_system
from ..config import AsymKVConfig
from ..llama import Llama
from ..preview import memory_needed, vocabulary
from ..session_file import SessionFile
from .asymkv_options import asymkv_options
from .choices import choose_as_saved, choose_no_end, said
from .llama_options import llama_options, sampling_options, take_llama_arguments, take_sampling
from .text_source import read_file

if TYPE_CHECKING:
    from ..chat.terminal import Terminal

_EPILOG = "A pipe works, too: each line is a message, and the answers go to stdout. With -f - it is the text of -f instead."


@click.command(epilog=_EPILOG, context_settings={"show_default": True})
@llama_options
@click.option("-sys", "--system-prompt", "system", metavar="PROMPT", help="The system prompt.")
@click.option("-sysf", "--system-prompt-file", "system_file", metavar="FILE", help="A file with the system prompt.")
@click.option("-f", "--file", metavar="FILE", help="Text before the first message.")
@click.option("-p", "--prompt", metavar="PROMPT", help="The first message.")
@click.option("-st", "--single-turn", is_flag=True, help="Leave after the first answer.")
@click.option("-n", "--predict", "n_predict", type=click.IntRange(min=-1), default=-1, help="Longest answer; -1: no limit.")
@click.option("--session", metavar="FILE", help="Go on with this file's conversation, and save it there at the end.")
@sampling_options
@asymkv_options
def chat(**options: Any) -> None:
    """Talk to a model (the default command).

    The conversation has no end, unless -c says so: the cache keeps --asymkv-budget slots of it, positions stay within
    what the model was trained for, and what lies further back than that leaves first (--asymkv-horizon).
    The system prompt is never merged. /help lists the commands.
    """
    from ..chat.chat import Chat
    from ..chat.conversation import Conversation
    from ..chat.terminal import Terminal

    system = _system_prompt(options)
    n_predict = options.pop("n_predict")
    if n_predict == 0:
        raise click.UsageError("-n 0 writes no answers; give 1 or more, or -1 for no limit")
    file = options.pop("file")
    attached = read_file(file) if file is not None else None
    first, single_turn = options.pop("prompt"), options.pop("single_turn")
    sampling = take_sampling(options)
    path = options.pop("session")
    session = SessionFile(path) if path is not None else None
    resumed = session is not None and session.exists
    choices = said(options)
    arguments = take_llama_arguments(options)
    terminal = Terminal()
    model = arguments["model_path"]
    if arguments["asymkv"]:
        if session is not None and resumed:
            choose_as_saved(arguments, choices, session.path)
        else:
            n_trained = choose_no_end(arguments, choices, forgets=True)
            if n_predict < 0 and n_trained is not None:
                n_predict = n_trained  # an answer has one
            if choices["sinks"] is None and system:
                arguments["asymkv"] = _with_sinks(arguments, system, terminal)
        terminal.note(f"memory: {memory_needed(**arguments).notice()}")
    llm = Llama(**arguments)
    try:
        conversation = Conversation(llm, system=system, sampling=sampling, max_tokens=n_predict if n_predict > 0 else None)
        talk = Chat(conversation, terminal, session)
        if resumed:
            talk.resume()
            if system is not None and system != conversation.system:
                terminal.note("the session keeps its own system prompt; /system sets another one")
        if attached is not None:
            talk.attach(attached)
        if "tokenizer.chat_template" not in llm.metadata:
            terminal.note(f"the model has no chat template; {llm.chat_format} is used, as llama-cpp-python does")
        if terminal.interactive:
            terminal.note(f"{Path(model).name}: /help lists the commands, Ctrl-D leaves")
        try:
            with terminal.hangups():
                talk.run(first, single_turn=single_turn)
        finally:
            if resumed or conversation.n_turns:
                talk.save()
    finally:
        llm.close()


def _system_prompt(options: dict[str, Any]) -> str | None:
    system, file = options.pop("system"), options.pop("system_file")
    if system is not None and file is not None:
        raise click.UsageError("give either -sys or -sysf, not both")
    return read_file(file).strip() if file is not None else system


def _with_sinks(arguments: dict[str, Any], system: str, terminal: Terminal) -> AsymKVConfig:
    """The settings of the cache, with sinks for the system prompt."""
    config: AsymKVConfig = arguments["asymkv"]
    config, notice = with_protected_system(config, vocabulary(arguments["model_path"]), system, arguments.get("n_batch"))
    if notice is not None:
        terminal.note(notice)
    return config
