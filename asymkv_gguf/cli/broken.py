"""What is left of the command where the native library, or a package, cannot be imported: one sentence, and `doctor`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence


def main_after(error: ImportError) -> Callable[[Sequence[str] | None], int]:
    """A `main` that fails with `error`."""
    is_package = isinstance(error, ModuleNotFoundError)
    sentence = f"{error}; reinstall asymkv-gguf with pip" if is_package else str(error)

    def main(arguments: Sequence[str] | None = None) -> int:
        given = list(sys.argv[1:] if arguments is None else arguments)
        if given[:1] == ["doctor"] and not is_package:
            from .doctor import alone

            return alone(given[1:])
        print(f"asymkv-gguf: {sentence}", file=sys.stderr)
        return 1

    return main
