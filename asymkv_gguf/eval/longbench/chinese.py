"""Chinese words: jieba's, as in LongBench."""

from __future__ import annotations

import logging
import warnings
from functools import lru_cache
from importlib.util import find_spec
from typing import Any


def has_jieba() -> bool:
    return find_spec("jieba") is not None


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its age
        import jieba
    jieba.setLogLevel(logging.WARNING)
    return jieba.Tokenizer()


def words(text: str) -> list[str]:
    """All of the text, cut into words."""
    return list(_tokenizer().cut(text, cut_all=False))
