"""Runs an answer in a slot and hands over, on the event loop, what it produces."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from . import errors
from .slots import Pool, Slot, Ticket
from .watched import Stopped, Watch

Emit = Callable[[dict[str, Any]], None]
Work = Callable[[Slot, Emit], None]


@dataclass(frozen=True)
class _End:
    error: BaseException | None


async def produce(pool: Pool, ticket: Ticket, work: Work, watch: Watch) -> AsyncIterator[dict[str, Any]]:
    """Waits for a slot, runs `work` in its thread, and yields what that emits.

    However this ends (closed or cancelled, because the client left), the place in the queue or the slot becomes free.
    """
    loop = asyncio.get_running_loop()
    items: asyncio.Queue[dict[str, Any] | _End] = asyncio.Queue()
    try:
        await ticket.slot
        job = pool.start(ticket, lambda slot: work(slot, lambda item: _post(loop, items, item)), watch)
        job.add_done_callback(lambda job: items.put_nowait(_End(job.exception())))
        while not isinstance(item := await items.get(), _End):
            yield item
        if isinstance(item.error, Stopped):
            raise errors.stopping()
        if item.error is not None:
            raise item.error
    finally:
        watch.stop()
        pool.leave(ticket)


def _post(loop: asyncio.AbstractEventLoop, items: asyncio.Queue[Any], item: dict[str, Any]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
        loop.call_soon_threadsafe(items.put_nowait, item)
