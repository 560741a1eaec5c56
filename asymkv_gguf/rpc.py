"""ggml's RPC workers: a model's layers, and their part of the cache, on other machines.

    asymkv-gguf rpc-worker --host 192.168.1.7          on the other machine
    Llama("model.gguf", asymkv=True, rpc_servers="192.168.1.7:50052")

The protocol has no authentication and no encryption: workers belong into a network that nobody else can reach.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import cffi

from .errors import RpcError
from .native.ggml import Device, ggml
from .native.loader import library_file, load

DEFAULT_PORT: Final = 50052
PROTOCOL: Final = (7, 0)  # RPC_PROTO_MAJOR_VERSION and _MINOR_ of ggml-rpc.h
MAX_WORKERS: Final = 16  # GGML_RPC_MAX_SERVERS

_ANSWER_SECONDS = 10.0
_HELLO = 14  # the command's number, the same in all versions
_CAPS_BYTES = 24  # what either side can do beside TCP; zeros: nothing

_DECLARATIONS = """
    void * ggml_backend_rpc_add_server(const char * endpoint);
    bool ggml_backend_rpc_is_lost(const char * endpoint);
    void ggml_backend_rpc_start_server(const char * endpoint, const char * cache_dir, size_t n_threads,
                                       size_t n_devices, void ** devices);
"""


@functools.cache
def library() -> tuple[Any, Any]:
    """The RPC backend as (cffi, functions), loaded when first asked for; RpcError if the build has none."""
    directory = load().library.parent
    path = library_file(directory, "ggml-rpc")
    if path is None:
        raise RpcError(
            f"{directory} has no library ggml-rpc, so this build of asymkv-gguf has no RPC; install it again with pip"
        )
    ffi: Any = cffi.FFI()
    ffi.cdef(_DECLARATIONS)
    return ffi, ffi.dlopen(str(path))


def parse_endpoints(value: str | Sequence[str]) -> tuple[str, ...]:
    """`"host:port,host"`, or a list of such, as endpoints with ports; ValueError in one sentence."""
    given = value.split(",") if isinstance(value, str) else list(value)
    endpoints = tuple(_endpoint(text) for text in given)
    if not endpoints or len(endpoints) > MAX_WORKERS:
        raise ValueError(f"{len(endpoints)} RPC workers were given; name 1 to {MAX_WORKERS}, as host:port,host:port")
    for endpoint, count in Counter(endpoints).items():
        if count > 1:
            raise ValueError(f"RPC worker {endpoint} is named twice; name each worker once")
    return endpoints


def _endpoint(text: str) -> str:
    host, colon, port = str(text).strip().partition(":")
    number = int(port) if port.isascii() and port.isdecimal() else DEFAULT_PORT if not colon else 0
    if not host or not 1 <= number <= 65535:
        raise ValueError(f"{text!r} names no RPC worker; write host:port, e.g. 192.168.1.7:{DEFAULT_PORT}")
    return f"{host}:{number}"


def check_worker(endpoint: str, seconds: float = _ANSWER_SECONDS) -> tuple[int, int, int]:
    """Shakes hands with a worker, as ggml will; returns its protocol version, or raises RpcError in one sentence."""
    host, port = endpoint.rsplit(":", 1)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:  # ggml's client knows IPv4 only
        connection.settimeout(seconds)
        try:
            connection.connect((host, int(port)))
        except OSError as error:
            reason = error.strerror or str(error)
            raise RpcError(f"RPC worker {endpoint} cannot be reached ({reason}); {_remedy(host, port)}") from None
        try:
            version = _shake_hands(connection)
        except TimeoutError:
            raise RpcError(
                f"RPC worker {endpoint} did not answer within {seconds:g} s; a worker serves one process at a time, "
                "so end the one that uses it, or start the worker again"
            ) from None
    if version is None:
        raise RpcError(f"what answers at {endpoint} is no RPC worker of this version; {_remedy(host, port)}")
    if version[0] != PROTOCOL[0] or version[1] > PROTOCOL[1]:
        raise RpcError(
            f"RPC worker {endpoint} speaks protocol {'.'.join(map(str, version))}, but this asymkv-gguf speaks "
            f"{PROTOCOL[0]}.{PROTOCOL[1]}; run the same version of asymkv-gguf on both machines"
        )
    return version


def _remedy(host: str, port: str) -> str:
    return f"start it there: asymkv-gguf rpc-worker --host {host} --port {port}"


def _shake_hands(connection: socket.socket) -> tuple[int, int, int] | None:
    """The worker's version; None if it hangs up or says something else."""
    with contextlib.suppress(ConnectionError):
        connection.sendall(struct.pack("<BQ", _HELLO, _CAPS_BYTES) + bytes(_CAPS_BYTES))
    expected = 8 + 4 + _CAPS_BYTES
    answer = b""
    while len(answer) < expected:
        try:
            received = connection.recv(expected - len(answer))
        except ConnectionError:  # hung up, too
            received = b""
        if not received:
            break
        answer += received
    if len(answer) < 12 or struct.unpack_from("<Q", answer)[0] > 1024:
        return None
    return answer[8], answer[9], answer[10]


# how many open models use a worker: they share one connection, and a second handshake would wait for its end
_in_use: Counter[str] = Counter()


class Workers:
    """The workers of one model, from opening to closing it."""

    def __init__(self, endpoints: str | Sequence[str]) -> None:
        self.endpoints = parse_endpoints(endpoints)
        self._ffi, self._lib = library()
        for endpoint in self.endpoints:
            if not _in_use[endpoint]:
                check_worker(endpoint)
            elif self._is_lost(endpoint):
                raise RpcError(f"RPC worker {endpoint} went away under another model of this process; close that model first")
        self.devices = [device for endpoint in self.endpoints for device in self._devices(endpoint)]
        local = [device for device in ggml().devices() if device.kind == "GPU"]
        addresses = [device.address for device in (*self.devices, *local)]
        # the workers come first, as in llama.cpp; the list ends with a null pointer and has to outlive the model's loading
        self._list = self._ffi.new("void *[]", [self._ffi.cast("void *", address) for address in (*addresses, 0)])
        self._open = True
        _in_use.update(self.endpoints)

    @property
    def device_list(self) -> int:
        """Address of what llama_model_params.devices takes."""
        return int(self._ffi.cast("uintptr_t", self._list))

    def _devices(self, endpoint: str) -> list[Device]:
        reg = self._lib.ggml_backend_rpc_add_server(endpoint.encode())
        if reg == self._ffi.NULL:
            raise RpcError(f"RPC worker {endpoint} went away while it was asked for its devices; start it again")
        api = ggml()
        reg = api.ffi.cast("ggml_backend_reg_t", int(self._ffi.cast("uintptr_t", reg)))
        count = api.call("ggml_backend_reg_dev_count", reg)
        return [api.device(api.call("ggml_backend_reg_dev_get", reg, i)) for i in range(count)]

    def _is_lost(self, endpoint: str) -> bool:
        return bool(self._lib.ggml_backend_rpc_is_lost(endpoint.encode()))

    def check(self) -> None:
        """RpcError if a worker went away: what was computed since then is worth nothing."""
        lost = [endpoint for endpoint in self.endpoints if self._is_lost(endpoint)]
        if lost:
            raise RpcError(
                f"RPC worker {' and '.join(lost)} went away, and its part of the model and the cache with it; "
                "start it again and open the model again"
            )

    @contextlib.contextmanager
    def watched(self, synchronize: Callable[[], None]) -> Iterator[None]:
        """Nothing leaves the block that a lost worker would have had to compute."""
        try:
            yield
            synchronize()
        except (RuntimeError, ValueError):
            self.check()
            raise
        self.check()

    def close(self) -> None:
        if self._open:
            self._open = False
            _in_use.subtract(self.endpoints)


def serve(endpoint: str, devices: Sequence[Device], n_threads: int, cache_dir: str | None = None) -> None:
    """Be a worker: serves one client after the other, and returns only when it cannot listen."""
    ffi, lib = library()
    pointers = ffi.new("void *[]", [ffi.cast("void *", device.address) for device in devices])
    directory = ffi.NULL if cache_dir is None else ffi.new("char[]", cache_dir.encode())
    lib.ggml_backend_rpc_start_server(endpoint.encode(), directory, n_threads, len(devices), pointers)
