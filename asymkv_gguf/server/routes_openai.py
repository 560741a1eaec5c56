"""OpenAI's routes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

import anyio.to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from . import prompts
from .answers import Answer
from .errors import ApiError, failed
from .generation import Emit, Work, produce
from .prompts import Prompt
from .schemas import ChatRequest, CompletionRequest, GenerationRequest
from .slots import Slot, Ticket
from .state import State, state_of
from .watched import Watch, WatchedLlama

B = TypeVar("B", bound=GenerationRequest)

CLIENT_LEFT = 499  # as nginx calls it; nobody sees it but the metrics

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat(body: ChatRequest, request: Request) -> Response:
    state = state_of(request)
    prompt = await _prepared(prompts.for_chat, state, body)
    answer = Answer("chat", state.settings.alias, legacy_functions=body.functions is not None, tool_names=body.callable_tools())
    watch = Watch(n_top=(body.top_logprobs or 0) if body.logprobs else None)
    return await _respond(state, request, body, prompt, answer, watch)


@router.post("/v1/completions")
async def completion(body: CompletionRequest, request: Request) -> Response:
    state = state_of(request)
    prompt = await _prepared(prompts.for_completion, state, body)
    answer = Answer("completion", state.settings.alias)
    echo = ""
    if body.echo:
        echo = body.prompt if isinstance(body.prompt, str) else state.llm.detokenize(prompt.tokens).decode(errors="replace")
    return await _respond(state, request, body, prompt, answer, Watch(n_top=body.logprobs), echo)


@router.post("/v1/embeddings")
async def embeddings() -> Response:
    raise ApiError(
        501,
        "embeddings are not served here: a merged cache reads text to go on writing; use an embedding model in llama-server",
        code="not_supported",
    )


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    return {"object": "list", "data": [_model(state_of(request))]}


@router.get("/v1/models/{name:path}")
async def model(name: str, request: Request) -> dict[str, Any]:
    state = state_of(request)
    if name != state.settings.alias:
        raise ApiError(404, f"there is no model {name!r} here; there is {state.settings.alias!r}", code="model_not_found")
    return _model(state)


def _model(state: State) -> dict[str, Any]:
    llm = state.llm
    return {
        "id": state.settings.alias,
        "object": "model",
        "created": state.started,
        "owned_by": "asymkv-gguf",
        "meta": {
            "n_ctx": llm.n_ctx(),
            "n_ctx_train": llm._model.n_ctx_train(),
            "n_vocab": llm.n_vocab(),
            "n_params": llm._model.n_params(),
            "size": llm._model.size(),
        },
    }


async def _prepared(prepare: Callable[[WatchedLlama, B, Mapping[str, Any]], Prompt], state: State, body: B) -> Prompt:
    """Long texts take a while to tokenize, so not on the event loop."""
    try:
        return await anyio.to_thread.run_sync(prepare, state.llm, body, state.settings.sampling)
    except ValueError as error:  # what the vocabulary, or UTF-8, cannot spell
        raise failed(error) from error


async def _respond(
    state: State,
    request: Request,
    body: ChatRequest | CompletionRequest,
    prompt: Prompt,
    answer: Answer,
    watch: Watch,
    echo: str = "",
) -> Response:
    ticket = state.pool.enter(prompt.tokens)  # refused before anything is sent
    if body.stream:
        work = _streaming(prompt, answer, watch, bool(body.return_progress))
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        events = _events(state, ticket, work, answer, watch, echo, with_usage)

        def abandon() -> None:
            watch.stop()
            state.pool.leave(ticket)

        return Stream(events, abandon)
    return await _whole(state, request, ticket, _at_once(prompt, answer, watch, echo), watch)


class Stream(EventSourceResponse):
    """Events for a client. If it leaves before the first one was asked for, `events` never starts, and never ends."""

    def __init__(self, events: AsyncIterator[ServerSentEvent], abandon: Callable[[], None]) -> None:
        # the grace period: at the server's end our own last event says what happened
        super().__init__(events, sep="\n", shutdown_event=anyio.Event(), shutdown_grace_period=30)
        self._abandon = abandon

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._abandon()


def _at_once(prompt: Prompt, answer: Answer, watch: Watch, echo: str) -> Work:
    def work(slot: Slot, emit: Emit) -> None:
        emit(answer.whole(prompt.call(slot.llm), watch, slot, echo))

    return work


def _streaming(prompt: Prompt, answer: Answer, watch: Watch, with_progress: bool) -> Work:
    def work(slot: Slot, emit: Emit) -> None:
        if with_progress:
            watch.on_batch = lambda watch: emit(answer.progress(watch))
        for chunk in prompt.call(slot.llm):
            emit(answer.chunk(chunk, watch, slot))

    return work


async def _events(
    state: State, ticket: Ticket, work: Work, answer: Answer, watch: Watch, echo: str, with_usage: bool
) -> AsyncIterator[ServerSentEvent]:
    """A stream's events. An error can only be told as one of them: the status was sent before."""
    items = produce(state.pool, ticket, work, watch)
    try:
        if echo:
            yield _event(answer.echo(echo))
        last: dict[str, Any] | None = None
        async for item in items:
            if item["choices"][0]["finish_reason"] is None:
                yield _event(item)
            else:
                last = item  # sent when the slot is free: the client's next request should find its cache there
        if last is not None:
            yield _event(last)
        if with_usage:
            yield _event(answer.last_usage(watch))
        yield ServerSentEvent(data="[DONE]")
    except Exception as error:
        yield _event(failed(error).body())
    finally:
        await items.aclose()  # type: ignore[attr-defined]


def _event(value: dict[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(data=json.dumps(value))  # ASCII: some clients take U+2028 for the end of a line


async def _whole(state: State, request: Request, ticket: Ticket, work: Work, watch: Watch) -> Response:
    """The answer at once, unless the client leaves before."""

    async def only() -> dict[str, Any]:
        items = produce(state.pool, ticket, work, watch)
        try:
            # to the end, when the slot is free: the client's next request should find its cache there
            (item,) = [item async for item in items]
            return item
        finally:
            await items.aclose()  # type: ignore[attr-defined]

    answering = asyncio.ensure_future(only())
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            return Response(status_code=CLIENT_LEFT)
        return JSONResponse(answering.result())
    except Exception as error:
        raise failed(error) from error
    finally:
        for task in (answering, leaving):
            task.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
