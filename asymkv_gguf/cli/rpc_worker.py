"""`asymkv-gguf rpc-worker`: lend this machine to models that run elsewhere."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import sys
import threading

import click

from ..errors import RpcError
from ..native.ggml import Device, ggml
from ..rpc import DEFAULT_PORT, check_worker, library, serve
from ..stats import size_text

_HOST = "127.0.0.1"


@click.command(
    "rpc-worker", context_settings={"show_default": True}, short_help="Compute layers of models that run on another machine."
)
@click.option("-H", "--host", default=_HOST, metavar="HOST", help="Address to listen on.")
@click.option("-p", "--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, help="Port to listen on; 0: any free one.")
@click.option("-t", "--threads", "n_threads", type=click.IntRange(1, 512), help="CPU threads; default: half of the cores.")
@click.option("-d", "--device", "names", metavar="NAME,...", help="Devices to lend; default: the GPUs, else the CPU.")
@click.option("-v", "--verbose", is_flag=True, help="ggml's own log on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object when ready.")
def rpc_worker(host: str, port: int, n_threads: int | None, names: str | None, verbose: bool, as_json: bool) -> int:
    """Compute layers of models that run on another machine, with `--rpc HOST:PORT` there.

    Serves one process at a time, until Ctrl-C. The protocol has no password and no encryption: whoever reaches the port
    can use this machine's memory. So it listens on this machine only, unless --host says otherwise.
    """
    library()
    devices = choose_devices(names)
    address = resolve(host)
    port = bindable_port(address, port)
    if not ipaddress.ip_address(address).is_loopback:
        click.echo(
            f"rpc-worker: anybody who reaches {address}:{port} can use this worker and crash it; the protocol has no password, "
            "so keep the port inside of a network that you trust",
            err=True,
        )
    n_threads = n_threads or max((os.cpu_count() or 1) // 2, 1)
    # ggml reports on stdout, which is for JSON here
    out = os.fdopen(os.dup(1), "w")
    sys.stdout.flush()
    os.dup2(2 if verbose else os.open(os.devnull, os.O_WRONLY), 1)
    server = threading.Thread(target=serve, args=(f"{address}:{port}", devices, n_threads), daemon=True)
    server.start()
    try:
        if is_ready("127.0.0.1" if address == "0.0.0.0" else address, port, server):
            lent = ", ".join(f"{d.name} ({d.description}, {size_text(d.memory_free)} free)" for d in devices)
            click.echo(f"rpc-worker: {lent} at {address}:{port}; use it with --rpc {address}:{port}", err=True)
            if as_json:
                report = {"endpoint": f"{address}:{port}", "threads": n_threads, "devices": [described(d) for d in devices]}
                print(json.dumps(report), file=out, flush=True)
            server.join()
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        # at once: the server's thread is inside of ggml and cannot be asked to end
        os._exit(130)
    raise RpcError(f"the worker stopped listening on {address}:{port}; start it again")


def choose_devices(names: str | None) -> list[Device]:
    devices = ggml().devices()
    if names is None:
        gpus = [device for device in devices if device.kind in ("GPU", "integrated GPU")]
        return gpus or [device for device in devices if device.kind == "CPU"]
    by_name = {device.name.lower(): device for device in devices}
    chosen = []
    for name in names.split(","):
        if name.strip().lower() not in by_name:
            known = ", ".join(device.name for device in devices)
            raise click.UsageError(f"there is no device {name.strip()!r}; this machine has {known}")
        chosen.append(by_name[name.strip().lower()])
    return chosen


def resolve(host: str) -> str:
    """The IPv4 address, which is all that ggml's server listens on."""
    try:
        return socket.gethostbyname(host)
    except OSError:
        raise click.UsageError(f"{host!r} is no IPv4 address or host name; give --host {_HOST} or 0.0.0.0") from None


def bindable_port(address: str, port: int) -> int:
    """`port` (for 0, a free one), after a try: ggml would not say why it cannot listen."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as error:
            raise RpcError(f"cannot listen on {address}:{port}: {error.strerror}; choose another --host or --port") from None
        return int(probe.getsockname()[1])


def is_ready(address: str, port: int, server: threading.Thread) -> bool:
    """Waits until the server answers, or has ended."""
    while server.is_alive():
        try:
            check_worker(f"{address}:{port}", seconds=5)
            return True
        except RpcError:
            server.join(0.02)
    return False


def described(device: Device) -> dict[str, object]:
    return {
        "name": device.name,
        "description": device.description,
        "memory_free": device.memory_free,
        "memory_total": device.memory_total,
    }
