"""Attention with cardinalities inside ggml: op by op, device by device, and whole models against the portable path."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundled_build import Bundled
from llama_source import ROOT
from runs import random_tokens, settings
from tiny_models import MERGED

from asymkv_gguf import Llama
from asymkv_gguf.cli.demo import MODEL
from asymkv_gguf.native.loader import binding_lib_dir, load

TOKENS = random_tokens(600)
KEEP = 300  # and so many slots that all threads get a share of them
BATCHES = [TOKENS[at : at + n] for at, n in ((1, 1), (2, 1), (3, 5), (8, 64), (72, 1))]  # one query, a few, tiles of them

# cache type, flash attention, threads; with more threads a long cache is split among them
WAYS = [("f16", True, 1), ("f16", True, 3), ("q8_0", True, 1), ("f16", False, 1)]
CASES = [
    (model, per_head, *way)
    for model in MERGED
    for per_head in (True, False)
    for way in (WAYS if model in ("llama", "gemma2") else WAYS[:1])
]


def case_name(model: str, per_head: bool, cache_type: str, flash_attn: bool, n_threads: int) -> str:
    plan, attention = "head" if per_head else "layer", "flash" if flash_attn else "plain"
    return f"{model}-{plan}-{cache_type}-{attention}-{n_threads}"


IDS = [case_name(*case) for case in CASES]


def computed(directory: Path, bundled: Bundled, cases: list[dict[str, Any]], **variables: str) -> Any:
    (directory / "cases.json").write_text(json.dumps(cases))
    subprocess.run(
        [sys.executable, str(Path(__file__).with_name("cache_logits.py")), "cases.json", "logits.npz"],
        cwd=directory,
        env=bundled.environment(**variables),
        check=True,
    )
    return dict(np.load(directory / "logits.npz"))


@pytest.fixture(scope="module")
def cases(tiny: Callable[[str], Path]) -> list[dict[str, Any]]:
    return [
        {
            "name": case_name(*case),
            "model": str(tiny(model)),
            "tokens": TOKENS,
            "keep": KEEP,
            "batches": BATCHES,
            "asymkv": {"budget": 700, "recent": 32, "observe": 16, "per_head": per_head},
            "settings": {**settings(cache_type, flash_attn), "n_threads": n_threads, "n_threads_batch": n_threads},
        }
        for case in CASES
        for model, per_head, cache_type, flash_attn, n_threads in [case]
    ]


@pytest.fixture(scope="module")
def native(bundled: Bundled, cases: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return computed(tmp_path_factory.mktemp("native"), bundled, cases)


@pytest.fixture(scope="module")
def portable(bundled: Bundled, cases: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return computed(tmp_path_factory.mktemp("portable"), bundled, cases, ASYMKV_NATIVE_OPS="0")


@pytest.fixture(scope="module")
def without(bundled: Bundled, cases: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same library without asymkv."""
    plain = [{**case, "asymkv": None} for case in cases]
    return computed(tmp_path_factory.mktemp("without"), bundled, plain)


@pytest.mark.parametrize("name", IDS)
def test_native_and_portable_attention_give_the_same_logits_over_merged_slots(native: Any, portable: Any, name: str) -> None:
    assert native[f"{name}/stats"][0] == 1
    assert portable[f"{name}/stats"][0] == 0
    np.testing.assert_array_equal(native[f"{name}/stats"][1], portable[f"{name}/stats"][1])
    assert native[f"{name}/stats"][1] > 0
    expected = portable[f"{name}/after"]
    # values are summed up in f16: natively by each thread for its part of the slots, composed by one for all of them
    tolerance = 1e-3 if name.endswith("-1") else 5e-3
    np.testing.assert_allclose(native[f"{name}/after"], expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("name", IDS)
def test_logits_are_bit_equal_to_those_without_asymkv_while_nothing_is_merged(native: Any, without: Any, name: str) -> None:
    np.testing.assert_array_equal(native[f"{name}/before"], without[f"{name}/before"])


def test_the_patched_ggml_computes_what_the_stock_one_does_bit_for_bit(
    bundled: Bundled, cases: list[dict[str, Any]], without: Any, tmp_path: Path
) -> None:
    """Where both were compiled for the same CPU."""
    if load().bundled or features(None) != features(bundled):
        pytest.skip("llama-cpp-python's ggml was built with other features than ours")
    stock_cases = [{**case, "n_batch": case["settings"]["n_batch"]} for case in cases]
    (tmp_path / "cases.json").write_text(json.dumps(stock_cases))
    script = Path(__file__).with_name("stock_logits.py")
    subprocess.run([sys.executable, str(script), "cases.json", "logits.npz"], cwd=tmp_path, check=True)
    stock = np.load(tmp_path / "logits.npz")
    for name in IDS:
        np.testing.assert_array_equal(without[f"{name}/before"], stock[name], err_msg=name)


def doctor(bundled: Bundled | None, **variables: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "asymkv_gguf", "doctor", "--json"],
        env=bundled.environment(**variables) if bundled else None,
        capture_output=True,
        text=True,
    )
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def features(bundled: Bundled | None) -> list[str]:
    return list(doctor(bundled)["CPU"]["data"]["features"])


def test_doctor_says_what_runs_natively_and_why_not(bundled: Bundled) -> None:
    checks = doctor(bundled)
    assert checks["native ops"]["text"] == "CPU: attention with cardinalities"
    assert checks["native ops"]["data"] == {"attention": True, "devices": {"CPU": "native"}}
    assert checks["compression"]["data"]["graph_ops"] == ["SET_ROWS"]
    forbidden = doctor(bundled, ASYMKV_NATIVE_OPS="0")["native ops"]
    assert forbidden["text"] == "none, all is composed of stock ops: ASYMKV_NATIVE_OPS=0 forbids them"
    assert forbidden["data"] == {"attention": False, "devices": {"CPU": "portable"}}


def test_a_stock_ggml_has_none_and_the_cache_is_portable(tiny: Callable[[str], Path]) -> None:
    if load().bundled:
        pytest.skip("asymkv-gguf was built with a ggml of its own")
    text = doctor(None)["native ops"]["text"]
    assert text == "none, all is composed of stock ops: llama-cpp-python's ggml has none; the bundled mode has (docs/build.md)"
    llm = Llama(str(tiny("llama")), asymkv=True, **settings())
    assert llm.asymkv_stats().native_attention is False
    llm.close()


def test_every_case_of_the_op_agrees_with_its_composition_and_with_the_reference_kernel(bundled: Bundled) -> None:
    """Upstream's test-backend-ops, with the cases of native/ggml/tests/attn-cases.h."""
    done = subprocess.run(
        [bundled.programs / "test-backend-ops", "test", "-b", "CPU", "-o", "FLASH_ATTN_EXT_LOG_CARD,SOFT_MAX_LOG_CARD"],
        capture_output=True,
        text=True,
    )
    passed = re.search(r"(\d+)/(\d+) tests passed", done.stdout)
    assert passed is not None, done.stdout[-2000:] + done.stderr[-2000:]
    failed = [line for line in done.stdout.splitlines() if "FAIL" in line or "not supported" in line]
    assert (done.returncode, failed) == (0, [])
    assert passed.group(1) == passed.group(2)
    assert int(passed.group(1)) > 250


def test_devices_that_do_not_know_the_source_never_get_it(bundled: Bundled) -> None:
    done = subprocess.run([bundled.programs / "test-native-devices"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "CPU: stock attention taken, with cardinalities taken, compression refused\n" in done.stdout


def test_layers_on_a_worker_are_portable_since_its_ggml_may_be_a_stock_one(bundled: Bundled) -> None:
    program = """
        import sys
        from asymkv_gguf import Llama
        for layers in (0, 2, -1):
            options = {"n_gpu_layers": layers, "rpc_servers": sys.argv[2]}
            llm = Llama(sys.argv[1], asymkv=True, n_ctx=256, verbose=False, **options)
            print(llm.asymkv_stats().native_attention)
            llm.close()
    """
    command = [sys.executable, "-m", "asymkv_gguf", "rpc-worker", "-p", "0", "-t", "1", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=bundled.environment()) as worker:
        try:
            assert worker.stdout is not None
            endpoint = json.loads(worker.stdout.readline())["endpoint"]
            done = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(program), str(MODEL), endpoint],
                capture_output=True,
                text=True,
                env=bundled.environment(),
            )
        finally:
            worker.kill()
    assert done.stdout.split() == ["True", "False", "False"], done.stderr


def test_the_benchmark_of_ops_measures_all_columns(bundled: Bundled) -> None:
    if load().bundled:
        pytest.skip("there is no stock ggml to compare with")
    command = [sys.executable, str(ROOT / "benchmarks" / "ops.py"), "--quick", "--threads", "1"]
    done = subprocess.run([*command, "--build", str(bundled.programs.parent)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| 1")]
    assert len(rows) == 2
    for _, stock, *ours in rows:
        assert float(stock.replace(",", "")) > 0
        assert len(ours) == 3
        assert all(re.fullmatch(r"[\d,.]+ \(\d+\.\d\d x\)", cell) for cell in ours)


def test_a_stock_ggml_refuses_to_measure_what_it_does_not_have(bundled: Bundled) -> None:
    if load().bundled:
        pytest.skip("there is no stock ggml to compare with")
    done = subprocess.run(
        [bundled.programs / "bench-attn", "native", "f16", "64", "2", "4", "512", "1", "1", "0"],
        env={**os.environ, "LD_LIBRARY_PATH": str(binding_lib_dir())},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (1, "bench-attn: this ggml has no op for mode native\n")
