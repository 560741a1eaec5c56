"""The C API of the merged cache (asymkv.h), through cffi: errors become exceptions, arrays become NumPy's."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, Final

import cffi
import numpy as np
import numpy.typing as npt

from ..errors import AsymKVError, ParameterError, UnsupportedError

STRUCTS: Final = ("params", "stats", "slot", "group", "op", "result")  # as asymkv_struct_sizes() orders them

# struct asymkv_slot, field by field
SLOT: Final = np.dtype(
    [("position", "f8"), ("first", "i4"), ("last", "i4"), ("cardinality", "u4"), ("score", "f4")], align=True
)


def declarations(header: Path) -> str:
    """The part of asymkv.h that cffi can parse."""
    text = header.read_text(encoding="utf-8")
    _, _, rest = text.partition("// ASYMKV_CDEF begin")
    body, _, _ = rest.partition("// ASYMKV_CDEF end")
    return body.replace("ASYMKV_API", "")


class Api:
    """asymkv.h of one loaded libllama. Contexts and models are llama_cpp's ctypes pointers, or their addresses."""

    ffi: Any
    lib: Any

    def __init__(self, library: Path, header: Path) -> None:
        self.ffi = cffi.FFI()
        self.ffi.cdef(declarations(header))
        try:
            self.lib = self.ffi.dlopen(str(library))
            sizes = [self.ffi.new("size_t *") for _ in STRUCTS]
            self.lib.asymkv_struct_sizes(*sizes)
        except (OSError, AttributeError) as error:
            raise ImportError(f"{library} is not asymkv-gguf's libllama: {error}; reinstall asymkv-gguf") from error
        for name, size in zip(STRUCTS, sizes, strict=True):
            declared = self.ffi.sizeof(f"struct asymkv_{name}")
            if size[0] != declared:
                raise ImportError(
                    f"{library} has a struct asymkv_{name} of {size[0]} bytes, {header} of {declared}; reinstall asymkv-gguf"
                )

    # errors

    def last_error(self) -> str:
        message: bytes = self.ffi.string(self.lib.asymkv_last_error())
        return message.decode(errors="replace")

    def forget_error(self) -> None:
        """Before a call that may set last_error() and cannot return a status: llama_decode."""
        # a refused null pointer leaves a sentence that no such call leaves
        self.lib.asymkv_params_check(self.ffi.NULL)

    def new_error(self) -> str | None:
        """last_error(), if it was set after forget_error()."""
        error = self.last_error()
        self.forget_error()
        return None if error == self.last_error() else error

    def check(self, status: int) -> int:
        """`status`, if it is no error."""
        if status >= 0:
            return status
        kinds: dict[int, type[AsymKVError]] = {
            self.lib.ASYMKV_ERR_PARAMS: ParameterError,
            self.lib.ASYMKV_ERR_UNSUPPORTED: UnsupportedError,
        }
        raise kinds.get(status, AsymKVError)(self.last_error())

    # structs

    def new(self, name: str) -> Any:
        """A zeroed struct asymkv_`name` that knows its size."""
        struct = self.ffi.new(f"struct asymkv_{name} *")
        struct.size = self.ffi.sizeof(f"struct asymkv_{name}")
        return struct

    def params(self, **fields: int | float) -> Any:
        """struct asymkv_params: the library's defaults, with `fields` changed."""
        params = self.new("params")
        self.lib.asymkv_params_init(params)
        for name, value in fields.items():
            setattr(params, name, value)
        return params

    def fields(self, struct: Any) -> dict[str, int | float]:
        """A struct's numbers by name, without its size."""
        names = [name for name, _ in self.ffi.typeof(struct[0]).fields]
        return {name: getattr(struct, name) for name in names if name != "size"}

    def architectures(self) -> list[str]:
        """Names of the architectures that llama.cpp knows."""
        names: list[str] = []
        while (name := self.lib.asymkv_architecture(len(names))) != self.ffi.NULL:
            names.append(self.ffi.string(name).decode())
        return names

    # parameters for the next context of this thread

    def params_check(self, params: Any) -> None:
        self.check(self.lib.asymkv_params_check(params))

    def set_next(self, params: Any | None) -> None:
        self.check(self.lib.asymkv_set_next(self.ffi.NULL if params is None else params))

    def model_check(self, model: Any, params: Any) -> None:
        self.check(self.lib.asymkv_model_check(self._pointer("struct llama_model *", model), params))

    def native_ops(self) -> int:
        """enum asymkv_native: what all devices of this process can do."""
        return int(self.lib.asymkv_native_ops())

    # a context with a merged cache

    def stats(self, context: Any) -> dict[str, int]:
        stats = self.new("stats")
        self.check(self.lib.asymkv_get_stats(self._context(context), stats))
        return {name: int(value) for name, value in self.fields(stats).items()}

    def context_params(self, context: Any) -> dict[str, int | float]:
        params = self.new("params")
        self.check(self.lib.asymkv_get_params(self._context(context), params))
        return self.fields(params)

    def check_cache(self, context: Any) -> None:
        """AsymKVError that names the first invariant of the merged cache that does not hold. Slow: for tests."""
        self.check(self.lib.asymkv_check(self._context(context)))

    def compress(self, context: Any, n_keep: int) -> None:
        self.check(self.lib.asymkv_compress(self._context(context), n_keep))

    def slots(self, context: Any, layer: int, group: int) -> npt.NDArray[Any]:
        """Live slots of one group, ascending in position: an array of dtype SLOT."""
        pointer = self._context(context)
        count = self.check(self.lib.asymkv_slots(pointer, layer, group, self.ffi.NULL, 0))
        slots = np.zeros(count, SLOT)
        buffer = self.ffi.cast("struct asymkv_slot *", slots.ctypes.data)
        written = self.check(self.lib.asymkv_slots(pointer, layer, group, buffer, count))
        return slots[:written]

    def n_lost(self, context: Any, layer: int, group: int) -> int:
        count = self.ffi.new("uint64_t *")
        self.check(self.lib.asymkv_n_lost(self._context(context), layer, group, count))
        return int(count[0])

    def _context(self, context: Any) -> Any:
        return self._pointer("struct llama_context *", context)

    def _pointer(self, kind: str, value: Any) -> Any:
        address = value if isinstance(value, int) else ctypes.cast(value, ctypes.c_void_p).value
        return self.ffi.cast(kind, address or 0)
