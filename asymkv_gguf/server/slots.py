"""The slots: contexts on the same weights, each with a cache and a thread of its own, and the queue before them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..stats import AsymKVStats
from ..tokens import common_prefix
from . import errors
from .watched import Stopped, Watch, WatchedLlama

T = TypeVar("T")

COUNTED = ("compressions", "merges", "evictions", "compress_seconds")  # of AsymKVStats


@dataclass(frozen=True)
class Snapshot:
    """What a slot's cache held when last looked at."""

    tokens: int
    stats: AsymKVStats | None  # None: a stock cache
    checkpoints: int
    checkpoint_bytes: int


class Slot:
    """One context. Its llama.cpp calls run in its own thread, one after the other."""

    def __init__(self, index: int, llm: WatchedLlama) -> None:
        self.index = index
        self.llm = llm
        self.busy = False
        self.used = 0  # when it was last taken: a count, the higher the later
        self.snapshot = self.look()
        self.totals = dict.fromkeys(COUNTED, 0.0)  # since the start; a cache counts for the text that it holds
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=f"slot-{index}")
        self._questions: deque[tuple[Callable[[WatchedLlama], Any], concurrent.futures.Future[Any]]] = deque()

    def common_prefix(self, tokens: npt.NDArray[np.intc]) -> int:
        """Tokens that the cache of this idle slot has in common with the start of a text."""
        return common_prefix(self.llm.input_ids[: self.llm.n_tokens], tokens)

    # asked from the event loop

    def ask(self, question: Callable[[WatchedLlama], T]) -> asyncio.Future[T]:
        """Answers at once if the slot is idle, else between two tokens, or two batches of a prompt."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._questions.append((question, future))
        self._thread.submit(self._answer_questions)
        return asyncio.wrap_future(future)

    def start(self, work: Callable[[Slot], None], watch: Watch) -> concurrent.futures.Future[None]:
        return self._thread.submit(self._run, work, watch)

    def close(self) -> None:
        self._thread.shutdown()

    # in the slot's thread

    def _run(self, work: Callable[[Slot], None], watch: Watch) -> None:
        watch.on_step = self._step
        self.llm.on_rewind = self._rewound
        try:
            with self.llm.watched(watch):
                watch.check()
                work(self)
        except (Stopped, ValueError):
            raise  # what was read is in the cache, and may be read on
        except Exception:
            # nobody knows what the cache holds now
            self.llm._ctx.kv_cache_clear()
            self.llm.reset()
            raise
        finally:
            self._step()

    def _step(self) -> None:
        before, self.snapshot = self.snapshot, self.look()
        if before.stats is not None and self.snapshot.stats is not None:
            for name in COUNTED:
                self.totals[name] += max(getattr(self.snapshot.stats, name) - getattr(before.stats, name), 0)
        self._answer_questions()

    def _rewound(self) -> None:
        """The text is a shorter one now, or a new one: what it had merged is not merged again now."""
        self.snapshot = self.look()

    def look(self) -> Snapshot:
        llm = self.llm
        stats = None if llm.asymkv is None else llm.asymkv_stats()
        return Snapshot(llm.n_tokens, stats, llm.n_checkpoints, llm.checkpoint_bytes)

    def _answer_questions(self) -> None:
        while self._questions:
            question, future = self._questions.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(question(self.llm))
            except Exception as error:
                future.set_exception(error)


@dataclass(eq=False)
class Ticket:
    """A place in the queue; `slot` comes when one is free. `used` when something was started in it, or it was given up."""

    tokens: Sequence[int]
    slot: asyncio.Future[Slot]
    used: bool = False


class Pool:
    """Hands free slots to requests. Everything but the slots' own work happens on the event loop."""

    def __init__(self, slots: Sequence[Slot], queue_limit: int) -> None:
        self.slots = slots
        self.queue_limit = queue_limit
        self.stopping = False
        self.on_finished: Callable[[Watch, bool], None] = lambda watch, stopped: None
        self._waiting: deque[Ticket] = deque()
        self._running: set[Watch] = set()
        self._uses = itertools.count(1)
        self._idle = asyncio.Event()

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    @property
    def n_busy(self) -> int:
        return sum(slot.busy for slot in self.slots)

    def enter(self, tokens: Sequence[int]) -> Ticket:
        """A place in the queue, or the error that says why there is none."""
        if self.stopping:
            raise errors.stopping()
        ticket = Ticket(tokens, asyncio.get_running_loop().create_future())
        if self.n_busy == len(self.slots) and self.n_waiting >= self.queue_limit:
            raise errors.queue_full(self.n_waiting)
        self._waiting.append(ticket)
        self._serve()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Gives up a place, or a slot in which nothing was started; else there is nothing to do."""
        if ticket.used:
            return
        ticket.used = True
        if ticket in self._waiting:
            self._waiting.remove(ticket)
            ticket.slot.cancel()
        elif ticket.slot.done() and not ticket.slot.cancelled() and ticket.slot.exception() is None:
            self._release(ticket.slot.result())

    def start(self, ticket: Ticket, work: Callable[[Slot], None], watch: Watch) -> asyncio.Future[None]:
        """Runs `work` in the slot that a ticket got; afterwards the slot is free again."""
        loop = asyncio.get_running_loop()
        slot = ticket.slot.result()
        ticket.used = True
        self._running.add(watch)
        if self.stopping:  # it got its slot just before
            watch.stop()

        def release(job: concurrent.futures.Future[None]) -> None:
            self._running.discard(watch)
            self.on_finished(watch, isinstance(job.exception(), Stopped))
            self._release(slot)

        job = slot.start(work, watch)
        job.add_done_callback(lambda job: loop.call_soon_threadsafe(release, job))
        return asyncio.wrap_future(job)

    async def stop(self) -> None:
        """Ends what runs and what waits, and takes nothing new."""
        self.stopping = True
        while self._waiting:
            ticket = self._waiting.popleft()
            if not ticket.slot.done():
                ticket.slot.set_exception(errors.stopping())
        for watch in self._running:
            watch.stop()
        while self.n_busy:
            self._idle.clear()
            await self._idle.wait()

    def close(self) -> None:
        for slot in self.slots:
            slot.close()

    def _release(self, slot: Slot) -> None:
        slot.busy = False
        self._serve()
        self._idle.set()

    def _serve(self) -> None:
        """The first in the queue gets a free slot, and so on."""
        while self._waiting and self.n_busy < len(self.slots):
            ticket = self._waiting.popleft()
            if ticket.slot.done():  # its client has just left
                continue
            slot = self._best(ticket.tokens)
            slot.busy, slot.used = True, next(self._uses)
            ticket.slot.set_result(slot)

    def _best(self, tokens: Sequence[int]) -> Slot:
        """The free slot with the longest common prefix, if that is at least half of what the slot holds.

        A shorter one would cost another conversation its cache for little; then it is the slot that was not used longest.
        """
        free = [slot for slot in self.slots if not slot.busy]
        text = np.asarray(tokens, dtype=np.intc)
        common = {slot.index: slot.common_prefix(text) for slot in free}
        alike = [slot for slot in free if common[slot.index] and 2 * common[slot.index] >= slot.llm.n_tokens]
        if alike:
            return max(alike, key=lambda slot: (common[slot.index], -slot.used))
        return min(free, key=lambda slot: slot.used)
