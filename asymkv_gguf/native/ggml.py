"""The devices that the loaded ggml can compute on, through its C API (ggml-backend.h)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Final

import cffi

from .loader import library_file, load

_DECLARATIONS = """
    typedef struct ggml_backend_device * ggml_backend_dev_t;
    typedef struct ggml_backend_reg * ggml_backend_reg_t;
    struct ggml_backend_feature { const char * name; const char * value; };

    const char * ggml_version(void);
    const char * ggml_commit(void);
    size_t ggml_backend_dev_count(void);
    ggml_backend_dev_t ggml_backend_dev_get(size_t index);
    const char * ggml_backend_dev_name(ggml_backend_dev_t device);
    const char * ggml_backend_dev_description(ggml_backend_dev_t device);
    int ggml_backend_dev_type(ggml_backend_dev_t device);
    void ggml_backend_dev_memory(ggml_backend_dev_t device, size_t * free, size_t * total);
    ggml_backend_reg_t ggml_backend_dev_backend_reg(ggml_backend_dev_t device);
    size_t ggml_backend_reg_count(void);
    ggml_backend_reg_t ggml_backend_reg_get(size_t index);
    const char * ggml_backend_reg_name(ggml_backend_reg_t reg);
    size_t ggml_backend_reg_dev_count(ggml_backend_reg_t reg);
    ggml_backend_dev_t ggml_backend_reg_dev_get(ggml_backend_reg_t reg, size_t index);
    void * ggml_backend_reg_get_proc_address(ggml_backend_reg_t reg, const char * name);
"""

NATIVE_OPS_PROC: Final = b"ggml_backend_asymkv_ops"  # native/ggml/ggml-asymkv.h
DEVICE_TYPES: Final = ("CPU", "GPU", "integrated GPU", "accelerator", "meta")  # enum ggml_backend_dev_type


@dataclass(frozen=True)
class Device:
    """Something that ggml computes on."""

    name: str
    description: str
    kind: str  # one of DEVICE_TYPES
    memory_free: int  # bytes
    memory_total: int
    native_ops: int  # what its backend has of our ops: bits of stats.NATIVE_ATTN and NATIVE_COMPRESS
    address: int  # the ggml_backend_dev_t


class Ggml:
    """The functions above, of one loaded library."""

    def __init__(self) -> None:
        self.ffi: Any = cffi.FFI()
        self.ffi.cdef(_DECLARATIONS)
        directory = load().ggml_dir
        # both are in the process already: this finds the same ones
        self._libraries = [self.ffi.dlopen(str(library_file(directory, name))) for name in ("ggml", "ggml-base")]

    def call(self, name: str, *arguments: Any) -> Any:
        for library in self._libraries:
            function = getattr(library, name, None)
            if function is not None:
                return function(*arguments)
        raise AttributeError(f"ggml has no function {name}")

    def text(self, name: str, *arguments: Any) -> str:
        value: bytes = self.ffi.string(self.call(name, *arguments))
        return value.decode(errors="replace")

    def version(self) -> str:
        return f"{self.text('ggml_version')} ({self.text('ggml_commit')})"

    def devices(self) -> list[Device]:
        """The devices of this process."""
        return [self.device(self.call("ggml_backend_dev_get", i)) for i in range(self.call("ggml_backend_dev_count"))]

    def device(self, pointer: Any) -> Device:
        free, total = self.ffi.new("size_t *"), self.ffi.new("size_t *")
        self.call("ggml_backend_dev_memory", pointer, free, total)
        return Device(
            name=self.text("ggml_backend_dev_name", pointer),
            description=self.text("ggml_backend_dev_description", pointer),
            kind=DEVICE_TYPES[self.call("ggml_backend_dev_type", pointer)],
            memory_free=int(free[0]),
            memory_total=int(total[0]),
            native_ops=self._native_ops(self.call("ggml_backend_dev_backend_reg", pointer)),
            address=int(self.ffi.cast("uintptr_t", pointer)),
        )

    def _native_ops(self, reg: Any) -> int:
        if reg == self.ffi.NULL:  # a device that stands for several others
            return 0
        function = self.call("ggml_backend_reg_get_proc_address", reg, NATIVE_OPS_PROC)
        return 0 if function == self.ffi.NULL else int(self.ffi.cast("uint32_t (*)(void)", function)())

    def backends(self) -> dict[str, list[str]]:
        """The registered backends, each with the features that it was built with and found, e.g. AVX2."""
        found = {}
        for i in range(self.call("ggml_backend_reg_count")):
            reg = self.call("ggml_backend_reg_get", i)
            found[self.text("ggml_backend_reg_name", reg)] = self._features(reg)
        return found

    def _features(self, reg: Any) -> list[str]:
        function = self.call("ggml_backend_reg_get_proc_address", reg, b"ggml_backend_get_features")
        if function == self.ffi.NULL:
            return []
        features = self.ffi.cast("struct ggml_backend_feature * (*)(ggml_backend_reg_t)", function)(reg)
        names, i = [], 0
        while features[i].name != self.ffi.NULL:  # the list ends with an empty entry
            name, value = (self.ffi.string(text).decode() for text in (features[i].name, features[i].value))
            if value != "0":
                names.append(name if value == "1" else f"{name}={value}")
            i += 1
        return names


@functools.cache
def ggml() -> Ggml:
    return Ggml()
