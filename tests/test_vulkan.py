"""The portable path on a Vulkan device: the properties that the CPU's tests prove, with the tolerance of another device's sums.

Where the loaded ggml finds no Vulkan device nothing of this can run. scripts/vulkan_test.sh makes one, in software.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
import tiny_models
from runs import last_logits, random_tokens, read, settings
from test_merged_cache import BATCH, SMALL, assert_invariants, groups, write_still_model
from tiny_models import MERGED

from asymkv_gguf import Llama, reference
from asymkv_gguf.errors import UnsupportedError
from asymkv_gguf.llama import _api
from asymkv_gguf.native.ggml import ggml
from asymkv_gguf.native.groups import read_group

DEVICES = [device.name for device in ggml().devices() if device.name.startswith("Vulkan")]

pytestmark = pytest.mark.skipif(not DEVICES, reason="ggml finds no Vulkan device here: scripts/vulkan_test.sh runs these tests")

# cache type and flash attention
WAYS = [("f16", True), ("q8_0", True), ("q4_0", True), ("f16", False)]
CASES = [(model, *way) for model in MERGED for way in (WAYS if model in ("llama-head64", "gemma2") else WAYS[:1])]
IDS = [f"{model}-{cache_type}-{'flash' if flash_attn else 'plain'}" for model, cache_type, flash_attn in CASES]

RESTORED = [("llama", "f16"), ("llama-head64", "q8_0"), ("gemma2", "f16"), ("lfm2", "f16")]

per_head_and_layer = pytest.mark.parametrize("per_head", [True, False], ids=["per-head", "per-layer"])

# of the largest logit: what half precision, and other sums of it, may change
LOGITS = 2e-2


def opened(path: Path, cache_type: str = "f16", flash_attn: bool = True, *, on_cpu: bool = False, **config: Any) -> Llama:
    """All layers on the device, or all, and each of their products, on the CPU."""
    place: dict[str, Any] = {"n_gpu_layers": 0, "op_offload": False} if on_cpu else {"n_gpu_layers": -1}
    keywords = settings(cache_type, flash_attn, n_batch=BATCH) | {"swa_full": False}
    return Llama(str(path), asymkv={**SMALL, **config}, **keywords, **place)


def assert_near(logits: np.ndarray, expected: np.ndarray, tolerance: float = LOGITS) -> None:
    assert np.isfinite(logits).all()
    assert np.abs(logits - expected).max() <= tolerance * np.abs(expected).max()


def test_layers_and_their_merged_cache_are_on_the_device_and_portable(
    tiny: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    keywords = {**settings(n_batch=BATCH), "verbose": True, "n_gpu_layers": -1}
    llm = Llama(str(tiny("llama")), asymkv=SMALL, **keywords)
    log = capfd.readouterr().err
    assert "offloaded 4/4 layers to GPU" in log
    assert f"{DEVICES[0]} KV buffer size" in log
    assert "portable attention" in log
    read(llm, random_tokens(300), BATCH)
    stats = llm.asymkv_stats()
    assert stats.native_attention is False
    assert (stats.compressions, stats.device_compressions) == (1, 0)
    llm.close()


def test_quantized_caches_of_models_with_sinks_are_refused_per_head(tiny: Callable[[str], Path]) -> None:
    """A head's rows begin where Vulkan's buffers may not: ggml ended the process."""
    keywords = {**settings("q8_0", n_batch=BATCH), "n_gpu_layers": -1}
    sentence = "cannot attend to single heads of a q8_0/q8_0 cache in a model with attention sinks: use an f16 cache, or set"
    with pytest.raises(UnsupportedError, match=sentence):
        Llama(str(tiny("gpt-oss")), asymkv=SMALL, **keywords)
    llm = Llama(str(tiny("gpt-oss")), asymkv={**SMALL, "per_head": False}, **keywords)
    assert np.isfinite(read(llm, random_tokens(300), BATCH)).all()
    assert llm.asymkv_stats().compressions > 0
    llm.close()


def test_doctor_says_that_the_device_is_portable() -> None:
    done = subprocess.run([sys.executable, "-m", "asymkv_gguf", "doctor", "--json"], capture_output=True, text=True)
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["native ops"]["data"]["attention"] is False
    assert {device: checks["native ops"]["data"]["devices"][device] for device in DEVICES} == dict.fromkeys(DEVICES, "portable")
    assert "ADD" in checks["compression"]["data"]["graph_ops"]
    assert checks["compression"]["data"]["path"] == "host"


@per_head_and_layer
@pytest.mark.parametrize(("model", "cache_type", "flash_attn"), CASES, ids=IDS)
def test_logits_are_those_without_asymkv_while_nothing_is_merged(
    tiny: Callable[[str], Path], model: str, cache_type: str, flash_attn: bool, per_head: bool
) -> None:
    tokens = random_tokens(150)
    plain = Llama(str(tiny(model)), **settings(cache_type, flash_attn, n_batch=BATCH), n_gpu_layers=-1)
    expected = np.r_[read(plain, tokens, BATCH), read(plain, tokens[:3], 1)]
    plain.close()
    llm = opened(tiny(model), cache_type, flash_attn, budget=512, per_head=per_head)
    logits = np.r_[read(llm, tokens, BATCH), read(llm, tokens[:3], 1)]
    assert llm.asymkv_stats().compressions == 0
    llm.close()
    assert_near(logits, expected)


@per_head_and_layer
@pytest.mark.parametrize(("model", "cache_type", "flash_attn"), CASES, ids=IDS)
def test_a_merged_cache_has_the_cpus_logits(
    tiny: Callable[[str], Path], model: str, cache_type: str, flash_attn: bool, per_head: bool
) -> None:
    """The same merged slots on both, saved on the CPU and loaded on the device: only attention to them differs."""
    read_before, following = random_tokens(200), random_tokens(12, seed=1)[1:]
    cpu = opened(tiny(model), cache_type, flash_attn, on_cpu=True, per_head=per_head, evict=False)
    read(cpu, read_before, BATCH)
    cpu.asymkv_compress(100)
    state = cpu.save_state()
    expected = np.r_[read(cpu, following[:8], 8), read(cpu, following[8:], 1)]
    cardinalities = [cpu.asymkv_slots(*index)["cardinality"] for index in groups(cpu)]
    cpu.close()
    assert max(int(group.max()) for group in cardinalities) > 1

    llm = opened(tiny(model), cache_type, flash_attn, per_head=per_head, evict=False)
    llm.load_state(state)
    logits = np.r_[read(llm, following[:8], 8), read(llm, following[8:], 1)]
    for index, group in zip(groups(llm), cardinalities, strict=True):
        np.testing.assert_array_equal(llm.asymkv_slots(*index)["cardinality"], group)
    llm.close()
    assert_near(logits, expected)


def test_the_cpus_logits_need_the_cardinalities(tiny: Callable[[str], Path]) -> None:
    """The test above can fail: the same slots, each counted once, are much further away than its tolerance."""
    logits = []
    for max_cardinality in (None, 1):
        llm = opened(tiny("llama"), max_cardinality=max_cardinality, score="output", evict=False)
        read(llm, random_tokens(200), BATCH)
        llm.asymkv_compress(60)
        logits.append(read(llm, random_tokens(4, seed=1)[1:], 1))
        llm.close()
    assert np.abs(logits[1] - logits[0]).max() > 5 * LOGITS * np.abs(logits[0]).max()


@per_head_and_layer
@pytest.mark.parametrize("model", list(MERGED))
def test_reading_on_through_compressions_goes_the_cpus_way(tiny: Callable[[str], Path], model: str, per_head: bool) -> None:
    """Each with plans of its own, made from keys that the device computed: nearly all of them are the same."""
    tokens = random_tokens(450)
    found = []
    for on_cpu in (True, False):
        llm = opened(tiny(model), on_cpu=on_cpu, per_head=per_head)
        read(llm, tokens, BATCH)
        slots = [llm.asymkv_slots(*index) for index in groups(llm)]
        found.append((last_logits(llm), slots, llm.asymkv_stats()))
        llm.close()
    (expected, cpu_slots, cpu_stats), (logits, slots, stats) = found
    assert stats.compressions == cpu_stats.compressions >= 2
    assert (stats.slots, stats.tokens) == (cpu_stats.slots, cpu_stats.tokens)
    same = [np.mean(np.isin(a["position"], b["position"])) for a, b in zip(slots, cpu_slots, strict=True)]
    assert np.mean(same) > 0.9
    assert_near(logits, expected, 0.1)


@per_head_and_layer
@pytest.mark.parametrize("model", list(MERGED))
def test_every_compression_conserves_cardinality_and_order(tiny: Callable[[str], Path], model: str, per_head: bool) -> None:
    llm = opened(tiny(model), per_head=per_head)
    tokens = random_tokens(400)
    for start in range(0, len(tokens), BATCH):
        llm.eval(tokens[start : start + BATCH])
        assert_invariants(llm)
    for token in random_tokens(6, seed=1):
        llm.eval([token])
    assert_invariants(llm)
    stats = llm.asymkv_stats()
    assert stats.compressions >= 2
    assert stats.merges + stats.evictions == (llm.n_tokens - stats.slots) * sum(1 for _ in groups(llm))
    assert np.isfinite(last_logits(llm)).all()
    llm.close()


@per_head_and_layer
@pytest.mark.parametrize(("cache_type", "tolerance"), [("f16", 2e-3), ("q8_0", 2e-2), ("q4_0", 2e-1)])
@pytest.mark.parametrize("score", ["mass", "output", "exact"])
def test_a_cache_on_the_device_is_merged_as_the_reference_merges_it(
    tiny: Callable[[str], Path], score: reference.Score, cache_type: str, tolerance: float, per_head: bool
) -> None:
    """Twice, so that the second compression starts from merged slots. Stored rows differ by the cache type's rounding."""
    llm = opened(tiny("llama-head64"), cache_type, score=score, per_head=per_head)
    n_keep = 110
    params = reference.Params(score=score, room=llm.asymkv_stats().capacity - n_keep)
    tokens = random_tokens(400)
    for part in (tokens[:150], tokens[150:190]):
        read(llm, part, BATCH)
        before = {index: read_group(_api, llm.ctx, *index) for index in groups(llm)}
        llm.asymkv_compress(n_keep)
        for index, group in before.items():
            after = read_group(_api, llm.ctx, *index)
            expected = reference.compress(group, params, n_keep).group
            assert after.cardinalities.tolist() == expected.cardinalities.tolist()
            assert llm.asymkv_slots(*index)["cardinality"].tolist() == expected.cardinalities.tolist()
            np.testing.assert_allclose(after.positions, expected.positions, rtol=1e-9)
            np.testing.assert_allclose(after.scores, expected.scores, rtol=1e-3, atol=1e-4)
            for name in ("keys", "values"):
                actual, wanted = getattr(after, name), getattr(expected, name)
                assert np.abs(actual - wanted).max() <= tolerance * np.abs(wanted).max()
    llm.close()


@pytest.mark.parametrize("model", [model for model in MERGED if model != "llama-head64"])
def test_caches_of_every_kind_are_merged_as_the_reference_merges_them(tiny: Callable[[str], Path], model: str) -> None:
    llm = opened(tiny(model))
    read(llm, random_tokens(150), BATCH)
    before = {index: read_group(_api, llm.ctx, *index) for index in groups(llm)}
    params = reference.Params(room=llm.asymkv_stats().capacity - 100)
    llm.asymkv_compress(100)
    for index, group in before.items():
        after, expected = read_group(_api, llm.ctx, *index), reference.compress(group, params, 100).group
        assert after.cardinalities.tolist() == expected.cardinalities.tolist()
        for name in ("keys", "values"):
            actual, wanted = getattr(after, name), getattr(expected, name)
            assert np.abs(actual - wanted).max() <= 2e-3 * np.abs(wanted).max()
    llm.close()


@per_head_and_layer
def test_observed_queries_and_keys_are_the_cpus(tiny: Callable[[str], Path], per_head: bool) -> None:
    """What plans are made from: before anything is merged, the device stores what the CPU stores."""
    found = []
    for on_cpu in (True, False):
        llm = opened(tiny("llama"), on_cpu=on_cpu, per_head=per_head)
        read(llm, random_tokens(100), BATCH)
        found.append([read_group(_api, llm.ctx, *index) for index in groups(llm)])
        llm.close()
    for cpu, device in zip(*found, strict=True):
        np.testing.assert_array_equal(device.query_positions, cpu.query_positions)
        np.testing.assert_array_equal(device.positions, cpu.positions)
        for name in ("keys", "values", "queries"):
            assert_near(getattr(device, name), getattr(cpu, name))


@per_head_and_layer
@pytest.mark.parametrize("flash_attn", [True, False], ids=["flash", "plain"])
def test_merging_equal_keys_changes_nothing(tmp_path: Path, flash_attn: bool, per_head: bool) -> None:
    """Runs of eight equal tokens, merged to less than a quarter: what follows has the same logits."""
    write_still_model(tmp_path / "still.gguf")
    text = [token for token in random_tokens(64, seed=3) for _ in range(8)]
    config: dict[str, Any] = {"budget": 480, "recent": 32, "sinks": 8, "evict": False, "per_head": per_head}
    logits = []
    for n_keep in (0, 120):
        llm = opened(tmp_path / "still.gguf", "f16", flash_attn, **config)
        read(llm, text, BATCH)
        if n_keep:
            llm.asymkv_compress(n_keep)
            assert llm.asymkv_stats().slots == n_keep
        logits.append(np.r_[read(llm, random_tokens(4, seed=4), 1), read(llm, random_tokens(24, seed=5), 24)])
        llm.close()
    assert_near(logits[1], logits[0], 5e-3)


@per_head_and_layer
@pytest.mark.parametrize(("model", "cache_type"), RESTORED)
def test_a_restored_text_goes_on(tiny: Callable[[str], Path], model: str, cache_type: str, per_head: bool) -> None:
    """Through a further compression, which needs cardinalities, positions, scores and the observed queries."""
    llm = opened(tiny(model), cache_type, per_head=per_head)
    read(llm, random_tokens(300), BATCH)
    state = llm.save_state()
    following = random_tokens(100, seed=1)[1:]
    expected = read(llm, following, 50)
    slots = [llm.asymkv_slots(*index) for index in groups(llm)]
    llm.close()

    other = opened(tiny(model), cache_type, per_head=per_head)
    read(other, random_tokens(70, seed=2), BATCH)  # something to be overwritten
    other.load_state(state)
    assert other.asymkv_stats().tokens == 300
    assert_near(read(other, following, 50), expected)
    assert other.asymkv_stats().compressions > 0
    if model != "gemma2":  # llama.cpp restores a sliding-window cache into other slots, which changes the order of its sums
        for index, group in zip(groups(other), slots, strict=True):
            np.testing.assert_array_equal(other.asymkv_slots(*index)["cardinality"], group["cardinality"])
    other.close()


def test_a_cut_in_the_recent_window_is_exact(tiny: Callable[[str], Path]) -> None:
    llm = opened(tiny("llama"))
    read(llm, random_tokens(300), BATCH)
    following = random_tokens(12, seed=1)[1:]
    expected = read(llm, following, 4)
    assert llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(llm.ctx), 0, 300, -1)
    llm.n_tokens = 300
    np.testing.assert_array_equal(read(llm, following, 4), expected)
    llm.close()


def test_beyond_the_horizon_only_sinks_stay(tiny: Callable[[str], Path]) -> None:
    horizon, n_tokens = 200, 400
    llm = opened(tiny("llama"), horizon=horizon)
    read(llm, random_tokens(n_tokens), BATCH)
    first = n_tokens - horizon - (llm.asymkv_stats().capacity - SMALL["budget"])  # at the latest compression
    for index in groups(llm):
        slots = llm.asymkv_slots(*index)
        assert not np.any(slots["last"][SMALL["sinks"] :] < first)
        assert int(slots["cardinality"].sum()) + llm.asymkv_lost(*index) == n_tokens
    llm.close()


def test_slots_that_move_up_have_the_references_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """positions="compact": keys are read from the device, turned, and written back there."""
    trained, n_keep = 320, 110
    monkeypatch.setattr(tiny_models, "N_CTX", trained)
    MERGED["llama"](tmp_path / "short.gguf")
    llm = opened(tmp_path / "short.gguf", positions="compact")
    read(llm, random_tokens(200), BATCH)
    params = reference.Params(span=trained, room=llm.asymkv_stats().capacity - n_keep)
    before = {index: read_group(_api, llm.ctx, *index) for index in groups(llm)}
    llm.asymkv_compress(n_keep)
    for index, group in before.items():
        after, expected = read_group(_api, llm.ctx, *index), reference.compress(group, params, n_keep).group
        still = reference.compress(group, replace(params, span=0), n_keep).group
        np.testing.assert_allclose(after.positions, expected.positions, rtol=0, atol=2**-20)  # as tables keep them
        assert np.abs(expected.positions - still.positions).max() > 10
        assert np.abs(after.keys - expected.keys).max() <= 2e-3 * np.abs(expected.keys).max()
    assert np.isfinite(read(llm, random_tokens(20, seed=1), BATCH)).all()
    llm.close()


def test_the_demo_answers_all_questions_from_the_device() -> None:
    done = subprocess.run([sys.executable, "-m", "asymkv_gguf", "demo", "-ngl", "99", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["full"]["accuracy"] == report["asymkv"]["accuracy"] == 1.0
    assert report["asymkv"]["slots"] * 8 <= report["asymkv"]["tokens"]
