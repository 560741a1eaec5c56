"""The types that keys and values of a cache can have."""

from __future__ import annotations

from typing import Final

import llama_cpp

#: by the names of llama.cpp's command line; it aborts on others
KV_TYPES: Final = {
    "f32": llama_cpp.GGML_TYPE_F32,
    "f16": llama_cpp.GGML_TYPE_F16,
    "bf16": 30,  # GGML_TYPE_BF16, which llama_cpp does not name
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
    "q5_1": llama_cpp.GGML_TYPE_Q5_1,
    "q5_0": llama_cpp.GGML_TYPE_Q5_0,
    "iq4_nl": llama_cpp.GGML_TYPE_IQ4_NL,
    "q4_1": llama_cpp.GGML_TYPE_Q4_1,
    "q4_0": llama_cpp.GGML_TYPE_Q4_0,
}


def check_cache_type(name: str, value: object) -> None:
    """ValueError if `value` of the argument `name` is none of them; None is llama.cpp's default."""
    if value is not None and value not in KV_TYPES.values():
        raise ValueError(f"{name} {value!r} is no type for a cache; there are {', '.join(KV_TYPES)}")
