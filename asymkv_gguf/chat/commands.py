"""The slash commands: one function and one line of help each."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..stats import size_text
from ..text_file import read_text_file
from .endless import full_cache_bytes, is_without_an_end
from .picture import picture
from .prompt import n_system_tokens

if TYPE_CHECKING:
    from .chat import Chat

Function = Callable[["Chat", str], None]


@dataclass(frozen=True)
class Command:
    """`run` takes the chat, and what follows the name."""

    name: str
    argument: str
    help: str
    run: Function


COMMANDS: Final[dict[str, Command]] = {}

# as other programs call them
_ALIASES: Final = {"/quit": "/exit", "/bye": "/exit", "/?": "/help"}


def command(usage: str, text: str) -> Callable[[Function], Function]:
    name, _, argument = usage.partition(" ")

    def add(function: Function) -> Function:
        COMMANDS[name] = Command(name, argument, text, function)
        return function

    return add


def run_command(chat: Chat, line: str) -> None:
    """`/name argument`."""
    name, _, argument = line.strip().partition(" ")
    found = COMMANDS.get(_ALIASES.get(name, name))
    if found is None:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "/help lists them"
        raise ValueError(f"there is no command {name}; {hint}")
    found.run(chat, argument.strip())


@command("/help", "this list")
def _help(chat: Chat, argument: str) -> None:
    usages = {f"{entry.name} {entry.argument}".strip(): entry.help for entry in COMMANDS.values()}
    width = max(map(len, usages))
    for usage, text in usages.items():
        chat.terminal.note(f"{usage:<{width}}  {text}")
    chat.terminal.note("A message that begins with / is written with //. Alt-Enter, or \\ at the end, begins another line.")


@command("/stats", "tokens, slots, merges and memory of the cache")
def _stats(chat: Chat, argument: str) -> None:
    llm = chat.conversation.llm
    note = chat.terminal.note
    if llm.asymkv is None:
        note(f"{llm.n_tokens:,} tokens in the stock cache of {llm.n_ctx():,}")
        return
    stats = llm.asymkv_stats()
    note(f"tokens        {stats.tokens:,}" + ("" if is_without_an_end(llm) else f" of {llm.n_ctx():,}"))
    note(f"slots         {stats.slots:,} (budget {stats.budget:,}, capacity {stats.capacity:,})")
    note(f"merges        {stats.merges:,} in {stats.compressions:,} compressions; {stats.evictions:,} evictions")
    note(f"cache         {size_text(stats.kv_bytes)} and {size_text(stats.table_bytes)} of tables")
    note(f"full cache    {size_text(full_cache_bytes(llm, stats))}")
    note(f"compressing   {stats.compress_seconds:.2f} s")
    note(f"checkpoints   {llm.n_checkpoints} ({size_text(llm.checkpoint_bytes)})")
    note(f"sinks         {llm.asymkv.sinks:,} tokens")
    if llm.asymkv.horizon is not None:
        note(f"horizon       {llm.asymkv.horizon:,} tokens")


@command("/cache [LAYER [HEAD]]", "a picture of the slots")
def _cache(chat: Chat, argument: str) -> None:
    llm = chat.conversation.llm
    if llm.asymkv is None:
        raise ValueError("the stock cache has a slot for each token, and nothing to show; leave out --no-asymkv")
    parts = argument.split()
    if len(parts) > 2 or not all(part.isdigit() for part in parts):
        raise ValueError(f"/cache takes the numbers of a layer and a head, not {argument!r}")
    layer, head = (*map(int, parts), *(0, 0))[:2]
    stats = llm.asymkv_stats()
    for name, index, n in (("layer", layer, stats.layers), ("head", head, stats.groups)):
        if index >= n:
            raise ValueError(f"there is no {name} {index}; there are 0 to {n - 1}")
    slots = llm.asymkv_slots(layer, head)
    if not len(slots):
        chat.terminal.note("the cache is empty")
        return
    lost = llm.asymkv_lost(layer, head)
    chat.terminal.note(f"layer {layer}, head {head}: {stats.tokens:,} tokens in {len(slots):,} slots, {lost:,} dropped")
    chat.terminal.note(picture(slots["cardinality"], chat.terminal.width, color=chat.terminal.color))


@command("/system [TEXT]", "show the system prompt, or set another one")
def _system(chat: Chat, argument: str) -> None:
    conversation = chat.conversation
    if not argument:
        chat.terminal.note(conversation.system if conversation.system is not None else "there is no system prompt")
        return
    conversation.set_system(argument)
    if conversation.n_turns:
        chat.terminal.note("the conversation is read again with the next message, after the new system prompt")
    config = conversation.llm.asymkv
    n_tokens = n_system_tokens(conversation.llm, argument)
    if config is not None and n_tokens > config.sinks:
        chat.terminal.note(
            f"the system prompt takes {n_tokens:,} tokens, of which the first {config.sinks:,} are never merged; "
            "start with -sys to protect all of it"
        )


@command("/regen", "another answer to the last message")
def _regen(chat: Chat, argument: str) -> None:
    chat.answer(chat.conversation.regenerate())


@command("/undo", "take the last message and its answer back")
def _undo(chat: Chat, argument: str) -> None:
    text = chat.conversation.undo()
    if text is None:
        raise ValueError("there is nothing to take back")
    shown = " ".join(text.split())
    chat.terminal.note(f"taken back: {shown if len(shown) <= 60 else shown[:57] + '...'}")


@command("/read FILE", "put a file's text before the next message")
def _read(chat: Chat, argument: str) -> None:
    text = read_text_file(_named(argument, "/read"))
    chat.attach(text)
    n_tokens = len(chat.conversation.llm.tokenize(text.encode(), add_bos=False))
    chat.terminal.note(f"{argument}: {n_tokens:,} tokens go before the next message")


@command("/save [FILE]", "save the conversation and the cache (to the file of --session)")
def _save(chat: Chat, argument: str) -> None:
    chat.save(_named(argument, "/save") if argument or chat.session is None else None)


@command("/load FILE", "go on with what /save saved")
def _load(chat: Chat, argument: str) -> None:
    chat.load(_named(argument, "/load"))


@command("/clear", "begin anew, with the same system prompt")
def _clear(chat: Chat, argument: str) -> None:
    chat.clear()
    chat.terminal.note("the conversation is empty")


@command("/exit", "leave (also Ctrl-D)")
def _exit(chat: Chat, argument: str) -> None:
    chat.leaving = True


def _named(argument: str, name: str) -> Path:
    if not argument:
        raise ValueError(f"name a file: {name} FILE")
    path = Path(argument).expanduser()
    if path.exists():
        return path
    try:
        words = shlex.split(argument)  # a file that is dropped on a terminal comes quoted
    except ValueError:
        return path
    return Path(words[0]).expanduser() if len(words) == 1 else path
