"""How far an evaluation is: a bar on a terminal, a line for each column elsewhere."""

from __future__ import annotations

import sys
from typing import Any

import click


class EvalProgress:
    """What the runner tells, on stderr."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: Any = None
        self._total = self._done = 0
        self._column = ""

    def __enter__(self) -> EvalProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None

    def note(self, sentence: str) -> None:
        click.echo(f"eval {self._name}: {sentence}", err=True)

    def start(self, total: int, done: int) -> None:
        self._total, self._done = total, done
        if done:
            self.note(f"{done:,} of {total:,} results are in the work directory")
        if sys.stderr.isatty() and done < total:
            self._bar = click.progressbar(length=total, file=sys.stderr, show_pos=True, label=self._name)
            self._bar.__enter__()
            self._bar.update(done)

    def step(self, what: str, n: int = 1) -> None:
        """`what` begins with the column."""
        self._done += n
        column = what.partition(" ")[0]
        if self._bar is not None:
            self._bar.label = what
            self._bar.update(n)
        elif column != self._column and not sys.stderr.isatty():
            self.note(f"{column} ({self._done:,} of {self._total:,})")
        self._column = column
