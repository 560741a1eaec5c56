"""What the routes share: the settings, the slots, the metrics."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import cast

from fastapi import Request

from .metrics import Metrics
from .settings import Settings
from .slots import Pool
from .watched import WatchedLlama


@dataclass(frozen=True)
class State:
    settings: Settings
    pool: Pool
    metrics: Metrics
    started: int = field(default_factory=lambda: int(time.time()))

    @property
    def llm(self) -> WatchedLlama:
        """For what needs the vocabulary and the chat template only: any slot's will do, in any thread."""
        return self.pool.slots[0].llm


def state_of(request: Request) -> State:
    return cast(State, request.app.state.asymkv)
