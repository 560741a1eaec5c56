"""Messages become the text that the model's own template makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import _llama

from asymkv_gguf.server.errors import ApiError
from asymkv_gguf.server.prompts import for_chat
from asymkv_gguf.server.schemas import ChatRequest
from asymkv_gguf.server.watched import WatchedLlama

BEGIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}"
END = "{% endfor %}\n{% endfor %}"
WANTS_OBJECTS = BEGIN + "{{ c.function.arguments | tojson }}" + END
WANTS_TEXT = BEGIN + "{{ '<' + c.function.arguments + '>' }}" + END
REFUSES = "{{ raise_exception('roles must alternate') }}"
CALL: Any = {"id": "1", "type": "function", "function": {"name": "tell", "arguments": '{"code": "amber"}'}}


def read(tmp_path: Path, template: str, *messages: Any) -> str:
    """What the model would read."""
    path = tmp_path / "template.gguf"
    _llama(path, more=lambda writer: writer.add_chat_template(template))
    llm = WatchedLlama(str(path), n_threads=1, verbose=False)
    try:
        return llm.detokenize(for_chat(llm, ChatRequest(messages=list(messages)), {}).tokens).decode().replace("\u2581", " ")
    finally:
        llm.close()


def test_arguments_of_calls_are_objects_where_the_template_wants_them(tmp_path: Path) -> None:
    text = read(tmp_path, WANTS_OBJECTS, {"role": "assistant", "content": None, "tool_calls": [CALL]})
    assert text == 'assistant: {"code": "amber"}'


def test_arguments_of_calls_are_text_where_the_template_wants_that(tmp_path: Path) -> None:
    text = read(tmp_path, WANTS_TEXT, {"role": "assistant", "content": "", "tool_calls": [CALL]})
    assert text == 'assistant: <{"code": "amber"}>'


def test_arguments_that_are_no_json_stay_what_they_are(tmp_path: Path) -> None:
    call = {**CALL, "function": {"name": "tell", "arguments": "amber"}}
    assert read(tmp_path, WANTS_TEXT, {"role": "assistant", "content": "", "tool_calls": [call]}) == "assistant: <amber>"


def test_developer_is_the_system_for_templates(tmp_path: Path) -> None:
    assert read(tmp_path, WANTS_OBJECTS, {"role": "developer", "content": "Be brief."}) == "system: Be brief."


def test_a_template_that_refuses_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="^messages: the model's chat template refuses them: roles must alternate$"):
        read(tmp_path, REFUSES, {"role": "user", "content": "x"})


def test_a_call_without_a_function_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="^messages: each of tool_calls needs a function with a name and arguments$"):
        read(tmp_path, WANTS_TEXT, {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]})
