"""Whole models whose caches are compressed by the kernels for devices, on the CPU: the same as the host's own code does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from bundled_build import Bundled
from runs import last_logits, random_tokens, read, settings
from tiny_models import MERGED

from asymkv_gguf import Llama, reference
from asymkv_gguf.llama import _api
from asymkv_gguf.native.groups import read_group

BATCH = 64
CACHE_TYPES = {
    "f32": llama_cpp.GGML_TYPE_F32, "f16": llama_cpp.GGML_TYPE_F16, "bf16": 30,
    "q8_0": llama_cpp.GGML_TYPE_Q8_0, "q4_0": llama_cpp.GGML_TYPE_Q4_0, "q5_1": llama_cpp.GGML_TYPE_Q5_1,
}  # fmt: skip
TOLERANCE = {"f32": 1e-5, "f16": 2e-3, "bf16": 1e-2, "q8_0": 2e-2, "q4_0": 2e-1}  # of stored rows, by their type's rounding

pytestmark = pytest.mark.skipif("sys.platform == 'win32'", reason="a block's threads are fibers, which Windows does not have")


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYMKV_COMPRESS", "device")


def small_llama(path: Path, cache_type: str = "f16", flash_attn: bool = True, **config: Any) -> Llama:
    stored = {"type_k": CACHE_TYPES[cache_type], "type_v": CACHE_TYPES[cache_type]}
    keywords = settings(flash_attn=flash_attn, n_ctx=8192, n_batch=BATCH) | {"swa_full": False, **stored}
    small = {"budget": 128, "sinks": 4, "recent": 40, "observe": 32}
    return Llama(str(path), asymkv={**small, **config}, **keywords)


def groups(llm: Llama) -> Iterator[tuple[int, int]]:
    stats = llm.asymkv_stats()
    for layer in range(stats.layers):
        for group in range(stats.groups):
            yield layer, group


def n_on_device(llm: Llama) -> int:
    return llm.asymkv_stats().device_compressions


def check_compression(llm: Llama, params: reference.Params, n_keep: int, tolerance: float) -> None:
    """One compression on the device, against the reference."""
    before = {index: read_group(_api, llm.ctx, *index) for index in groups(llm)}
    params = replace(params, room=llm.asymkv_stats().capacity - n_keep)
    n_done = n_on_device(llm)
    llm.asymkv_compress(n_keep)
    assert n_on_device(llm) == n_done + 1
    for index, group in before.items():
        after, slots = read_group(_api, llm.ctx, *index), llm.asymkv_slots(*index)
        result = reference.compress(group, params, n_keep)
        expected = result.group
        assert slots["cardinality"].tolist() == expected.cardinalities.tolist()
        np.testing.assert_allclose(after.positions, expected.positions, rtol=1e-9)
        np.testing.assert_allclose(after.scores, expected.scores, rtol=1e-3, atol=1e-4)
        assert int(slots["cardinality"].sum()) + llm.asymkv_lost(*index) == llm.n_tokens
        assert np.all(slots["first"][1:] > slots["last"][:-1])
        for name in ("keys", "values"):
            actual, wanted = getattr(after, name), getattr(expected, name)
            assert np.abs(actual - wanted).max() <= tolerance * np.abs(wanted).max()


def check_twice(llm: Llama, params: reference.Params, tolerance: float) -> None:
    """The second compression starts from merged slots."""
    tokens = random_tokens(400)
    for part in (tokens[:150], tokens[150:190]):
        read(llm, part, BATCH)
        check_compression(llm, params, 110, tolerance)
    llm.close()


@pytest.mark.parametrize("model", list(MERGED))
def test_models_of_every_kind(tiny: Callable[[str], Path], model: str) -> None:
    llm = small_llama(tiny(model))
    read(llm, random_tokens(150), BATCH)
    check_compression(llm, reference.Params(), 110, TOLERANCE["f16"])
    llm.close()


@pytest.mark.parametrize("per_head", [True, False], ids=["per-head", "per-layer"])
@pytest.mark.parametrize("cache_type", TOLERANCE)
def test_caches_of_every_type(tiny: Callable[[str], Path], cache_type: str, per_head: bool) -> None:
    check_twice(small_llama(tiny("llama-head64"), cache_type, per_head=per_head), reference.Params(), TOLERANCE[cache_type])


@pytest.mark.parametrize("key_weights", reference.KEY_WEIGHTS)
@pytest.mark.parametrize("score", ["mass", "output", "exact"])
def test_scores_and_key_weights(tiny: Callable[[str], Path], score: reference.Score, key_weights: reference.KeyWeights) -> None:
    llm = small_llama(tiny("llama-head64"), "q8_0", score=score, key_weights=key_weights)
    check_twice(llm, reference.Params(score=score, key_weights=key_weights), TOLERANCE["q8_0"])


@pytest.mark.parametrize("score", ["h2o", "snapkv", "tova", "streaming"])
def test_scores_that_only_evict(tiny: Callable[[str], Path], score: reference.Score) -> None:
    llm = small_llama(tiny("llama"), score=score)
    check_twice(llm, reference.Params(score=score), TOLERANCE["f16"])


def test_transposed_values(tiny: Callable[[str], Path]) -> None:
    check_twice(small_llama(tiny("llama"), flash_attn=False), reference.Params(), TOLERANCE["f16"])


def both_ways(llm_of: Callable[[], Llama], monkeypatch: pytest.MonkeyPatch, n_tokens: int) -> tuple[list[Any], list[Any]]:
    """Logits, slots and statistics of the device and of the host."""
    results = []
    for where in ("device", "host"):
        monkeypatch.setenv("ASYMKV_COMPRESS", where)
        llm = llm_of()
        read(llm, random_tokens(n_tokens), BATCH)
        slots = [llm.asymkv_slots(*index) for index in groups(llm)]
        results.append([last_logits(llm), slots, llm.asymkv_stats()])
        llm.close()
    return results[0], results[1]


@pytest.mark.parametrize("cache_type", ["f16", "q8_0"])
def test_logits_are_the_hosts(tiny: Callable[[str], Path], cache_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After many compressions, each of which starts from the one before."""
    path = tiny("llama-head64")
    device, host = both_ways(lambda: small_llama(path, cache_type), monkeypatch, 800)
    assert device[2].device_compressions == device[2].compressions == host[2].compressions >= 4
    assert host[2].device_compressions == 0
    for name in ("merges", "evictions", "slots", "tokens"):
        assert abs(getattr(device[2], name) - getattr(host[2], name)) <= 0.01 * getattr(host[2], name)
    same = [np.mean(a["cardinality"] == b["cardinality"]) for a, b in zip(device[1], host[1], strict=True)]
    assert np.mean(same) > 0.95
    scale = np.abs(host[0]).max()
    assert np.abs(device[0] - host[0]).max() < 0.05 * scale


@pytest.mark.parametrize(
    ("config", "cache_type"),
    [({"score": "random"}, "f16"), ({"score": "keydiff"}, "f16"), ({}, "q5_1")],
)
def test_what_a_device_does_not_do_the_host_does(tiny: Callable[[str], Path], config: dict[str, Any], cache_type: str) -> None:
    llm = small_llama(tiny("llama-head64"), cache_type, **config)
    read(llm, random_tokens(300), BATCH)
    assert llm.asymkv_stats().compressions > 0
    assert n_on_device(llm) == 0
    llm.close()


def test_positions_that_move_are_left_to_the_host(tiny: Callable[[str], Path]) -> None:
    """Where slots and the next batch would span more than the 4,096 tokens that the model was trained for."""
    llm = small_llama(tiny("llama"), positions="compact")
    read(llm, random_tokens(3900), BATCH)
    stats = llm.asymkv_stats()
    assert stats.device_compressions == stats.compressions > 0
    read(llm, random_tokens(400, seed=1), BATCH)
    moved = llm.asymkv_stats()
    assert moved.device_compressions < moved.compressions
    assert np.isfinite(last_logits(llm)).all()
    llm.close()


def test_unasked_the_cpu_compresses_on_the_host(tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASYMKV_COMPRESS")
    llm = small_llama(tiny("llama"))
    read(llm, random_tokens(300), BATCH)
    assert llm.asymkv_stats().compressions > 0
    assert n_on_device(llm) == 0
    llm.close()


# a ggml that has the ops


def test_every_case_of_the_ops_gives_what_the_reference_backend_gives(bundled: Bundled) -> None:
    """Upstream's test-backend-ops, with the cases of native/ggml/tests/compress-cases.h."""
    done = subprocess.run(
        [bundled.programs / "test-backend-ops", "test", "-b", "CPU", "-o", "ASYMKV_COMPRESS"], capture_output=True, text=True
    )
    passed = re.search(r"(\d+)/(\d+) tests passed", done.stdout)
    assert passed is not None, done.stdout[-2000:] + done.stderr[-2000:]
    failed = [line for line in done.stdout.splitlines() if "FAIL" in line or "not supported" in line]
    assert (done.returncode, failed) == (0, [])
    assert passed.group(1) == passed.group(2)
    assert int(passed.group(1)) > 100


def test_the_cpu_offers_the_ops_only_when_asked(bundled: Bundled) -> None:
    done = subprocess.run(
        [bundled.programs / "test-backend-ops", "test", "-b", "CPU", "-o", "ASYMKV_COMPRESS"],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "ASYMKV_COMPRESS"},
    )
    assert done.stdout.count("not supported") > 100
    assert done.returncode == 0


def test_whole_models_with_the_ops_of_a_bundled_ggml(bundled: Bundled, tiny: Callable[[str], Path]) -> None:
    """The same slots as with a stock ggml, whose CPU computes the kernels as a custom op."""
    path = tiny("llama-head64")
    program = """
        import json, sys
        from asymkv_gguf import Llama
        config = {"budget": 128, "sinks": 4, "recent": 40, "observe": 32}
        small = {"n_ctx": 1024, "n_batch": 64, "n_ubatch": 64, "n_threads": 1, "n_threads_batch": 1}
        llm = Llama(sys.argv[1], asymkv=config, verbose=False, **small)
        llm.eval(json.loads(sys.argv[2]))
        llm.asymkv_compress(110)
        stats = llm.asymkv_stats()
        print(json.dumps([stats.device_compressions, stats.compressions, llm.asymkv_slots(1, 1)["cardinality"].tolist()]))
    """
    tokens = random_tokens(150)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(path), json.dumps(tokens)],
        capture_output=True,
        text=True,
        env=bundled.environment(ASYMKV_NATIVE_OPS="1"),
    )
    assert done.returncode == 0, done.stderr
    on_device, compressions, cardinalities = json.loads(done.stdout)
    assert on_device == compressions == 1
    llm = small_llama(path)
    read(llm, tokens, BATCH)
    llm.asymkv_compress(110)
    assert llm.asymkv_slots(1, 1)["cardinality"].tolist() == cardinalities
    llm.close()
