"""What every request passes first: the Host header, the key, the size of its body; and what is counted of it."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from .errors import ApiError
from .settings import Settings, is_loopback

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from .metrics import Metrics

_OPEN = ("/", "/health")  # without a key: monitors have none, and the page asks for it
_OPEN_FILES = "/static/"  # the page's files, which hold nothing
_LEFT = 499


class Gate:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = _LEFT

        async def counting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check_host(scope)
            self._check_key(scope)
            replay = await self._read_body(scope, receive)
            if replay is not None:  # None: the client left before it had sent everything
                await self._app(scope, replay, counting)
        except ApiError as error:
            await error.response()(scope, receive, counting)
        except Exception:
            status = 500  # sent where this is caught
            raise
        finally:
            # set where a route was found; paths of strangers must not fill the metrics
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()

    def _check_host(self, scope: Scope) -> None:
        """A web page that had its own name point to this machine could talk to us; its Host header gives it away."""
        if self._settings.api_key is not None or not is_loopback(self._settings.host):
            return
        host = _header(scope, b"host").decode("latin-1")
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if name and not is_loopback(name.strip("[]").lower()):
            raise ApiError(
                403,
                f"the Host header names {name!r}, and this server answers localhost only; give it an --api-key or a --host",
            )

    def _check_key(self, scope: Scope) -> None:
        key = self._settings.api_key
        if key is None or scope["path"] in _OPEN or scope["path"].startswith(_OPEN_FILES):
            return
        kind, _, given = _header(scope, b"authorization").partition(b" ")
        if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), key.encode()):
            raise ApiError(
                401,
                "the API key is missing or wrong; send the header `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _read_body(self, scope: Scope, receive: Receive) -> Receive | None:
        """All of the body, if it is not too large; then `receive` tells only that the client leaves."""
        limit = self._settings.max_body_bytes
        declared = _header(scope, b"content-length")
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        chunks: list[bytes] = []
        more, size = True, 0
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            chunks.append(chunk)
            more = message.get("more_body", False)
        whole: Message | None = {"type": "http.request", "body": b"".join(chunks), "more_body": False}

        async def replay() -> Message:
            nonlocal whole
            if whole is None:
                return await receive()
            message, whole = whole, None
            return message

        return replay


def _header(scope: Scope, name: bytes) -> bytes:
    value: bytes = dict(scope["headers"]).get(name, b"")
    return value


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        f"the body is larger than {limit / (1 << 20):g} MiB; shorten it, or start the server with a larger --max-body-mib",
        code="request_too_large",
        headers={"Connection": "close"},  # what is still coming is not read
    )
