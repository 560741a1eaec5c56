"""Grammars that hold an answer, of GBNF or of a JSON schema; none that llama.cpp would crash with."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any, Final

import llama_cpp
from llama_cpp import llama_grammar
from llama_cpp.llama_grammar import LlamaGrammar

from .errors import ApiError
from .schemas import GenerationRequest
from .watched import WatchedLlama

# llama.cpp parses by recursion, and ends the process when the stack is full: here after more than 10,000
_MAX_PARTS: Final = 4000
# llama_cpp writes repetitions out: {"minItems": 1000000000} would take all memory
_MAX_WRITTEN_OUT: Final = 1 << 20


def of_request(llm: WatchedLlama, body: GenerationRequest) -> LlamaGrammar | None:
    form = body.response_format
    if form is None or form.type == "text":
        return None if body.grammar is None else _checked(llm, body.grammar, "grammar")
    if form.type == "json_schema":
        if form.json_schema is None:
            raise ApiError(400, "response_format: json_schema is missing", param="response_format")
        return of_schema(llm, form.json_schema.schema_, "response_format")
    if form.schema_ is not None:
        return of_schema(llm, form.schema_, "response_format")
    return _checked(llm, llama_grammar.JSON_GBNF, "response_format")


def of_schema(llm: WatchedLlama, schema: Any, param: str) -> LlamaGrammar:
    if not isinstance(schema, Mapping):
        raise ApiError(400, f"{param}: a JSON schema must be an object, not {schema!r}", param=param)
    _room.left = _MAX_WRITTEN_OUT
    try:
        text = llama_grammar.json_schema_to_gbnf(json.dumps(schema))
    except Exception as error:  # llama_cpp's converter raises whatever a schema makes it stumble over
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) and error.args else str(error)
        raise ApiError(400, f"{param}: llama.cpp cannot use this JSON schema: {reason}", param=param) from error
    finally:
        del _room.left
    return _checked(llm, text, param)


def _checked(llm: WatchedLlama, text: str, param: str) -> LlamaGrammar:
    """llama_cpp samples with what llama.cpp could not parse, and crashes; so it is parsed here first."""
    n_parts = text.count("(") + text.count("::=")
    if n_parts > _MAX_PARTS:
        raise ApiError(
            400, f"{param}: the grammar has {n_parts:,} rules and groups, and may have {_MAX_PARTS:,}; shorten it", param=param
        )
    grammar = LlamaGrammar.from_string(text, verbose=False)
    sampler = llama_cpp.llama_sampler_init_grammar(llm._model.vocab, grammar._grammar.encode(), grammar._root.encode())
    if not sampler:
        raise ApiError(400, f"{param}: llama.cpp cannot parse this grammar; it needs a rule `root`, in GBNF", param=param)
    llama_cpp.llama_sampler_free(sampler)
    return grammar


_room = threading.local()  # .left: characters that the schema which this thread converts may still write out
_build_repetition = llama_grammar._build_repetition


def _bounded_repetition(item_rule: str, min_items: int, max_items: int | None, *args: Any, **kwargs: Any) -> Any:
    if hasattr(_room, "left"):
        _room.left -= len(item_rule) * max(min_items, max_items or 0)
        if _room.left < 0:
            raise ValueError("it repeats too much; give smaller numbers for minItems, maxLength, {m,n} and the like")
    return _build_repetition(item_rule, min_items, max_items, *args, **kwargs)


llama_grammar._build_repetition = _bounded_repetition
