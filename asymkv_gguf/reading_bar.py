"""How far a long text is read, how fast, and how long it will take."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} t/s")


class ReadingBar:
    """Comes with the first batch of a text that has more of them, and leaves when it is read."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("reading"), BarColumn(bar_width=20), TextColumn("{task.completed:,}/{task.total:,} tokens"))
        self._progress = Progress(*columns, _Speed(), TimeRemainingColumn(), console=console, transient=True)
        self._task: Any = None

    def update(self, done: int, total: int) -> None:
        if self._task is None:
            if done >= total:
                return
            self._progress.start()
            self._task = self._progress.add_task("reading", total=total)
        self._progress.update(self._task, completed=done)
        if done >= total:
            self.close()

    def close(self) -> None:
        if self._task is not None:
            self._progress.stop()
            self._progress.remove_task(self._task)
            self._task = None
