"""Load the patched libllama into the process, before llama_cpp can load its own.

A process can hold one libllama. llama_cpp chooses it at import, so `import asymkv_gguf` has to come first, or find that
llama_cpp already has ours. ggml is the installed llama-cpp-python's (thin mode), or lies beside our libllama (bundled).
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BINDING = "llama-cpp-python"
BINDING_VERSION = "0.3.36"

_LIB_PATH_VARIABLE = "LLAMA_CPP_LIB_PATH"  # llama_cpp reads it once, at import
_NATIVE_VARIABLE = "ASYMKV_GGUF_NATIVE"  # for development: a directory with lib/ and include/


@dataclass(frozen=True)
class Native:
    """Where the native parts are."""

    library: Path
    header: Path
    ggml_dir: Path
    bundled: bool


@functools.cache
def load() -> Native:
    """Load ggml, our libllama and llama_cpp on top of it; ImportError with one sentence if that cannot be."""
    check_binding_version()
    native = find_native()
    check_nothing_foreign(native)
    if sys.platform == "win32":
        # kept open: the handle would otherwise take the directory back
        _dll_directories.append(os.add_dll_directory(str(native.ggml_dir)))
    for name in ("ggml-base", "ggml"):
        open_library(native.ggml_dir, name)
    before = os.environ.get(_LIB_PATH_VARIABLE)
    os.environ[_LIB_PATH_VARIABLE] = str(native.library.parent)
    try:
        importlib.import_module("llama_cpp")
    except (OSError, RuntimeError) as error:
        raise ImportError(f"llama_cpp could not load {native.library}: {error}; reinstall asymkv-gguf") from error
    finally:
        if before is None:
            del os.environ[_LIB_PATH_VARIABLE]
        else:
            os.environ[_LIB_PATH_VARIABLE] = before
    check_nothing_foreign(native)
    return native


def is_command() -> bool:
    """Whether this process is the command asymkv-gguf, and not somebody's program that imports the package."""
    if Path(sys.argv[0]).stem == "asymkv-gguf":
        return True
    # `python -m asymkv_gguf` imports the package first, under this name
    return sys.argv[0] == "-m" and "asymkv_gguf" in sys.orig_argv


_dll_directories: list[object] = []


def check_binding_version() -> None:
    remedy = f"run: pip install {BINDING}=={BINDING_VERSION}"
    try:
        found = importlib.metadata.version(BINDING)
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(f"asymkv-gguf needs {BINDING} {BINDING_VERSION}, which is not installed; {remedy}") from None
    if found.split("+")[0] != BINDING_VERSION:  # a local suffix names the backend, e.g. +cu124
        raise ImportError(f"asymkv-gguf needs {BINDING} {BINDING_VERSION}, but {found} is installed; {remedy}")


def find_native() -> Native:
    override = os.environ.get(_NATIVE_VARIABLE)
    roots = [Path(override)] if override else package_directories()
    for root in roots:
        library = library_file(root / "lib", "llama")
        header = root / "include" / "asymkv.h"
        if library is not None and header.is_file():
            if library_file(library.parent, "ggml") is not None:
                return Native(library, header, library.parent, bundled=True)
            return Native(library, header, binding_lib_dir(), bundled=False)
    raise ImportError(
        f"asymkv-gguf's libllama is missing from {' and '.join(str(root / 'lib') for root in roots)}; "
        "install the package with pip instead of importing it from its source directory"
    )


def package_directories() -> list[Path]:
    """Where this package lies. Python files and built files may be apart: in an editable installation, or when a source
    directory comes first on the path."""
    roots = [Path(entry) for entry in importlib.import_module("asymkv_gguf").__path__]
    try:
        installed = Path(str(importlib.metadata.distribution("asymkv-gguf").locate_file("asymkv_gguf")))
    except importlib.metadata.PackageNotFoundError:
        return roots
    return roots if installed in roots else [*roots, installed]


def binding_lib_dir() -> Path:
    """The directory with the installed llama-cpp-python's ggml."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise ImportError(f"{BINDING} is installed but has no module llama_cpp; reinstall {BINDING}=={BINDING_VERSION}")
    directory = Path(spec.origin).parent / "lib"
    if library_file(directory, "ggml") is None or library_file(directory, "ggml-base") is None:
        raise ImportError(
            f"asymkv-gguf needs the ggml libraries of {BINDING} {BINDING_VERSION}, but {directory} has none; "
            f"reinstall {BINDING}, or build asymkv-gguf with -DASYMKV_BUNDLE_GGML=ON"
        )
    return directory


def check_nothing_foreign(native: Native) -> None:
    """One libllama and one ggml per process: symbols of a second one would mix with ours."""
    expected = {"llama": native.library.parent, "ggml": native.ggml_dir, "ggml-base": native.ggml_dir}
    for path in loaded_libraries():
        name = library_name(path)
        if name in expected and path.parent.exists() and not path.parent.samefile(expected[name]):
            raise ImportError(
                f"this process has already loaded {path}, but asymkv-gguf needs the one in {expected[name]}; "
                "import asymkv_gguf before llama_cpp, in a fresh process"
            )


def library_name(path: Path) -> str:
    """`ggml-base` for libggml-base.so.0, libggml-base.0.dylib and ggml-base.dll."""
    name = path.name.removeprefix("lib")
    return name.split(".")[0]


def library_file(directory: Path, name: str) -> Path | None:
    if sys.platform == "win32":
        patterns = [f"{name}.dll", f"lib{name}.dll"]
    elif sys.platform == "darwin":
        patterns = [f"lib{name}.dylib", f"lib{name}.so", f"lib{name}.*.dylib"]
    else:
        patterns = [f"lib{name}.so", f"lib{name}.so.*"]
    for pattern in patterns:
        for path in sorted(directory.glob(pattern)):
            return path
    return None


def open_library(directory: Path, name: str) -> None:
    path = library_file(directory, name)
    if path is None:
        raise ImportError(f"{directory} has no library {name}; reinstall asymkv-gguf and {BINDING}=={BINDING_VERSION}")
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(f"{path} could not be loaded: {error}; reinstall {BINDING}=={BINDING_VERSION}") from error


def loaded_libraries() -> Iterator[Path]:
    """Files of the shared libraries in this process, as far as the platform tells."""
    if sys.platform == "win32":
        yield from _loaded_on_windows()
    elif sys.platform == "darwin":
        yield from _loaded_on_macos()
    else:
        yield from _loaded_on_linux()


def _loaded_on_linux() -> Iterator[Path]:
    try:
        lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    except OSError:
        return
    # address perms offset dev inode path
    for name in sorted({fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6}):
        if name.startswith("/"):
            yield Path(name)


def _loaded_on_macos() -> Iterator[Path]:
    dyld = ctypes.CDLL(None)
    dyld._dyld_get_image_name.restype = ctypes.c_char_p
    for index in range(dyld._dyld_image_count()):
        name = dyld._dyld_get_image_name(index)
        if name:
            yield Path(os.fsdecode(name))


def _loaded_on_windows() -> Iterator[Path]:
    kernel32 = ctypes.CDLL("kernel32")
    kernel32.GetModuleHandleW.restype = ctypes.c_void_p
    for name in ("llama.dll", "libllama.dll", "ggml.dll", "ggml-base.dll"):
        handle = kernel32.GetModuleHandleW(ctypes.c_wchar_p(name))
        if handle:
            buffer = ctypes.create_unicode_buffer(32768)
            kernel32.GetModuleFileNameW(ctypes.c_void_p(handle), buffer, len(buffer))
            yield Path(buffer.value)
