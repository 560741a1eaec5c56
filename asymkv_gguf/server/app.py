"""The application: slots, routes, and what stands before them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from .. import __version__
from ..sibling import sibling
from . import errors, page, routes_openai, routes_status
from .gate import Gate
from .metrics import Metrics
from .settings import Settings
from .slots import Pool, Slot
from .state import State
from .watched import WatchedLlama


def open_slots(settings: Settings) -> list[Slot]:
    """The model once, and a context for each slot."""
    first = WatchedLlama(**settings.llama)
    first.max_checkpoints = settings.checkpoints
    try:
        llms = [first, *(sibling(first) for _ in range(settings.parallel - 1))]
    except BaseException:
        first.close()
        raise
    return [Slot(index, llm) for index, llm in enumerate(llms)]


def create_app(settings: Settings) -> FastAPI:
    """Opens the model; its contexts are closed when the application ends."""
    pool = Pool(open_slots(settings), settings.queue)
    state = State(settings, pool, Metrics(pool))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await pool.stop()
        pool.close()
        for slot in reversed(pool.slots):  # the first one owns the weights
            slot.llm.close()

    app = FastAPI(title="asymkv-gguf", version=__version__, lifespan=lifespan, openapi_url=None)
    app.state.asymkv = state
    errors.install(app)
    app.include_router(routes_openai.router)
    app.include_router(routes_status.router)
    page.install(app)
    app.add_middleware(Gate, settings=settings, metrics=state.metrics)
    return app
