"""The process: its socket, its signals, its end."""

from __future__ import annotations

import copy
import errno
import os
import signal
import socket
import sys
from types import FrameType

import click
import uvicorn

from .app import create_app
from .settings import Settings
from .state import State

_INTERRUPTED = 130


class _Server(uvicorn.Server):
    """Says where it listens, and ends what runs when it is told to stop."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            # somebody does not want to wait for the batch that is being computed
            os._exit(_INTERRUPTED)
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            click.echo(f"listening on {_url(listener)}", err=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        state: State = self.config.app.state.asymkv  # type: ignore[union-attr]
        await state.pool.stop()  # uvicorn waits for running requests, and those for their slots
        await super().shutdown(sockets)


def serve(settings: Settings, listener: socket.socket) -> None:
    """Until SIGINT (KeyboardInterrupt) or SIGTERM (returns)."""
    app = create_app(settings)
    logs = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    logs["handlers"]["access"]["stream"] = "ext://sys.stderr"  # nothing goes to stdout here
    config = uvicorn.Config(
        app,
        log_config=logs,
        log_level="info" if settings.verbose else "error",
        access_log=settings.verbose,
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=30,
    )
    # uvicorn raises the signal again when everything has ended; SIGTERM then must not kill
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        _Server(config).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)


def bind(host: str, port: int) -> socket.socket:
    """Before the model is loaded, so that a taken port is known at once; nobody can connect yet."""
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ValueError(f"--host {host} is no address of this machine: {error.strerror}") from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"port {port} of {host} is in use; choose another --port (0: any free one)") from error
        raise ValueError(
            f"cannot listen on port {port} of {host}: {error.strerror}; choose another --host or --port"
        ) from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
