"""Is there room on the disk?"""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import HubError
from ..stats import size_text


def check_space(directory: Path, needed: int, what: str) -> None:
    """HubError if `directory`, which need not exist yet, has not `needed` bytes free."""
    existing = directory.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise HubError(
            f"{what} needs {size_text(needed)} more, and {directory} has {size_text(free)} free; make room, or set "
            "HF_HUB_CACHE to another disk"
        )
