"""Columns of an evaluation: how they are written, and what cache they mean."""

from __future__ import annotations

import pytest

from asymkv_gguf.config import AsymKVConfig
from asymkv_gguf.eval.columns import Column, default_columns, parse_column, parse_columns
from asymkv_gguf.policies import POLICIES


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("none", Column("none")),
        ("none:q8_0", Column("none", kv_type="q8_0")),
        ("asymkv-exact@256", Column("asymkv-exact", 256)),
        ("h2o@8x:q4_0", Column("h2o", ratio=8.0, kv_type="q4_0")),
        ("tova@2.5x", Column("tova", ratio=2.5)),
        (
            "asymkv-exact@256,score=output,per_head=false,max_cardinality=5",
            Column("asymkv-exact", 256, settings=(("score", "output"), ("per_head", False), ("max_cardinality", 5))),
        ),
        (
            "asymkv-paper@1024,decay=none,accumulate=0.5",
            Column("asymkv-paper", 1024, settings=(("decay", None), ("accumulate", 0.5))),
        ),
    ],
)
def test_a_column_is_parsed_and_written_as_it_was(text: str, column: Column) -> None:
    assert parse_column(text) == column
    assert column.label == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("h3o@256", "unknown policy 'h3o'; there are none, asymkv-exact"),
        ("h2o", "has no budget; write h2o@256 for slots, or h2o@8x for an eighth"),
        ("h2o@", "budget '' is neither a number of slots nor a ratio"),
        ("h2o@many", "budget 'many' is neither a number of slots nor a ratio above 1 such as 8x"),
        ("h2o@0", "budget '0' is neither"),
        ("h2o@1x", "budget '1x' is neither"),
        ("h2o@256:q9", "unknown cache type 'q9'; there are f32, f16"),
        ("none@256", "the full cache has no budget and no settings; write none or none:q8_0"),
        ("none,sinks=4", "the full cache has no budget and no settings"),
        ("h2o@256,sinks", "'sinks' is no setting; write name=value"),
        ("h2o@256,sinks=", "'sinks=' is no setting; write name=value"),
        ("h2o@256,budget=128", "the budget stands behind the policy's name, as in h2o@128"),
        ("h2o@256,colour=red", "there is no setting 'colour'; there are sinks, recent"),
        ("h2o@256,sinks=few", "sinks must be a whole number, not 'few'"),
        ("h2o@256,per_head=1", "per_head must be true or false, not '1'"),
        ("h2o@256,max_cardinality=x", "max_cardinality must be a whole number or none, not 'x'"),
        ("h2o@256,decay=fast", "decay must be a number or none, not 'fast'"),
        ("asymkv-exact@256,score=best", "unknown score 'best'"),
        ("asymkv-exact@8x,score=best", "unknown score 'best'"),
        ("h2o@256,sinks=300", "budget 256 is too small for 300 sinks"),
    ],
)
def test_a_wrong_column_is_one_sentence_that_names_it(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="^column ") as raised:
        parse_column(text)
    assert message in str(raised.value)
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_list_of_columns_keeps_settings_with_their_column() -> None:
    columns = parse_columns("none,asymkv-exact@8x,score=output,per_head=false,h2o@8x  tova@64:q8_0,none")
    assert [column.label for column in columns] == [
        "none",
        "asymkv-exact@8x,score=output,per_head=false",
        "h2o@8x",
        "tova@64:q8_0",
    ]


@pytest.mark.parametrize("text", ["", " , "])
def test_no_columns_and_no_budgets_are_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="there are no columns; give some such as none,"):
        parse_columns(text)
    with pytest.raises(ValueError, match="there are no budgets; give some such as 8x,4x"):
        default_columns(text)


def test_the_default_columns_are_full_caches_and_every_policy_at_every_budget() -> None:
    labels = [column.label for column in default_columns("8x,256")]
    assert labels[:3] == ["none", "none:q8_0", "none:q4_0"]
    assert labels[3:] == [f"{policy}@{budget}" for budget in ("8x", "256") for policy in POLICIES]


@pytest.mark.parametrize("policy", list(POLICIES))
@pytest.mark.parametrize("ratio", [2, 4, 8])
@pytest.mark.parametrize("n_batch", [None, 32])
def test_a_ratio_is_of_slots_as_allocated_and_fills_them(policy: str, ratio: int, n_batch: int | None) -> None:
    config = parse_column(f"{policy}@{ratio}x").config(2000, n_batch)
    assert config is not None
    capacity = 2048 // ratio
    assert config.budget + config.room(n_batch or config.default_batch()) <= capacity
    more = config.replace(budget=config.budget + 1)
    assert more.budget + more.room(n_batch or more.default_batch()) > capacity


def test_a_ratio_that_leaves_less_than_any_cache_has_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="column 'h2o@8x': of a text of 1,024 tokens, 8x leaves 128 slots") as raised:
        parse_column("h2o@8x").config(1000)
    assert "take longer texts, a smaller ratio, or a budget in slots" in str(raised.value)


def test_batches_that_fill_a_ratio_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="and batches of 512 tokens do not fit into 256 slots; lower sinks, recent or -b"):
        parse_column("h2o@8x").config(2048, 512)


@pytest.mark.parametrize("policy", list(POLICIES))
@pytest.mark.parametrize("budget", [16, 64, 256, 2080, 10000])
def test_protected_slots_that_were_not_asked_for_leave_half_of_a_small_budget(policy: str, budget: int) -> None:
    config = parse_column(f"{policy}@{budget}").config(4096)
    whole = AsymKVConfig.of_policy(policy)
    assert config is not None
    assert config.sinks + config.recent <= max(budget // 2, 1)
    if whole.sinks + whole.recent <= budget // 2:
        assert config == whole.replace(budget=budget)


def test_settings_that_were_asked_for_are_kept() -> None:
    config = parse_column("asymkv-exact@64,sinks=8,recent=40").config(4096)
    assert config is not None
    assert (config.sinks, config.recent, config.observe) == (8, 40, 32)
