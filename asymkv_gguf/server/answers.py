"""What goes back: llama_cpp's answers and chunks, with what clients want to know beside them."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from .slots import Slot
from .tool_calls import ToolCalls
from .watched import TokenLogprob, Watch

_LEAST_LOGPROB = -9999.0  # JSON has no infinity; OpenAI uses this


class Answer:
    """One answer, streamed or not. `kind` is "chat" or "completion"."""

    def __init__(
        self, kind: str, model: str, *, legacy_functions: bool = False, tool_names: Collection[str] | None = None
    ) -> None:
        """`tool_names`: those that the model may call by writing so into its text; None: it may not."""
        self.chat = kind == "chat"
        self.model = model
        self.created = int(time.time())
        self.id = f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid.uuid4()}"
        self._legacy_functions = legacy_functions
        self._calls = ToolCalls(tool_names) if tool_names else None
        self._n_logprobs = 0  # already sent
        self._offset = 0  # characters of the answer before the next chunk
        self._arguments: dict[int, str] = {}  # of each call in a stream, so far

    def whole(self, answer: dict[str, Any], watch: Watch, slot: Slot, echo: str = "") -> dict[str, Any]:
        """The answer that is not streamed."""
        choice = answer["choices"][0]
        if self.chat and not self._legacy_functions:
            choice["message"].pop("function_call", None)
        if self._calls is not None and choice["message"].get("content"):
            self._take_calls(choice, self._calls)
        if echo:
            choice["text"] = echo + choice["text"]
        if self.chat and choice["finish_reason"] == "tool_calls":
            calls = choice["message"].get("tool_calls") or ()
            choice["finish_reason"] = _reason(call["function"]["arguments"] for call in calls)
        if watch.n_top is not None:
            choice["logprobs"] = self._logprobs(watch.logprobs)
        return {**answer, "id": self.id, "model": self.model, "usage": usage(watch), **measured(watch, slot)}

    def chunk(self, chunk: dict[str, Any], watch: Watch, slot: Slot) -> dict[str, Any]:
        """One chunk of a stream."""
        choice = chunk["choices"][0]
        delta = choice.get("delta")
        if delta is not None:
            self._tidy(delta)
            if self._calls is not None:
                self._stream_calls(choice, self._calls)
        if watch.n_top is not None and (choice.get("text") or (delta or {}).get("content")):
            choice["logprobs"] = self._logprobs(watch.logprobs[self._n_logprobs :])
            self._n_logprobs = len(watch.logprobs)
        chunk = {**chunk, "id": self.id, "created": self.created, "model": self.model}
        if choice["finish_reason"] == "tool_calls":
            choice["finish_reason"] = _reason(self._arguments.values())
        if choice["finish_reason"] is not None:
            chunk.update(measured(watch, slot))
        return chunk

    def progress(self, watch: Watch) -> dict[str, Any]:
        """How much of the prompt is read, as llama-server tells it."""
        choice = {"index": 0, "finish_reason": None, "logprobs": None}
        return {
            **self._frame([{**choice, "delta": {}} if self.chat else {**choice, "text": ""}]),
            "prompt_progress": {
                "total": watch.n_prompt,
                "cache": max(watch.n_done - watch.n_read, 0),
                "processed": watch.n_done,
                "time_ms": (time.perf_counter() - watch.started) * 1000,
            },
        }

    def echo(self, text: str) -> dict[str, Any]:
        return self._frame([{"index": 0, "text": text, "finish_reason": None, "logprobs": None}])

    def last_usage(self, watch: Watch) -> dict[str, Any]:
        """The chunk after the last, for `stream_options.include_usage`."""
        return {**self._frame([]), "usage": usage(watch)}

    def _frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}

    def _tidy(self, delta: dict[str, Any]) -> None:
        """llama_cpp repeats a call's id and name in every chunk; clients would append them."""
        if not self._legacy_functions:
            delta.pop("function_call", None)
        for name in [name for name, value in delta.items() if value is None]:
            del delta[name]
        for call in delta.get("tool_calls", ()):
            index = call.setdefault("index", 0)
            if index in self._arguments:
                call.pop("id", None), call.pop("type", None), call["function"].pop("name", None)
            self._arguments[index] = self._arguments.get(index, "") + (call["function"].get("arguments") or "")

    def _take_calls(self, choice: dict[str, Any], found: ToolCalls) -> None:
        text, calls = found.feed(choice["message"]["content"])
        if not calls:
            return
        choice["message"].update(content=(text + found.rest()).strip() or None, tool_calls=calls)
        for call in calls:
            del call["index"]  # chunks have it, messages do not
        if choice["finish_reason"] == "stop":
            choice["finish_reason"] = "tool_calls"

    def _stream_calls(self, choice: dict[str, Any], found: ToolCalls) -> None:
        """A call is sent as a whole, in one chunk; the text around it as it comes."""
        delta = choice["delta"]
        text, calls = found.feed(delta.pop("content", ""))
        if choice["finish_reason"] is not None:
            text += found.rest()
            if found.count and choice["finish_reason"] == "stop":
                choice["finish_reason"] = "tool_calls"
        if text.strip() or (text and not found.count):
            delta["content"] = text
        if calls:
            delta["tool_calls"] = calls

    def _logprobs(self, entries: Sequence[TokenLogprob]) -> dict[str, Any]:
        if self.chat:
            content = [
                {**_chat_logprob(entry.piece, entry.logprob), "top_logprobs": [_chat_logprob(*top) for top in entry.top]}
                for entry in entries
            ]
            return {"content": content, "refusal": None}
        pieces = [_text(entry.piece) for entry in entries]
        offsets = list(itertools.accumulate(map(len, pieces), initial=self._offset))
        self._offset = offsets.pop()
        return {
            "tokens": pieces,
            "token_logprobs": [max(entry.logprob, _LEAST_LOGPROB) for entry in entries],
            "top_logprobs": [{_text(piece): max(logprob, _LEAST_LOGPROB) for piece, logprob in entry.top} for entry in entries],
            "text_offset": offsets,
        }


def usage(watch: Watch) -> dict[str, Any]:
    return {
        "prompt_tokens": watch.n_prompt,
        "completion_tokens": watch.n_predicted,
        "total_tokens": watch.n_prompt + watch.n_predicted,
        "prompt_tokens_details": {"cached_tokens": watch.n_cached},
    }


def measured(watch: Watch, slot: Slot) -> dict[str, Any]:
    stats = slot.look().stats
    return {
        "timings": watch.timings(),
        "asymkv": {"slot": slot.index, "reread": slot.llm.last_reread, **stats.as_dict()} if stats is not None else None,
    }


def _reason(arguments: Iterable[str]) -> str:
    """Why a text with tool calls ended; llama_cpp does not tell when max_tokens cut one."""
    try:
        for text in arguments:
            json.loads(text)
    except ValueError:
        return "length"
    return "tool_calls"


def _chat_logprob(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": _text(piece), "bytes": list(piece), "logprob": max(logprob, _LEAST_LOGPROB)}


def _text(piece: bytes) -> str:
    return piece.decode(errors="replace")
