"""What a command chooses for the cache by itself, where nobody said; a session keeps to what it began with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..chat.endless import ENDLESS, without_an_end
from ..config import AsymKVConfig
from ..preview import trained_context
from ..session import saved_settings

_CHOSEN = ("sinks", "positions", "horizon")


def said(options: Mapping[str, Any]) -> dict[str, Any]:
    """What was said of it on the command line; to be taken before the options are."""
    return {name: options[name] for name in (*_CHOSEN, "n_ctx")}


def choose_as_saved(arguments: dict[str, Any], said: Mapping[str, Any], session: Path) -> None:
    saved = saved_settings(session)
    names = [name for name in _CHOSEN if said[name] is None and f"asymkv {name}" in saved]
    if isinstance(arguments["asymkv"], AsymKVConfig):
        arguments["asymkv"] = arguments["asymkv"].replace(**{name: saved[f"asymkv {name}"] for name in names})
    if said["n_ctx"] == 0:
        arguments["n_ctx"] = saved.get("n_ctx", 0)


def choose_no_end(arguments: dict[str, Any], said: Mapping[str, Any], *, forgets: bool) -> int | None:
    """Where neither -c nor --asymkv-positions ends the text, nothing does. Then: the tokens that the model was trained for.

    `forgets`: what lies further back than those leaves first, unless another horizon was given.
    """
    if said["n_ctx"] != 0 or said["positions"] == "original":
        return None
    config: AsymKVConfig = arguments["asymkv"]
    n_trained = trained_context(arguments["model_path"])
    horizon = said["horizon"] if forgets else said["horizon"] or 0
    endless = without_an_end(config, n_trained, arguments.get("n_batch") or config.default_batch(), horizon)
    if endless is None:
        return None
    arguments["asymkv"] = endless
    arguments["n_ctx"] = ENDLESS
    return n_trained
