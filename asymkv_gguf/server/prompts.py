"""From a request to the tokens that are read and the call that answers."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
import llama_cpp
from llama_cpp import llama_chat_format

from . import errors, grammars
from .errors import ApiError
from .schemas import ChatRequest, CompletionRequest, GenerationRequest
from .watched import WatchedLlama

_SAMPLING = (
    "temperature", "top_p", "min_p", "top_k", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty",
)  # fmt: skip


@dataclass(frozen=True)
class Prompt:
    """`call` makes a slot's Llama answer: chunks if the request streams, else the whole answer."""

    tokens: list[int]
    call: Callable[[WatchedLlama], Any]


def for_completion(llm: WatchedLlama, body: CompletionRequest, defaults: Mapping[str, Any]) -> Prompt:
    keywords = _keywords(llm, body, defaults)
    if isinstance(body.prompt, str):
        bos = [llm.token_bos()] if llm._model.add_bos_token() and llm.token_bos() != -1 else []
        text = llm.tokenize(body.prompt.encode(), add_bos=False, special=True) if body.prompt else []
        tokens = bos + text
    else:
        tokens = [int(token) for token in body.prompt]  # type: ignore[arg-type]
        unknown = next((token for token in tokens if not 0 <= token < llm._n_vocab), None)
        if unknown is not None:
            raise ApiError(400, f"prompt: there is no token {unknown}; this model has {llm._n_vocab:,}", param="prompt")
    keywords["max_tokens"] = body.max_tokens if body.max_tokens is not None else 16  # as OpenAI has it
    _check_length(llm, tokens)
    return Prompt(tokens, lambda slot: slot.create_completion(tokens, **keywords))


def for_chat(llm: WatchedLlama, body: ChatRequest, defaults: Mapping[str, Any]) -> Prompt:
    keywords = _keywords(llm, body, defaults)
    keywords["max_tokens"] = body.max_completion_tokens or body.max_tokens
    keywords["messages"] = [_message(message) for message in body.messages]
    keywords.update(_tools(body))
    has_template = str(llm.chat_format).startswith("chat_template.")  # the model's own
    _check_schemas(llm, keywords, of_all=not has_template)
    if has_template:
        # most of them want a call's arguments as an object; OpenAI's clients send a text
        with_objects = {**keywords, "messages": [_with_objects(message) for message in keywords["messages"]]}
        try:
            return _rendered(llm, with_objects)
        except _TemplateRefusalError:
            pass
    try:
        return _rendered(llm, keywords)
    except _TemplateRefusalError as error:
        raise ApiError(400, f"messages: the model's chat template refuses them: {error}", param="messages") from error


class _TemplateRefusalError(Exception):
    """Why a chat template does not take the messages."""


def _rendered(llm: WatchedLlama, keywords: dict[str, Any]) -> Prompt:
    try:
        # the chat handler renders the messages and tokenizes them; what it would have read is caught
        llama_cpp.Llama.create_chat_completion(_Rendering(llm), **keywords)
    except _Rendered as rendered:
        tokens = rendered.tokens
    except (jinja2.TemplateError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise _TemplateRefusalError(_text(error)) from error
    else:
        raise ApiError(501, f"the chat format {llm.chat_format!r} cannot be served; choose another --chat-format")
    _check_length(llm, tokens)
    return Prompt(tokens, lambda slot: slot.create_chat_completion(**keywords))


def _with_objects(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message with the arguments of its tool calls as objects."""
    calls = []
    for call in message.get("tool_calls") or ():
        function = dict(call["function"])
        try:
            arguments = json.loads(function.get("arguments") or "{}")
        except (TypeError, ValueError):
            arguments = function["arguments"]
        calls.append({**call, "function": {**function, "arguments": arguments}})
    return {**message, "tool_calls": calls} if calls else dict(message)


class _Rendered(BaseException):  # handlers may catch Exception
    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens


class _Rendering:
    """What a chat handler sees of a Llama, without a context."""

    def __init__(self, llm: WatchedLlama) -> None:
        self._llm = llm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def create_completion(self, prompt: str | list[int], **_: Any) -> Any:
        if isinstance(prompt, str):
            prompt = self._llm.tokenize(prompt.encode(), add_bos=True, special=True)
        raise _Rendered(prompt)

    __call__ = create_completion


def _check_length(llm: WatchedLlama, tokens: list[int]) -> None:
    if not tokens:
        raise ApiError(400, "the text is empty, and this model does not start texts with a token of its own; give some text")
    if len(tokens) >= llm.n_ctx():
        raise errors.too_long(len(tokens), llm.n_ctx())


def _keywords(llm: WatchedLlama, body: GenerationRequest, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What llama_cpp's two create functions have in common."""
    given = {name: value for name in _SAMPLING if (value := getattr(body, name)) is not None}
    seed = body.seed if body.seed is not None else defaults.get("seed", -1)
    bias = body.logit_bias or None
    unknown = next((token for token in bias or {} if not 0 <= token < llm._n_vocab), None)
    if unknown is not None:
        raise ApiError(400, f"logit_bias: there is no token {unknown}; this model has {llm._n_vocab:,}", param="logit_bias")
    return {
        **defaults,
        **given,
        # two slots without a seed must not write the same
        "seed": seed % (1 << 32) if seed >= 0 else secrets.randbelow((1 << 32) - 1),
        "stop": body.stops(),
        "stream": bool(body.stream),
        "logit_bias": bias,
        "grammar": grammars.of_request(llm, body),
    }


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """As chat templates know messages: a role, and content that is one text."""
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str):
        raise ApiError(400, f"messages: each message needs a role, such as 'user', not {role!r}", param="messages")
    if isinstance(content, list):
        kinds = [part.get("type") if isinstance(part, dict) else type(part).__name__ for part in content]
        other = next((kind for kind in kinds if kind != "text"), None)
        if other is not None:
            raise ApiError(400, f"messages: content of type {other!r} is not supported; send text", param="messages")
        content = "".join(str(part.get("text", "")) for part in content)
    if content is not None and not isinstance(content, str):
        raise ApiError(400, f"messages: content must be a text, not {content!r}", param="messages")
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list) or not all(isinstance(c, dict) and isinstance(c.get("function"), dict) for c in calls):
        raise ApiError(400, "messages: each of tool_calls needs a function with a name and arguments", param="messages")
    known_role = "system" if role == "developer" else role  # OpenAI's newer name
    return {**message, "role": known_role, "content": content or ""}


def _with_parameters(function: Mapping[str, Any]) -> dict[str, Any]:
    """A function's description, with the parameters that it may leave out."""
    return {"parameters": {"type": "object", "properties": {}}, **function}


def _tools(body: ChatRequest) -> dict[str, Any]:
    tools = [{**tool, "function": _with_parameters(tool["function"])} for tool in body.tools or []]
    choice = body.tool_choice
    if choice == "required":
        if len(tools) != 1:
            raise ApiError(
                400, f"tool_choice: 'required' needs exactly one tool, not {len(tools)}; name the tool", param="tool_choice"
            )
        choice = {"type": "function", "function": {"name": tools[0]["function"]["name"]}}
    if isinstance(choice, dict):
        name = choice.get("function", {}).get("name") if isinstance(choice.get("function"), dict) else None
        if name not in [tool["function"]["name"] for tool in tools]:
            raise ApiError(400, f"tool_choice: there is no tool {name!r} among the tools", param="tool_choice")
    elif choice not in (None, "none", "auto"):
        raise ApiError(
            400, f"tool_choice: must be 'none', 'auto', 'required', or name a tool, not {choice!r}", param="tool_choice"
        )
    return {
        "tools": tools if tools and choice != "none" else None,
        "tool_choice": choice if tools and choice != "none" else None,
        "functions": None if body.functions is None else [_with_parameters(function) for function in body.functions],
        "function_call": body.function_call,
    }


def _check_schemas(llm: WatchedLlama, keywords: Mapping[str, Any], *, of_all: bool) -> None:
    """llama_cpp makes grammars of the schemas of tools, too: of the one that is to be called, or, in its own formats, of all.

    It would let go of a schema that it does not understand, and crash with one that llama.cpp does not.
    """
    named: list[Any] = []
    for choice in (keywords["tool_choice"], keywords["function_call"]):
        if isinstance(choice, dict):
            named.append(choice["function"]["name"] if "function" in choice else choice.get("name"))
    for tool in keywords["tools"] or ():
        if of_all or tool["function"]["name"] in named:
            grammars.of_schema(llm, tool["function"]["parameters"], "tools")
    for function in keywords["functions"] or ():
        if of_all or function.get("name") in named:
            grammars.of_schema(llm, function["parameters"], "functions")


def _text(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) and error.args else str(error)


def chat_formats() -> list[str]:
    """The chat formats that llama_cpp knows by name."""
    registry = llama_chat_format.LlamaChatCompletionHandlerRegistry()
    return sorted(registry._chat_handlers)
