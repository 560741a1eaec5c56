"""Signals that go elsewhere for a while."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any


@contextmanager
def signals_to(handler: Any, *names: str) -> Iterator[None]:
    """These signals, as far as the system has them, go to `handler`. For the main thread."""
    signals = [signal.Signals[name] for name in names if name in signal.Signals.__members__]
    previous = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def uninterrupted() -> AbstractContextManager[None]:
    """While something is saved, an impatient Ctrl-C must not cost it."""
    return signals_to(signal.SIG_IGN, "SIGINT", "SIGHUP", "SIGTERM")
