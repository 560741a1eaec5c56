"""Errors in the shape that OpenAI's clients understand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

_LONGEST_VALUE = 60  # of a value that is named in a message


class ApiError(Exception):
    """One sentence for the client."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.headers = status, code, param, headers

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, dict(self.headers or {}))


def too_long(n_tokens: int, n_ctx: int) -> ApiError:
    return ApiError(
        400,
        f"the text has {n_tokens:,} tokens, and the longest text here is n_ctx = {n_ctx:,} with the answer; "
        "shorten it, or start the server with a larger -c (0: what the model was trained for)",
        code="context_length_exceeded",
    )


def queue_full(n_waiting: int) -> ApiError:
    return ApiError(
        503,
        f"all slots are busy and {n_waiting} requests wait; try again, or start the server with more slots (-np) or --queue",
        code="queue_full",
        headers={"Retry-After": "1"},
    )


def stopping() -> ApiError:
    return ApiError(503, "the server is shutting down; try again when it is back", code="shutting_down")


def failed(error: Exception) -> ApiError:
    """Of an error that came while a slot answered."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UnicodeEncodeError):  # JSON can hold what no text can
        return ApiError(400, f"the text holds half a character, {error.object[error.start]!a}; send whole ones")
    status = 400 if isinstance(error, ValueError) else 500
    return ApiError(status, str(error) or type(error).__name__)


def install(app: FastAPI) -> None:
    """Every error that leaves the app is OpenAI's."""

    @app.exception_handler(ApiError)
    async def of_ours(_: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def of_validation(_: Request, error: RequestValidationError) -> JSONResponse:
        return _invalid(error.errors()[0]).response()

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> JSONResponse:
        message = {
            400: "the body is not JSON that can be read: it is nested too deeply, or has a number of too many digits",
            404: f"there is no {request.url.path} here; the routes are listed in docs/server.md",
            405: f"{request.url.path} does not take {request.method}",
        }.get(error.status_code, str(error.detail))
        return ApiError(error.status_code, message, headers=error.headers).response()

    @app.exception_handler(Exception)
    async def of_bugs(_: Request, error: Exception) -> JSONResponse:
        return ApiError(500, f"the server failed: {error or type(error).__name__}").response()


def _invalid(problem: Mapping[str, Any]) -> ApiError:
    if problem["type"] == "json_invalid":
        reason = problem.get("ctx", {}).get("error", problem["msg"])
        return ApiError(400, f"the body is not JSON ({reason})")
    # without pydantic's names for the alternatives that it tried
    names = [part for part in map(str, problem["loc"]) if part not in ("body", "query", "path", "str") and "[" not in part]
    param = ".".join(names)
    if not param:
        return ApiError(400, "the body must be a JSON object, with Content-Type: application/json")
    if problem["type"] == "missing":
        return ApiError(400, f"{param} is missing", param=param)
    message = str(problem["msg"]).removeprefix("Value error, ")
    value = repr(problem.get("input"))
    if len(value) > _LONGEST_VALUE:
        value = value[:_LONGEST_VALUE] + "..."
    return ApiError(400, f"{param}: {message[:1].lower()}{message[1:]}, not {value}", param=param)
