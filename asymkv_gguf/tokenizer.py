"""llama.cpp's tokenizer, remembering what it was told."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp
from llama_cpp.llama_tokenizer import LlamaTokenizer

_SHORT = 32  # bytes; longer pieces, such as runs of spaces, are asked for again with room enough


class CachedTokenizer(LlamaTokenizer):  # type: ignore[misc, unused-ignore]
    """llama_cpp's, in which each token's text is asked of llama.cpp once.

    llama_cpp spells the whole answer again after each of its tokens: for 4,000 tokens this means 8 million calls, minutes.
    And it has room for 32 bytes only, so that longer pieces would be lost.
    """

    def __init__(self, llama: Any) -> None:
        super().__init__(llama)
        self._bos = self._model.token_bos()
        self._pieces: tuple[dict[int, bytes], dict[int, bytes]] = ({}, {})  # without and with special tokens' text

    def detokenize(self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False) -> bytes:
        pieces = self._pieces[special]
        for token in tokens:
            if token not in pieces:
                pieces[token] = self._piece(token, special)
        text = b"".join(map(pieces.__getitem__, tokens))
        # the space that some tokenizers put before a text
        return text[1:] if len(tokens) > 0 and tokens[0] == self._bos and text[:1] == b" " else text

    def _piece(self, token: int, special: bool) -> bytes:
        size = _SHORT
        while True:
            buffer = (ctypes.c_char * size)()
            n_bytes: int = llama_cpp.llama_token_to_piece(self._model.vocab, token, buffer, size, 0, special)
            if n_bytes >= 0:
                return buffer.raw[:n_bytes]
            size = -n_bytes
