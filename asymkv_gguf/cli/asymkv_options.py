"""The options that shape the merged cache, for every command that has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..config import KEY_WEIGHTS, SCORES, AsymKVConfig
from .budget import Budget, BudgetType

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = [
    click.option("--asymkv/--no-asymkv", "asymkv", default=True, show_default=True, help="Merge the cache."),
    click.option("--asymkv-budget", "budget", type=BudgetType(), help="Slots that stay, or memory to take."),
    click.option("--asymkv-sinks", "sinks", type=int, metavar="N", help="First tokens, never merged."),
    click.option("--asymkv-recent", "recent", type=int, metavar="N", help="Last tokens, never merged."),
    click.option("--asymkv-observe", "observe", type=int, metavar="N", help="Last queries whose attention decides."),
    click.option("--asymkv-chunk", "chunk", type=int, metavar="N", help="Slots that a compression frees at least."),
    click.option("--asymkv-score", "score", type=click.Choice(list(SCORES)), help="What is merged first."),
    click.option("--asymkv-weights", "key_weights", type=click.Choice(list(KEY_WEIGHTS)), help="How two keys become one."),
    click.option("--asymkv-per-head/--asymkv-per-layer", "per_head", default=None, help="Each KV head plans, or the layer."),
    click.option("--asymkv-max-cardinality", "max_cardinality", type=int, metavar="N", help="Most tokens in a slot."),
    click.option("--asymkv-paper", "paper", is_flag=True, help="Start from the setting of the AsymKV paper."),
]  # fmt: skip

_SETTINGS = ("sinks", "recent", "observe", "chunk", "score", "key_weights", "per_head", "max_cardinality")


def asymkv_options(function: F) -> F:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def take_config(options: dict[str, Any]) -> tuple[AsymKVConfig | None, Budget]:
    """Takes the options above out of `options`; the budget in bytes, if any, is still to be turned into slots."""
    enabled, paper = options.pop("asymkv"), options.pop("paper")
    budget = options.pop("budget") or Budget()
    changes = {name: value for name in _SETTINGS if (value := options.pop(name)) is not None}
    if budget.slots is not None:
        changes["budget"] = budget.slots
    if not enabled:
        return None, Budget()
    try:
        base = AsymKVConfig.paper() if paper else AsymKVConfig()
        return base.replace(**changes), budget
    except ValueError as error:
        raise click.UsageError(str(error)) from error
