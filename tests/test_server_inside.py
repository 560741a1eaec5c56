"""What no client of a sound server can bring about, or only by being very quick."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asymkv_gguf.cli.demo import MODEL
from asymkv_gguf.server.gate import Gate
from asymkv_gguf.server.metrics import Metrics
from asymkv_gguf.server.settings import Settings
from asymkv_gguf.server.slots import Pool, Slot
from asymkv_gguf.server.watched import Stopped, Watch, WatchedLlama


def test_a_route_that_fails_is_counted_as_a_failure_and_not_as_a_client_that_left() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("a bug")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        raise AssertionError("nothing is sent from here")

    metrics = Metrics(Pool([], 0))
    gate = Gate(broken, Settings({}, "model"), metrics)
    with pytest.raises(RuntimeError, match="a bug"):
        asyncio.run(gate({"type": "http", "path": "/x", "headers": []}, receive, send))
    assert b'asymkv_requests_total{route="other",status="500"} 1.0' in metrics.text()


def test_a_request_that_got_its_slot_just_before_the_end_is_stopped_too() -> None:
    llm = WatchedLlama(str(MODEL), asymkv=True, n_ctx=512, verbose=False)
    slot = Slot(0, llm)
    worked: list[bool] = []

    async def late() -> None:
        pool = Pool([slot], 0)
        ticket = pool.enter([1])
        stopping = asyncio.ensure_future(pool.stop())
        while not pool.stopping:
            await asyncio.sleep(0)
        with pytest.raises(Stopped):
            await pool.start(ticket, lambda slot: worked.append(True), Watch())
        await stopping

    asyncio.run(late())
    assert worked == []
    slot.close()
    llm.close()
