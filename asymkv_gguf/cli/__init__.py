"""The command `asymkv-gguf`."""

from .main import main

__all__ = ["main"]
