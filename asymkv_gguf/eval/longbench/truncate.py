"""Prompts that are longer than the context lose their middle, as in LongBench."""

from __future__ import annotations

from ...llama import Llama
from ..prompts import prompt_tokens


def fitted(llm: Llama, prompt: str, room: int, *, chat: bool) -> tuple[list[int], bool]:
    """The prompt's tokens, at most `room`, and whether something was cut out.

    Of the prompt's own tokens the first and the last are kept, as many of the one as of the other, and spelled again; the
    chat template is put around what is left.
    """
    tokens = prompt_tokens(llm, prompt, chat=chat)
    if len(tokens) <= room:
        return tokens, False
    text = llm.tokenize(prompt.encode(), add_bos=False)
    half = (room - (len(tokens) - len(text))) // 2
    while half > 0:
        first, last = (llm.detokenize(part).decode(errors="ignore") for part in (text[:half], text[-half:]))
        tokens = prompt_tokens(llm, first + last, chat=chat)
        if len(tokens) <= room:
            return tokens, True
        half -= max(1, (len(tokens) - room + 1) // 2)  # tokens at the seam may be others than before
    raise ValueError(
        f"a context of {max(room, 0):,} tokens, without the answer's, is too short for a prompt; give a longer one (-c)"
    )
