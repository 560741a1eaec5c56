"""Tool calls that a model writes into its text, as the templates of Qwen, Hermes and their kin teach it:

<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection
from typing import Any, Final

BEGIN: Final = "<tool_call>"
END: Final = "</tool_call>"


class ToolCalls:
    """Takes the calls out of a text that comes in pieces. What is no call of a known tool stays text."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._held = ""  # may be, or become, a call
        self.count = 0

    def feed(self, piece: str) -> tuple[str, list[dict[str, Any]]]:
        """The text that can be passed on now, and the calls that are complete."""
        self._held += piece
        text = ""
        calls: list[dict[str, Any]] = []
        while True:
            before, begin, rest = self._held.partition(BEGIN)
            if not begin:
                n_held = _overlap(self._held)
                text, self._held = text + self._held[: len(self._held) - n_held], self._held[len(self._held) - n_held :]
                return text, calls
            body, end, after = rest.partition(END)
            text += before
            if not end:
                self._held = begin + rest
                return text, calls
            call = self._call(body)
            if call is None:
                text += begin + body + end
            else:
                calls.append(call)
            self._held = after

    def rest(self) -> str:
        """At the end: what was held back, and is no call."""
        rest, self._held = self._held, ""
        return rest

    def _call(self, body: str) -> dict[str, Any] | None:
        try:
            value = json.loads(body)
        except ValueError:
            return None
        if not isinstance(value, dict) or value.get("name") not in self._names:
            return None
        arguments = value.get("arguments", {})
        if not isinstance(arguments, str):  # OpenAI's are a string
            arguments = json.dumps(arguments, ensure_ascii=False)
        index, self.count = self.count, self.count + 1
        function = {"name": value["name"], "arguments": arguments}
        return {"index": index, "id": f"call_{uuid.uuid4().hex}", "type": "function", "function": function}


def _overlap(text: str) -> int:
    """How much of the end of a text may be the beginning of a call."""
    return next((n for n in range(min(len(BEGIN), len(text)), 0, -1) if BEGIN.startswith(text[-n:])), 0)
