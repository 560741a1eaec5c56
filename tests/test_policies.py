"""Every policy in the same cache: same slots, same protected tokens, same counting, its plan that of the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_models import MERGED

from asymkv_gguf import AsymKVConfig, Llama, reference
from asymkv_gguf.cli import main
from asymkv_gguf.config import CAN_EVICT, ONLY_EVICT
from asymkv_gguf.llama import _api
from asymkv_gguf.native.groups import compress_group, read_group
from asymkv_gguf.policies import POLICIES

SMALL = {"budget": 160, "sinks": 4, "recent": 32, "observe": 16, "chunk": 64}
N_TOKENS = 700


def small(policy: str) -> AsymKVConfig:
    return AsymKVConfig.of_policy(policy).replace(**SMALL)


@pytest.fixture(params=list(POLICIES))
def policy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def llm(policy: str, tiny: Callable[[str], Path]) -> Iterator[Llama]:
    llm = Llama(str(tiny("llama")), asymkv=small(policy), n_ctx=1024, n_batch=64, n_threads=1, verbose=False)
    llm.eval([int(token) for token in np.random.default_rng(1).integers(3, 259, N_TOKENS)])
    yield llm
    llm.close()


def test_every_policy_keeps_the_budget_and_counts_every_token(policy: str, llm: Llama) -> None:
    llm.asymkv_compress()
    stats = llm.asymkv_stats()
    assert (stats.slots, stats.tokens) == (SMALL["budget"], N_TOKENS)
    for layer in range(stats.layers):
        for group in range(stats.groups):
            slots = llm.asymkv_slots(layer, group)
            assert len(slots) == SMALL["budget"]
            assert slots["cardinality"].sum() + llm.asymkv_lost(layer, group) == N_TOKENS
            protected = np.r_[slots[: SMALL["sinks"]], slots[-SMALL["recent"] :]]
            assert protected["cardinality"].max() == 1
            assert protected["position"].tolist() == [*range(SMALL["sinks"]), *range(N_TOKENS - SMALL["recent"], N_TOKENS)]


def test_every_policy_does_what_its_name_says(policy: str, llm: Llama) -> None:
    stats = llm.asymkv_stats()
    config = small(policy)
    only_evicts = config.score in ONLY_EVICT or not config.merge
    assert (stats.merges == 0) == only_evicts
    assert (stats.evictions == 0) == (not config.evict)


def test_a_live_cache_is_planned_as_the_reference_does(policy: str, llm: Llama) -> None:
    config = small(policy)
    group = read_group(_api, llm.ctx, 0, 0)
    params = reference.Params(
        score=config.score,  # type: ignore[arg-type]
        key_weights=config.key_weights,  # type: ignore[arg-type]
        evict=config.evict,
        merge=config.merge,
        max_cardinality=config.max_cardinality or 0,
        decay=float(np.float32(config.decay or 0.0)),
    )
    n_keep = len(group.positions) - 20
    native = compress_group(_api, group, params, n_keep)
    for cost, cheapest in reference.replay(group, params, native.ops):
        assert cost <= cheapest * (1 + 1e-4) + 1e-9


def test_streaming_keeps_sinks_and_the_newest(tiny: Callable[[str], Path]) -> None:
    llm = Llama(str(tiny("llama")), asymkv=small("streaming"), n_ctx=1024, n_batch=64, n_threads=1, verbose=False)
    llm.eval([int(token) for token in np.random.default_rng(1).integers(3, 259, N_TOKENS)])
    llm.asymkv_compress()
    expected = [*range(4), *range(N_TOKENS - SMALL["budget"] + 4, N_TOKENS)]
    assert llm.asymkv_slots(0, 0)["position"].tolist() == expected
    llm.close()


def test_every_policy_makes_room_after_all_observed_tokens_were_taken_back(policy: str, tiny: Callable[[str], Path]) -> None:
    llm = Llama(str(tiny("llama")), asymkv=small(policy), n_ctx=1024, n_batch=64, n_threads=1, verbose=False)
    tokens = [int(token) for token in np.random.default_rng(1).integers(3, 259, 300)]
    llm.eval(tokens[:250])
    llm.n_tokens -= 20  # of which the last 16 were observed
    llm.eval(tokens[230:294])  # does not fit
    stats = llm.asymkv_stats()
    assert (stats.tokens, stats.slots, stats.compressions) == (294, SMALL["budget"] + 64, 1)
    llm.close()


def test_a_policy_is_chosen_by_its_name() -> None:
    assert AsymKVConfig.from_value("asymkv-exact") == AsymKVConfig()
    assert AsymKVConfig.from_value("asymkv-paper") == AsymKVConfig.paper()
    assert AsymKVConfig.from_value("none") is None
    assert AsymKVConfig.from_value({"policy": "none", "budget": 300}) is None
    assert AsymKVConfig.from_value({"policy": "h2o", "budget": 300}) == AsymKVConfig(score="h2o", accumulate=1.0, budget=300)
    with pytest.raises(ValueError, match="unknown policy 'h3o'; there are asymkv-exact, asymkv-paper, evict-same, h2o"):
        AsymKVConfig.from_value("h3o")


def test_names_of_scores_that_evict_are_the_references() -> None:
    assert set(ONLY_EVICT) == set(reference.ONLY_EVICT)
    assert set(CAN_EVICT) == {"exact", "random", *ONLY_EVICT}


def test_the_command_line_takes_a_policy(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "llama.gguf"
    MERGED["llama"](model)
    text = tmp_path / "text.txt"
    text.write_text("abc " * 200)
    arguments = ["-m", str(model), "-f", str(text), "-n", "1", "-t", "1", "-c", "2048", "--asymkv-budget", "128", "--json"]
    for policy, merged in (("snapkv", False), ("asymkv-exact", True)):
        assert main(["run", *arguments, "--asymkv-policy", policy]) == 0
        assert ('"merges": 0' not in capfd.readouterr().out) == merged
    assert main(["run", *arguments, "--asymkv-policy", "none"]) == 0
    assert '"asymkv": null' in capfd.readouterr().out
    assert main(["run", *arguments, "--asymkv-policy", "best"]) == 2
    assert "'best' is not one of 'asymkv-exact'" in capfd.readouterr().err
