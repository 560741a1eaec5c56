"""A Hugging Face hub on this machine: its HTTP protocol as huggingface_hub speaks it, and its failures."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import unquote, urlsplit

VALID_TOKEN = "hf_a_valid_token"


@dataclass
class Repo:
    """A repository at one commit."""

    files: dict[str, bytes]
    gated: bool = False
    xet: bool = False  # the hub's newer storage; files can be had over plain HTTP all the same
    claimed_size: int | None = None  # instead of the files' own, in the listing
    promised_sha256: str | None = None  # instead of the files' own
    commit: str = "a" * 40
    next_commit: str | None = None  # pushed
    push_after: int = 1  # as soon as so many files were sent
    history: set[str] = field(default_factory=set)  # older commits that can still be had


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    status: int = 0


@dataclass
class Breakage:
    """The next bodies end after so many bytes, with a closed (or a reset) connection."""

    after: list[int] = field(default_factory=list)
    reset: bool = False
    stall: bool = False  # neither close nor go on: whoever downloads waits
    status: int | None = None  # every request is answered so
    login_page: bool = False  # every request is answered by somebody else


class HubServer:
    """Serves `repos` at `endpoint` until the `with` block ends; `requests` is what was asked."""

    def __init__(self, repos: dict[str, Repo]) -> None:
        self.repos = repos
        self.requests: list[Request] = []
        self.breakage = Breakage()
        self.stalled = threading.Event()
        self.honours_ranges = True
        self._closing = threading.Event()
        outer = self

        class Handler(_Handler):
            hub = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def wait_for_close(self) -> None:
        self._closing.wait()

    def bodies(self, path: str = "") -> list[Request]:
        """The requests for a file's content."""
        return [request for request in self.requests if request.method == "GET" and "/resolve/" in request.path
                and request.path.endswith(path)]  # fmt: skip


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/").removeprefix("datasets/")
        request = Request(self.command, path, self.headers.get("Range"))
        self.hub.requests.append(request)
        if self.hub.breakage.status is not None:
            request.status = self._error(self.hub.breakage.status, "", "out of order")
        elif self.hub.breakage.login_page:
            request.status = self._send(200, b"<html>Welcome to our hotel</html>", {"Content-Type": "text/html"})
        elif self._token() not in (None, VALID_TOKEN):
            request.status = self._error(401, "", "Invalid credentials in Authorization header")
        elif path.startswith("api/") and not path.startswith("api/models/"):
            request.status = self._error(404, "", "not of this hub")
        elif path.startswith("api/models/"):
            request.status = self._model_info(path.removeprefix("api/models/"))
        else:
            request.status = self._resolve(path, request.range)

    def _token(self) -> str | None:
        header = self.headers.get("Authorization")
        return header.removeprefix("Bearer ") if header else None

    def _model_info(self, path: str) -> int:
        repo_id = "/".join(path.split("/")[:2])
        repo = self.hub.repos.get(repo_id)
        if repo is None:  # the real hub does not tell strangers whether a repository exists
            return self._error(404 if self._token() else 401, "RepoNotFound", "Repository not found")
        siblings = [
            {
                "rfilename": name,
                "size": size,
                "blobId": hashlib.sha1(content).hexdigest(),
                "lfs": {"sha256": sha256(content), "size": size, "pointerSize": 134},
            }
            for name, content in repo.files.items()
            for size in [repo.claimed_size or len(content)]
        ]
        info = {"id": repo_id, "modelId": repo_id, "sha": repo.commit, "gated": repo.gated, "siblings": siblings}
        return self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _resolve(self, path: str, range_header: str | None) -> int:
        owner, name, kind, revision, *rest = [*path.split("/"), "", "", "", ""]
        repo = self.hub.repos.get(f"{owner}/{name}")
        if repo is None or kind != "resolve":
            return self._error(404 if self._token() else 401, "RepoNotFound", "Repository not found")
        if repo.gated and self._token() is None:
            return self._error(401, "GatedRepo", "Access to this model is restricted")
        commit = repo.commit if revision == "main" else revision
        if commit != repo.commit and commit not in repo.history:
            return self._error(404, "RevisionNotFound", "Invalid rev id")
        content = repo.files.get("/".join(rest).rstrip("/"))
        if content is None:
            return self._error(404, "EntryNotFound", "Entry not found")
        etag = repo.promised_sha256 or sha256(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if self.command == "GET" and repo.next_commit is not None:
            repo.push_after -= 1
            if repo.push_after == 0:
                repo.commit, repo.next_commit = repo.next_commit, None
        if repo.xet:
            headers["X-Xet-Hash"] = sha256(content)
            headers["Link"] = f'<{self.hub.endpoint}/xet-auth>; rel="xet-auth"'
        if range_header is None or not self.hub.honours_ranges:
            return self._send(200, content, headers)
        first, _, last = range_header.removeprefix("bytes=").partition("-")
        start, stop = int(first), int(last) + 1 if last else len(content)
        if start >= len(content):
            return self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        return self._send(206, content[start:stop], headers)

    def _error(self, status: int, code: str, message: str) -> int:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        return self._send(status, b"", headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> int:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            breakage = self.hub.breakage
            if status in (200, 206) and "ETag" in headers and breakage.after:
                self._break_off(body[: breakage.after.pop(0)], breakage)
            else:
                self.wfile.write(body)
        return status

    def _break_off(self, body: bytes, breakage: Breakage) -> None:
        self.wfile.write(body)
        self.wfile.flush()
        self.close_connection = True
        if breakage.stall:
            self.hub.stalled.set()
            self.hub.wait_for_close()
        elif breakage.reset:  # what a rebooted router does, instead of an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
