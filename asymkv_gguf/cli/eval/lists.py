"""Lists with commas, as options take them."""

from __future__ import annotations

from typing import Any

import click


class LengthList(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """`4096,8192`."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(part.isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is no list of lengths such as 4096,8192", param, ctx)
        return tuple(dict.fromkeys(int(part) for part in parts))


class NameList(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """`hotpotqa,trec`."""

    name = "NAME,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(part.strip() for part in str(value).split(",") if part.strip()))
        if not names:
            self.fail("the list is empty", param, ctx)
        return names
