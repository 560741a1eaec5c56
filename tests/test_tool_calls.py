"""Tool calls in a text: found whole, whatever the pieces, and nothing else is taken for one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asymkv_gguf.server.tool_calls import ToolCalls


def fed(text: str, size: int) -> tuple[str, list[Any]]:
    """What comes out if the text comes in pieces of `size`."""
    found = ToolCalls(["tell", "ask"])
    out, calls = "", []
    for start in range(0, len(text), size):
        piece, more = found.feed(text[start : start + size])
        out += piece
        calls += more
    return out + found.rest(), [(call["index"], call["function"]["name"], call["function"]["arguments"]) for call in calls]


CALL = '<tool_call>\n{"name": "tell", "arguments": {"code": "amber"}}\n</tool_call>'


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_calls_are_found_in_pieces_of_any_size(size: int) -> None:
    assert fed(CALL, size) == ("", [(0, "tell", '{"code": "amber"}')])
    two = f"First {CALL} then {CALL.replace('tell', 'ask')}."
    assert fed(two, size) == ("First  then .", [(0, "tell", '{"code": "amber"}'), (1, "ask", '{"code": "amber"}')])


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(
    "text",
    [
        "a < b and <tool",
        "<tool_call>",
        CALL[:-3],
        "<tool_call>no JSON</tool_call>",
        '<tool_call>{"name": "other", "arguments": {}}</tool_call>',
        "<tool_call>[1]</tool_call>",
        '<tool_call>{"name": ["tell"]}</tool_call>',
    ],
)
def test_what_is_no_call_stays_text(text: str, size: int) -> None:
    assert fed(text, size) == (text, [])


def test_text_is_passed_on_as_soon_as_it_cannot_be_a_call() -> None:
    found = ToolCalls(["tell"])
    assert found.feed("The <to") == ("The ", [])
    assert found.feed("ad>") == ("<toad>", [])


def test_arguments_may_be_a_string_already_or_missing() -> None:
    (call,) = ToolCalls(["tell"]).feed('<tool_call>{"name": "tell", "arguments": "{\\"a\\": 1}"}</tool_call>')[1]
    assert json.loads(call["function"]["arguments"]) == {"a": 1}
    (call,) = ToolCalls(["tell"]).feed('<tool_call>{"name": "tell"}</tool_call>')[1]
    assert call["function"]["arguments"] == "{}"
