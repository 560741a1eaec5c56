"""Tables for people that other programs can read as well."""

from __future__ import annotations


def table(titles: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose numbers stand right."""
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
