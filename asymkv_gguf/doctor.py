"""What there is to know about an installation: each check gives a line, its data, and what to do if it failed.

Nothing of the native library is imported before a check asks for it, so that a broken installation can be looked at, too.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

GIB = 1 << 30

Status = Literal["ok", "note", "failed"]


@dataclass
class Check:
    """One line of the report."""

    name: str
    text: str
    status: Status = "ok"
    remedy: str = ""
    data: dict[str, Any] = field(default_factory=dict)


def examine(rpc_servers: str | None = None) -> Iterator[Check]:
    """All checks, one after the other; none of them raises. What needs the native library comes after it, if it loads."""
    first: dict[str, Callable[[], Check]] = {
        "versions": versions,
        "memory": memory,
        "model cache": model_cache,
        "extras": extras,
        "libraries": libraries,
    }
    native: dict[str, Callable[[], Check]] = {
        "backends": backends,
        "CPU": cpu,
        "native ops": native_ops,
        "compression": compression,
        "RPC": rpc,
        "self-test": self_test,
    }
    if rpc_servers is not None:
        native["RPC workers"] = lambda: workers(rpc_servers)
    last = None
    for name, check in first.items():
        yield (last := _checked(name, check))
    if last is not None and last.status != "failed":
        for name, check in native.items():
            yield _checked(name, check)


def _checked(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:  # whatever it is, it belongs into the report
        return Check(name, " ".join(str(error).split()) or type(error).__name__, "failed", "reinstall asymkv-gguf with pip")


def versions() -> Check:
    from .native.loader import BINDING, BINDING_VERSION

    data: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("asymkv-gguf", BINDING):
        try:
            data[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            data[name] = None
    text = (
        f"asymkv-gguf {data['asymkv-gguf'] or '(not installed, runs from source)'}, {BINDING} {data[BINDING] or 'missing'}, "
        f"Python {data['python']} on {data['platform']}"
    )
    if (data[BINDING] or "").split("+")[0] != BINDING_VERSION:
        return Check("versions", text, "failed", f"pip install {BINDING}=={BINDING_VERSION}", data)
    return Check("versions", text, data=data)


def libraries() -> Check:
    from .native import loader

    try:
        native = loader.load()
    except ImportError as error:
        sentence, _, remedy = str(error).rpartition("; ")
        return Check("libraries", sentence or str(error), "failed", remedy or "reinstall asymkv-gguf")
    import llama_cpp

    from .native.ggml import ggml

    loaded = sorted({str(path) for path in loader.loaded_libraries() if re.match(r"lib(llama|ggml)|llama|ggml", path.name)})
    version = llama_cpp.llama_cpp._lib.llama_version
    version.restype = llama_cpp.ctypes.c_char_p
    data = {
        "libllama": str(native.library),
        "ggml": str(native.ggml_dir),
        "bundled": native.bundled,
        "loaded": loaded,
        "llama.cpp_version": version().decode(),
        "ggml_version": ggml().version(),
    }
    origin = "our own" if native.bundled else "llama-cpp-python's"
    return Check(
        "libraries",
        f"{native.library} (llama.cpp {data['llama.cpp_version']}), {origin} ggml {data['ggml_version']} in {native.ggml_dir}",
        data=data,
    )


def backends() -> Check:
    from .native.ggml import ggml
    from .native.loader import BINDING, BINDING_VERSION
    from .stats import size_text

    devices = ggml().devices()
    data = {
        "backends": list(ggml().backends()),
        "devices": [
            {
                "name": device.name,
                "description": device.description,
                "kind": device.kind,
                "memory_free": device.memory_free,
                "memory_total": device.memory_total,
            }
            for device in devices
        ],
    }
    lines = [
        f"{device.name} ({device.description}, {device.kind}, {size_text(device.memory_free)} of "
        f"{size_text(device.memory_total)} free)"
        for device in devices
    ]
    if not devices:
        return Check("backends", "none", "failed", f"reinstall {BINDING}=={BINDING_VERSION}", data)
    return Check("backends", ", ".join(lines), data=data)


def native_ops() -> Check:
    from .llama import _api, _native
    from .native.ggml import ggml
    from .native.loader import BINDING
    from .stats import NATIVE_ATTN, NATIVE_COMPRESS

    names = {NATIVE_ATTN: "attention with cardinalities", NATIVE_COMPRESS: "compression"}
    forbidden = os.environ.get("ASYMKV_NATIVE_OPS") == "0"
    found = {
        device.name: [] if forbidden else [name for bit, name in names.items() if device.native_ops & bit]
        for device in ggml().devices()
    }
    data = {
        "attention": bool(_api.native_ops() & NATIVE_ATTN),
        "devices": {device: "native" if has else "portable" for device, has in found.items()},
    }
    if any(found.values()):
        lines = [f"{device}: {' and '.join(has) or 'none, composed of stock ops'}" for device, has in found.items()]
        return Check("native ops", "; ".join(lines), data=data)
    if forbidden:
        why = "ASYMKV_NATIVE_OPS=0 forbids them"
    elif _native.bundled:
        why = "no device has them"
    else:
        why = f"{BINDING}'s ggml has none; the bundled mode has (docs/build.md)"
    return Check("native ops", f"none, all is composed of stock ops: {why}", data=data)


def compression() -> Check:
    from .llama import _api
    from .native.ggml import ggml
    from .stats import NATIVE_ATTN, NATIVE_COMPRESS

    on_device = bool(_api.native_ops() & NATIVE_COMPRESS) and os.environ.get("ASYMKV_COMPRESS") != "host"
    on_cpu = all(device.kind in ("CPU", "accelerator") for device in ggml().devices())
    moved = "those of layers on a GPU there" if on_device else "the slots of layers on a GPU are copied from and to it"
    where = "" if on_cpu else f"; {moved}"
    ops = {"SET_ROWS": "observed queries"}
    if not _api.native_ops() & NATIVE_ATTN:
        ops["ADD"] = "cardinalities"
    graph = " and ".join(f"{op} ({what})" for op, what in ops.items())
    return Check(
        "compression",
        f"planned and merged on the CPU{where}; in the graph, stock {graph}",
        data={"path": "device" if on_device else "host", "graph_ops": list(ops)},
    )


def cpu() -> Check:
    from .native.ggml import ggml

    features = ggml().backends().get("CPU", [])
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    data = {"cores": cores, "usable_cores": usable, "features": features}
    text = f"{usable} of {cores} cores usable; {' '.join(features) or 'no features known'}"
    if platform.machine().lower() in ("x86_64", "amd64") and "AVX2" not in features:
        remedy = "build llama-cpp-python on this machine (pip install --no-binary llama-cpp-python), if its CPU has AVX2"
        return Check("CPU", f"{text}; without AVX2 everything is slow", "note", remedy, data)
    return Check("CPU", text, data=data)


def memory() -> Check:
    from .stats import size_text

    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
    available = available_memory()
    data = {"total": total, "available": available}
    if total is None or available is None:
        return Check("memory", "not known on this system" if total is None else f"{size_text(total)} in all", data=data)
    text = f"{size_text(available)} of {size_text(total)} available"
    if available < GIB:
        return Check("memory", text, "note", "close other programs, or take a smaller model", data)
    return Check("memory", text, data=data)


def available_memory() -> int | None:
    """Bytes that this process may still take: the machine's, or what its container leaves. None: the system does not tell."""
    limits = []
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        limits += [int(match.group(1)) * 1024] if match else []
    except OSError:
        pass
    try:
        limit, used = (Path("/sys/fs/cgroup", name).read_text().strip() for name in ("memory.max", "memory.current"))
        limits += [max(int(limit) - int(used), 0)] if limit != "max" else []
    except (OSError, ValueError):
        pass
    return min(limits, default=None)


def model_cache() -> Check:
    from huggingface_hub import constants, get_token, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    from .stats import size_text

    directory = Path(constants.HF_HUB_CACHE)
    try:
        report = scan_cache_dir(directory)
        size, n_repos = report.size_on_disk, len(report.repos)
    except CacheNotFound:
        size, n_repos = 0, 0
    there = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(there).free
    data = {
        "directory": str(directory),
        "bytes": size,
        "repositories": n_repos,
        "free": free,
        "endpoint": constants.ENDPOINT,
        "offline": constants.HF_HUB_OFFLINE,
        "token": get_token() is not None,
    }
    text = f"{directory}: {n_repos} repositories, {size_text(size)}; {size_text(free)} free on its disk"
    text += "; token set" if data["token"] else "; no token (HF_TOKEN), needed for gated models only"
    if not os.access(there, os.W_OK):
        return Check("model cache", text + "; not writable", "failed", "set HF_HOME to a directory that you can write", data)
    if free < 5 * GIB:
        return Check("model cache", text, "note", "free some space, or set HF_HOME to a larger disk, for -hf", data)
    return Check("model cache", text, data=data)


def extras() -> Check:
    """What was installed of the optional parts, as the package's metadata lists them."""
    try:
        requirements = importlib.metadata.requires("asymkv-gguf") or []
    except importlib.metadata.PackageNotFoundError:
        return Check("extras", "not known, since the package runs from source", data={"extras": None})
    found: dict[str, dict[str, str | None]] = {}
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        if name is None or extra is None or extra.group(1) in ("test", "dev") or name.group(0) == "asymkv-gguf":
            continue
        try:
            version: str | None = importlib.metadata.version(name.group(0))
        except importlib.metadata.PackageNotFoundError:
            version = None
        found.setdefault(extra.group(1), {})[name.group(0)] = version
    missing = {extra: [name for name, version in names.items() if version is None] for extra, names in found.items()}
    parts = [f"{extra} ({'without ' + ', '.join(names) if names else 'installed'})" for extra, names in missing.items()]
    absent = [extra for extra, names in missing.items() if names]
    text, data = ", ".join(parts) or "none are defined", {"extras": found}
    if absent:
        return Check("extras", text, "note", f"if you want them: pip install 'asymkv-gguf[{','.join(absent)}]'", data)
    return Check("extras", text, data=data)


def rpc() -> Check:
    from .rpc import PROTOCOL, library

    library()
    version = ".".join(map(str, PROTOCOL))
    return Check("RPC", f"protocol {version}; asymkv-gguf rpc-worker lends a machine", data={"protocol": version})


def workers(servers: str) -> Check:
    from .errors import RpcError
    from .rpc import check_worker, parse_endpoints

    found: dict[str, str] = {}
    for endpoint in parse_endpoints(servers):
        try:
            found[endpoint] = ".".join(map(str, check_worker(endpoint)))
        except RpcError as error:
            sentence, _, remedy = str(error).rpartition("; ")
            return Check("RPC workers", sentence, "failed", remedy, {"workers": found})
    return Check("RPC workers", f"{', '.join(found)} answer", data={"workers": found})


def self_test() -> Check:
    """The packaged model reads a text with a cache that is much too small for it, and has to answer all the same."""
    from . import recall
    from .cli.demo import BUDGET, CHUNK, read_and_ask
    from .config import AsymKVConfig

    document = recall.make_document(2)
    outcome = read_and_ask(document, AsymKVConfig(chunk=CHUNK).replace(budget=BUDGET))
    n, n_right = len(document.questions), round(outcome.accuracy * len(document.questions))
    data = {
        "right": n_right,
        "questions": n,
        "tokens": outcome.tokens,
        "slots": outcome.slots,
        "seconds": outcome.seconds,
    }
    text = f"{n_right} of {n} answers right, {outcome.tokens:,} tokens in {outcome.slots} slots, {outcome.seconds:.1f} s"
    if n_right < n or outcome.slots >= outcome.tokens:
        remedy = "reinstall asymkv-gguf and llama-cpp-python; if it stays, report it with the output of doctor --json"
        return Check("self-test", text, "failed", remedy, data)
    return Check("self-test", text, data=data)
