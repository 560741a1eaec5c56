"""Both sides of the C API lay out their structs alike."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

import asymkv_gguf
from asymkv_gguf.llama import _api, _native
from asymkv_gguf.native.api import SLOT, STRUCTS, Api, declarations


@pytest.mark.parametrize("name", STRUCTS)
def test_a_struct_has_the_size_that_the_library_says(name: str) -> None:
    sizes = [_api.ffi.new("size_t *") for _ in STRUCTS]
    _api.lib.asymkv_struct_sizes(*sizes)
    assert sizes[STRUCTS.index(name)][0] == _api.ffi.sizeof(f"struct asymkv_{name}")


def test_numpys_slot_is_the_headers_slot() -> None:
    assert SLOT.itemsize == _api.ffi.sizeof("struct asymkv_slot")
    assert SLOT.names is not None
    fields = dict(_api.ffi.typeof("struct asymkv_slot").fields)
    assert list(SLOT.names) == list(fields)
    for name in SLOT.names:
        assert SLOT.fields is not None
        assert SLOT.fields[name][1] == fields[name].offset


@pytest.mark.parametrize("name", ["params", "stats", "group", "result"])
def test_a_struct_that_crosses_the_interface_begins_with_its_size(name: str) -> None:
    first, field = _api.ffi.typeof(f"struct asymkv_{name}").fields[0]
    assert (first, field.offset) == ("size", 0)


def test_every_declared_function_is_exported() -> None:
    text = declarations(_native.header)
    names = {word.split("(")[0] for word in text.replace("*", " ").split() if word.startswith("asymkv_") and "(" in word}
    assert len(names) >= 10
    library = ctypes.CDLL(str(_native.library))
    for name in names:
        assert hasattr(library, name)


def test_a_header_of_another_version_is_refused_at_load(tmp_path: Path) -> None:
    header = tmp_path / "asymkv.h"
    text = _native.header.read_text()
    assert "    uint32_t budget;" in text
    header.write_text(text.replace("    uint32_t budget;", "    uint64_t budget; uint64_t more;", 1))
    with pytest.raises(ImportError, match=r"has a struct asymkv_params of \d+ bytes.*; reinstall asymkv-gguf"):
        Api(_native.library, header)


def test_a_struct_of_another_size_is_refused_by_the_library() -> None:
    params = _api.params()
    params.size = 8
    with pytest.raises(asymkv_gguf.ParameterError, match="asymkv_params has 8 bytes"):
        _api.set_next(params)


def test_a_null_context_is_an_error_and_not_a_crash() -> None:
    with pytest.raises(asymkv_gguf.AsymKVError, match="no merged cache"):
        _api.stats(0)


def test_a_null_model_is_an_error_and_not_a_crash() -> None:
    with pytest.raises(asymkv_gguf.ParameterError, match="no model"):
        _api.model_check(0, _api.params())
