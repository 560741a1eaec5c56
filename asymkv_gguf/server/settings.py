"""What the server is told at its start."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..checkpoints import MAX_CHECKPOINTS


@dataclass(frozen=True)
class Settings:
    """`llama` are the keywords of `Llama`, `sampling` what a request gets that says nothing about it."""

    llama: Mapping[str, Any]
    alias: str
    sampling: Mapping[str, Any] = field(default_factory=dict)
    parallel: int = 1
    queue: int = 64
    checkpoints: int = MAX_CHECKPOINTS
    max_body_bytes: int = 64 << 20
    api_key: str | None = None
    host: str = "127.0.0.1"
    verbose: bool = False


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
