"""How people name a model of the hub: `user/repo`, `user/repo:Q8_0`, or `user/repo:file.gguf`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from huggingface_hub.utils import validate_repo_id

DEFAULT_QUANT: Final = "Q4_K_M"
_HOSTS = re.compile(r"(?:https?://)?(?:hf\.co|(?:www\.)?huggingface\.co)/")  # people paste the page's address


@dataclass(frozen=True)
class ModelName:
    """A repository, and which of its models: a quant, a file, or neither (the default quant, or the only model)."""

    repo: str
    quant: str | None = None
    file: str | None = None

    @classmethod
    def parse(cls, text: str, file: str | None = None) -> ModelName:
        """ValueError if `text` is no name. `file` is a GGUF of the repository, instead of a quant."""
        repo, colon, quant = _HOSTS.sub("", text.strip(), count=1).partition(":")
        try:
            validate_repo_id(repo)
        except ValueError:
            repo = ""
        if repo.count("/") != 1 or (colon and not quant):
            raise ValueError(f"{text!r} names no model of the hub; give USER/REPO or USER/REPO:QUANT, such as org/model:Q8_0")
        if file is not None:
            if quant:
                raise ValueError(f"{text!r} names a quant, and {file} a file; give one of them")
            return cls(repo, file=_checked(file))
        if quant.lower().endswith(".gguf"):
            return cls(repo, file=_checked(quant))
        return cls(repo, quant=quant or None)

    def __str__(self) -> str:
        which = self.file or self.quant
        return f"{self.repo}:{which}" if which else self.repo


def _checked(file: str) -> str:
    if not file.lower().endswith(".gguf"):
        raise ValueError(f"{file!r} is not the name of a GGUF file; it has to end in .gguf")
    return file
