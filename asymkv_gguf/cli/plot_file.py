"""--plot FILE.png, for every command that draws."""

from __future__ import annotations

from pathlib import Path

import click


def check_plot_file(path: Path) -> None:
    """Before anything is measured: it could be drawn, and written."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise missing_extra(error, "plot") from error
    if path.suffix.lower() != ".png":
        raise click.UsageError(f"the plot is a PNG, so --plot {path} should end in .png")
    if not path.absolute().parent.is_dir():
        raise click.UsageError(f"there is no directory {path.absolute().parent} for --plot; make it first")


def missing_extra(error: ImportError, extra: str) -> click.ClickException:
    return click.ClickException(f'{error.name} is not installed; run: pip install "asymkv-gguf[{extra}]"')
