"""How each task is asked, and how long its answers are: the user's files, in LongBench's format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

from ...text_file import read_text_file
from .source import MAX_LENGTHS, PROMPTS, Item, Source
from .tasks import base_name


def read_prompts(file: str | None, source: Source, tasks: Sequence[str]) -> dict[str, str]:
    """A format for each task, such as `Story: {context}\\n\\nQuestion: {input}\\nAnswer:`."""
    path, formats = _read(file, source, PROMPTS, "--prompts", "prompt formats", tasks)
    for task in tasks:
        text = formats[base_name(task)]
        if not isinstance(text, str):
            raise ValueError(f"{path}: the prompt of {base_name(task)} must be a string, not {text!r}")
        try:
            names = [name for _, name, _, _ in Formatter().parse(text) if name is not None]
        except ValueError as error:
            raise ValueError(f"{path}: the prompt of {base_name(task)} is no format ({error})") from error
        wrong = next((name for name in names if not name.isidentifier()), None)
        if wrong is not None:
            raise ValueError(f"{path}: the prompt of {base_name(task)} has {{{wrong}}}; write {{context}} and {{input}}")
    return {task: formats[base_name(task)] for task in tasks}


def read_max_lengths(file: str | None, source: Source, tasks: Sequence[str]) -> dict[str, int]:
    """The most tokens that an answer may have, for each task."""
    path, lengths = _read(file, source, MAX_LENGTHS, "--max-lengths", "maximal lengths of answers", tasks)
    for task in tasks:
        length = lengths[base_name(task)]
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise ValueError(f"{path}: the length of {base_name(task)} must be a number of tokens, not {length!r}")
    return {task: lengths[base_name(task)] for task in tasks}


def _read(
    file: str | None, source: Source, name: str, flag: str, what: str, tasks: Sequence[str]
) -> tuple[str, Mapping[str, Any]]:
    path = file or source.settings_file(name)
    if path is None:
        raise ValueError(f"there are no {what}; give {flag} FILE, LongBench's config/{name}, or put it into the data directory")
    try:
        read = json.loads(read_text_file(Path(path)))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); give LongBench's {name} ({flag})") from error
    if not isinstance(read, dict):
        raise ValueError(f"{path} is not a JSON object with the {what}; give LongBench's {name} ({flag})")
    missing = [task for task in map(base_name, tasks) if task not in read]
    if missing:
        raise ValueError(f"{path} says nothing of {', '.join(missing)}; add them, or leave these tasks out (--tasks)")
    return str(path), read


def filled(prompt: str, item: Item) -> str:
    """The prompt with the item's texts. Braces in them are text."""
    parts = []
    for literal, name, _, _ in Formatter().parse(prompt):
        parts.append(literal)
        if name is not None:
            if name not in item.fields:
                raise ValueError(f"the prompt of {item.task} asks for {{{name}}}, which sample {item.id} does not have")
            parts.append(str(item.fields[name]))
    return "".join(parts)
