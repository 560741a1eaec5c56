"""Text files that a user names."""

from __future__ import annotations

from pathlib import Path


def read_text_file(file: str | Path) -> str:
    """The text of a UTF-8 file; ValueError with one sentence if there is none."""
    try:
        return Path(file).expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"text file {file} is not UTF-8 text (byte {error.start}); convert it first") from error
    except OSError as error:
        raise ValueError(f"text file {file} cannot be read: {error.strerror}") from error
