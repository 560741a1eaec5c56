"""Signals that go elsewhere for a while."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from asymkv_gguf.signals import signals_to, uninterrupted

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")


def test_while_something_is_saved_nothing_interrupts_it() -> None:
    with uninterrupted():
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), number)
    with pytest.raises(KeyboardInterrupt):  # as before
        signal.raise_signal(signal.SIGINT)


def test_handlers_come_back_also_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def fail() -> None:
        with signals_to(signal.SIG_IGN, "SIGTERM", "SIGNOTHING"):
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert signal.getsignal(signal.SIGTERM) == before
