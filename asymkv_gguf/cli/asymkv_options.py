"""The options that shape the merged cache, for every command that has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..config import KEY_WEIGHTS, POSITIONS, SCORES, AsymKVConfig
from ..policies import POLICIES
from .budget import Budget, BudgetType

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = [
    click.option("--asymkv/--no-asymkv", "asymkv", default=True, show_default=True, help="Merge the cache."),
    click.option("--asymkv-policy", "policy", type=click.Choice([*POLICIES, "none"]), help="Start from these settings."),
    click.option("--asymkv-budget", "budget", type=BudgetType(), metavar="N|NMiB", help="Slots that stay, or memory to take."),
    click.option("--asymkv-sinks", "sinks", type=int, metavar="N", help="First tokens, never merged."),
    click.option("--asymkv-recent", "recent", type=int, metavar="N", help="Last tokens, never merged."),
    click.option("--asymkv-observe", "observe", type=int, metavar="N", help="Queries of recent tokens that decide."),
    click.option("--asymkv-chunk", "chunk", type=int, metavar="N", help="Slots that a compression frees at least."),
    click.option("--asymkv-score", "score", type=click.Choice(list(SCORES)), help="What is merged first."),
    click.option("--asymkv-weights", "key_weights", type=click.Choice(list(KEY_WEIGHTS)), help="How two keys become one."),
    click.option("--asymkv-per-head/--asymkv-per-layer", "per_head", default=None, help="Each KV head plans, or the layer."),
    click.option("--asymkv-positions", "positions", type=click.Choice(list(POSITIONS)), help="compact: any length of text."),
    click.option("--asymkv-max-cardinality", "max_cardinality", type=int, metavar="N", help="Most tokens in a slot."),
    click.option("--asymkv-horizon", "horizon", type=int, metavar="N", help="Tokens after which slots leave first; 0: none."),
]  # fmt: skip

_SETTINGS = (
    "sinks", "recent", "observe", "chunk", "score", "key_weights", "per_head", "positions", "max_cardinality", "horizon",
)  # fmt: skip


def asymkv_options(function: F) -> F:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def take_config(options: dict[str, Any]) -> tuple[AsymKVConfig | None, Budget]:
    """Takes the options above out of `options`; the budget in bytes, if any, is still to be turned into slots."""
    enabled, policy = options.pop("asymkv"), options.pop("policy") or "asymkv-exact"
    budget = options.pop("budget") or Budget()
    changes = {name: value for name in _SETTINGS if (value := options.pop(name)) is not None}
    changes["horizon"] = changes.get("horizon") or None
    if budget.slots is not None:
        changes["budget"] = budget.slots
    if not enabled or policy == "none":
        return None, Budget()
    try:
        return AsymKVConfig.of_policy(policy).replace(**changes), budget
    except ValueError as error:
        raise click.UsageError(str(error)) from error
