"""`asymkv-gguf bench` from end to end, with all three modes: what it counts, prints and refuses. No time is asserted."""

from __future__ import annotations

import csv
import ctypes
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from split_model import split

from asymkv_gguf import AsymKVConfig, Llama
from asymkv_gguf.bench import dummy
from asymkv_gguf.bench.bandwidth import read_bandwidth
from asymkv_gguf.bench.measure import window_ends
from asymkv_gguf.bench.process import Worker, WorkerError
from asymkv_gguf.bench.report import Report, Spread
from asymkv_gguf.bench.weights import model_facts
from asymkv_gguf.bench.worker import stretched
from asymkv_gguf.cli import main
from asymkv_gguf.cli.demo import MODEL

F16 = 1
SLOT_BYTES = 2 * 2 * 2 * 64 * 2  # K and V, two layers, two heads of 64, f16
MODES = ["stock", "off", "on"]
SMALL = ["-p", "64", "-n", "16", "-r", "2", "-t", "1", "--asymkv-budget", "192", "--asymkv-chunk", "64"]

InProcess = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dummies")


@pytest.fixture(scope="module")
def tiny_dummy(directory: Path) -> Path:
    return dummy.dummy_model("tiny", directory)


@pytest.fixture
def in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> InProcess:
    """The command without a new process for itself (its workers are processes): exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["bench", *map(str, arguments)])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "asymkv_gguf", "bench", *map(str, arguments)]
    environment = {**os.environ, **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture(scope="module")
def plot_file(directory: Path) -> Path:
    return directory / "plot.png"


@pytest.fixture(scope="module")
def report(directory: Path, plot_file: Path) -> dict[str, Any]:
    """One run of all modes."""
    arguments = ["--dummy", "tiny", "--dummy-dir", directory, "-d", "0,512,1024", *SMALL, "--json", "--plot", plot_file]
    process = start(*arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "bench: prefill to 1,024" in err
    result: dict[str, Any] = json.loads(out)
    return result


def rows(report: dict[str, Any], mode: str) -> list[dict[str, Any]]:
    return [row for row in report["rows"] if row["mode"] == mode]


# what is measured


def test_there_is_one_row_for_each_mode_and_depth_and_every_depth_is_exact(report: dict[str, Any]) -> None:
    found = [(row["mode"], row["depth"], row["position"]) for row in report["rows"]]
    assert found == [(mode, depth, depth) for depth in (0, 512, 1024) for mode in MODES]


def test_the_report_says_how_it_was_made(report: dict[str, Any]) -> None:
    settings = report["settings"]
    assert (settings["modes"], settings["depths"]) == (MODES, [0, 512, 1024])
    assert (settings["batch"], settings["threads"], settings["type_k"]) == (64, 1, "f16")
    assert settings["asymkv"]["budget"] == 192
    assert report["machine"]["cpus"] == os.cpu_count()
    assert report["bandwidth"]["bytes_per_second"] > 0
    assert "memchr" in report["bandwidth"]["method"]
    assert report["reference_depth"] in (0, 512)  # both are 256 away from the capacity


def test_the_merged_cache_is_as_large_at_any_depth_and_stock_as_the_deepest_text(report: dict[str, Any]) -> None:
    assert {(row["kv_bytes"], row["capacity"], row["slot_bytes"]) for row in rows(report, "on")} == {
        (256 * SLOT_BYTES, 256, SLOT_BYTES)
    }
    n_ctx = report["settings"]["n_ctx"]
    assert n_ctx == 1280  # 1,024 and what is measured behind it, rounded up
    for mode in ("stock", "off"):
        for row in rows(report, mode):
            assert row["kv_bytes"] == pytest.approx(n_ctx * SLOT_BYTES, abs=0.01 * 2**20)  # from llama.cpp's log
            assert row["table_bytes"] == 0


def test_there_is_at_most_one_compression_for_a_batch(report: dict[str, Any]) -> None:
    # batches of 16, seven times 64, 48: the first 208 tokens fit, then each batch needs room
    assert [row["compressions"] for row in rows(report, "on")][1:] == [5, 13]
    assert [row["compressions"] for row in rows(report, "stock")] == [None] * 3
    for row in rows(report, "on")[1:]:
        assert 0 < row["compress_seconds"] < row["prefill_seconds"]
        assert row["compress_share"] == pytest.approx(row["compress_seconds"] / row["prefill_seconds"])
        assert row["observe_seconds"] + row["plan_seconds"] > 0


def test_a_full_cache_is_decoded_at_its_fullest(report: dict[str, Any]) -> None:
    # 16 tokens: from 240 slots to 256; after slices of 8 it is 248, then 256
    assert [row["slots"] for row in rows(report, "on")] == [12, 252, 252]
    assert [row["slots"] for row in rows(report, "stock")] == [12, 524, 1036]
    assert {row["decode_tokens"] for row in report["rows"]} == {32}


def test_one_token_reads_all_weights_but_the_embedding_table_and_the_live_slots(report: dict[str, Any]) -> None:
    weights = sum(t.n_bytes for t in dummy.SHAPES["tiny"].tensors() if t.name != "token_embd.weight")
    assert report["model"]["weight_bytes"] == weights
    for row in report["rows"]:
        assert row["token_bytes"] == weights + row["slots"] * SLOT_BYTES
        assert row["bound_tps"] == pytest.approx(report["bandwidth"]["bytes_per_second"] / row["token_bytes"])
        assert row["bound_share"] == pytest.approx(row["decode_tps"]["median"] / row["bound_tps"])


def test_times_belong_together(report: dict[str, Any]) -> None:
    for row in report["rows"]:
        assert row["decode_tps"]["min"] <= row["decode_tps"]["max"]
        assert row["prefill_tps"]["n"] == 2
        assert row["prefill_tokens"] == row["depth"]
        assert row["first_token_seconds"] == pytest.approx(row["prefill_seconds"] + 1 / row["decode_tps"]["median"])
    for mode in MODES:
        seconds = [row["prefill_seconds"] for row in rows(report, mode)]
        assert seconds == sorted(seconds)
        assert seconds[0] == 0


def test_everything_is_set_in_relation_to_stock(report: dict[str, Any]) -> None:
    for row in rows(report, "stock"):
        assert row["decode_of_stock"] == 1
        assert row["depth"] == 0 or (row["prefill_of_stock"], row["reuse_of_stock"]) == (1, 1)
    for row in rows(report, "on"):
        stock = next(other for other in rows(report, "stock") if other["depth"] == row["depth"])
        assert row["decode_of_stock"] == pytest.approx(row["decode_tps"]["median"] / stock["decode_tps"]["median"])
        assert (row["reuse_seconds"] is None) == (row["depth"] == 0)


def test_memory_is_told_for_each_process(report: dict[str, Any]) -> None:
    for row in report["rows"]:
        assert row["compute_buffer_bytes"] > 0
        assert row["peak_rss_bytes"] >= row["rss_bytes"] > 1 << 20
        if sys.platform == "linux":
            assert row["rss_bytes"] > row["rss_anon_bytes"] > 0


def test_the_plot_is_a_png(report: dict[str, Any], plot_file: Path) -> None:
    assert report["rows"]
    assert plot_file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


# how it is printed


def test_sampled_windows_stand_for_those_that_are_left_out(directory: Path) -> None:
    """Three windows in four of stock are not read, the cache is filled in between, and every depth is exact nevertheless."""
    arguments = ["--dummy", "tiny", "--dummy-dir", directory, "-d", "512,1024", *SMALL, "--sample", "4", "--json"]
    process = start(*arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    sampled: dict[str, Any] = json.loads(out)
    assert [row["position"] for row in sampled["rows"]] == [512] * 3 + [1024] * 3
    # windows of 16, seven of 64, 48: the first, the fifth and the last two are read; then of 16, seven of 64, 48 again
    read = {"stock": [16 + 64 + 64 + 48, 2 * (16 + 64 + 64 + 48)], "on": [512, 1024]}
    for mode in MODES:
        found = rows(sampled, mode)
        assert [row["prefill_tokens"] for row in found] == [512, 1024]
        assert [row["prefill_read_tokens"] for row in found] == read["on" if mode == "on" else "stock"]
        assert all(row["prefill_seconds"] > 0 for row in found)
    assert [row["slots"] for row in rows(sampled, "stock")] == [524, 1036]


def test_a_filled_cache_holds_its_rows_again_and_again(tiny_dummy: Path) -> None:
    llm = llama_cpp.Llama(str(tiny_dummy), n_ctx=512, n_threads=1, flash_attn=True, verbose=False)
    llm.eval([1, 5, 7])
    state = (ctypes.c_uint8 * llama_cpp.llama_state_seq_get_size(llm.ctx, 0))()
    llama_cpp.llama_state_seq_get_data(llm.ctx, state, len(state), 0)
    grown = stretched(bytes(state), 300)
    data = (ctypes.c_uint8 * len(grown)).from_buffer(grown)
    assert llama_cpp.llama_state_seq_set_data(llm.ctx, data, len(grown), 0) == len(grown)
    again = (ctypes.c_uint8 * llama_cpp.llama_state_seq_get_size(llm.ctx, 0))()
    llama_cpp.llama_state_seq_get_data(llm.ctx, again, len(again), 0)
    assert bytes(again) == bytes(grown)
    assert bytes(stretched(bytes(grown), 3)) == bytes(state)
    llm.close()
    with pytest.raises(RuntimeError, match="this model's cache cannot be filled without reading; leave out --sample"):
        stretched(bytes(state)[:-8], 300)


def test_csv_has_one_line_for_each_row(in_process: InProcess, tiny_dummy: Path) -> None:
    code, out, _ = in_process("-m", tiny_dummy, "--modes", "on", "-d", "256", *SMALL, "--bandwidth", 10, "--csv")
    assert code == 0
    (row,) = csv.DictReader(io.StringIO(out))
    assert (row["mode"], row["depth"], row["kv_bytes"]) == ("on", "256", str(256 * SLOT_BYTES))
    assert float(row["decode_tps_min"]) <= float(row["decode_tps_max"])
    assert float(row["bound_tps"]) == pytest.approx(10e9 / int(row["token_bytes"]))
    assert row["decode_of_stock"] == ""  # stock was not measured


def test_markdown_has_tables_for_speed_memory_and_reuse(in_process: InProcess, tiny_dummy: Path) -> None:
    code, out, _ = in_process("-m", tiny_dummy, "--modes", "off,stock", "-d", "64", *SMALL, "--bandwidth", 10)
    assert code == 0
    heading, *tables = out.strip().split("\n\n")
    assert heading.endswith("1 thread, K f16, V f16; memory is read at 10.0 GB/s (given)")
    assert len(tables) == 3
    for text in tables:
        lines = [line.strip("|").split("|") for line in text.splitlines()]
        assert {len(line) for line in lines} == {len(lines[0])}
        assert [line[0].strip() for line in lines[2:]] == ["stock", "off"]


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
def test_an_interrupted_run_prints_the_rows_that_it_has(directory: Path) -> None:
    process = start("--dummy", "tiny", "--dummy-dir", directory, "--modes", "on", "-d", "64,100000", *SMALL, "--json")
    assert process.stderr is not None
    assert any("prefill to 100,000" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert [row["depth"] for row in json.loads(out)["rows"]] == [64]
    assert "not all was measured; these are the rows until then" in err
    assert "Traceback" not in err


# what is refused


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "there is no model; give -m FILE, or --dummy 1B for random weights"),
        (["-m", MODEL, "--dummy", "1B"], "-m and --dummy are 2 models; give one of them"),
        (["--dummy", "2B"], "unknown dummy '2B'; there are 1B, 3B, 8B, tiny"),
        (["-m", MODEL, "--modes", "stock,fast"], "unknown mode 'fast'; there are stock, off, on"),
        (["-m", MODEL, "-d", "1,x"], "'1,x' is no list of depths such as 0,8192,32768"),
        (["-m", MODEL, "-d", "-1"], "'-1' is no list of depths such as 0,8192,32768"),
        (["-m", MODEL, "--no-asymkv"], "--no-asymkv is said with --modes stock,off here"),
        (["-m", MODEL, "-b", "2048"], "budget 2048 is too small for 4 sinks, 64 recent tokens and batches of 2048"),
        (["-m", MODEL, "--plot", "plot.jpg"], "the plot is a PNG, so --plot plot.jpg should end in .png"),
        (["-m", MODEL, "--plot", "no/such/plot.png"], "for --plot; make it first"),
    ],
    ids=lambda value: " ".join(str(one) for one in value if one != MODEL) if isinstance(value, list) else "",
)
def test_wrong_use_is_one_sentence_and_exit_code_2(in_process: InProcess, arguments: list[object], sentence: str) -> None:
    code, out, err = in_process(*arguments)
    assert (code, out) == (2, "")
    assert sentence in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-m", MODEL, "-d", "1000000"], "asymkv-gguf: depth 1,000,000 and what is measured there need a context of 1,000,"),
        (["-m", "no/such.gguf"], "asymkv-gguf: model file no/such.gguf does not exist"),
        (["-m", "cut.gguf"], "asymkv-gguf: model file cut.gguf is truncated or damaged (999 bytes); download it again"),
        (["-m", "damaged.gguf", "-d", "0", *SMALL], "asymkv-gguf: mode stock: Failed to load model from file: damaged.gguf: "),
    ],
    ids=lambda value: str(value[1]) if isinstance(value, list) else "",
)
def test_what_fails_is_one_sentence_and_exit_code_1(
    in_process: InProcess, tmp_path: Path, tiny_dummy: Path, arguments: list[object], sentence: str
) -> None:
    (tmp_path / "cut.gguf").write_bytes(tiny_dummy.read_bytes()[:999])
    (tmp_path / "damaged.gguf").write_bytes(tiny_dummy.read_bytes().replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_un.weight"))
    code, out, err = in_process(*arguments)
    assert (code, out) == (1, "")
    assert sentence in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_missing_extra_is_named(in_process: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = in_process("-m", MODEL, "--plot", "plot.png")
    assert code == 1
    assert 'matplotlib is not installed; run: pip install "asymkv-gguf[plot]"' in err
    (tmp_path / "gguf.py").write_text("raise ModuleNotFoundError(name='gguf')")
    process = start("-m", MODEL, PYTHONPATH=os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.strip() == 'Error: gguf is not installed; run: pip install "asymkv-gguf[bench]"'


def test_a_worker_that_is_killed_is_told_in_a_sentence(tiny_dummy: Path) -> None:
    arguments = {"model_path": str(tiny_dummy), "n_ctx": 256, "n_batch": 64, "n_threads": 1, "n_threads_batch": 1}
    with Worker("stock", 1, arguments) as worker:
        with pytest.raises(WorkerError, match="mode stock: the context of 256 tokens is full"):
            worker.ask("prefill", to=1000)
        worker.kill()
        with pytest.raises(WorkerError, match="mode stock: its process ended with signal 9, as happens when memory is short"):
            worker.ask("prefill", to=64)


# its parts


@pytest.mark.parametrize(
    ("start_at", "depth", "window", "n_decode", "ends"),
    [
        (0, 512, 64, 16, [16, 80, 144, 208, 272, 336, 400, 464, 512]),
        (512, 560, 64, 16, [560]),
        (0, 48, 64, 16, [48]),
        (0, 100, 512, 32, [100]),
        (0, 128, 64, 64, [64, 128]),
        (200, 128, 64, 16, [128]),
    ],
)
def test_windows_are_counted_from_the_depth_backwards(
    start_at: int, depth: int, window: int, n_decode: int, ends: list[int]
) -> None:
    assert window_ends(start_at, depth, window, n_decode) == ends


@pytest.mark.parametrize("name", ["llama", "llama-head64", "gptneox", "lfm2"])
@pytest.mark.parametrize("kv_type", [F16, 8], ids=["f16", "q8_0"])
def test_slot_bytes_are_those_of_the_cache(tiny: Callable[[str], Path], name: str, kv_type: int) -> None:
    if name == "gptneox" and kv_type != F16:
        kv_type = 0  # f32
    llm = Llama(
        str(tiny(name)), asymkv=AsymKVConfig(budget=256), n_ctx=1024, verbose=False, n_threads=1, type_k=kv_type, type_v=kv_type
    )
    stats = llm.asymkv_stats()
    llm.close()
    assert model_facts(tiny(name)).slot_bytes(kv_type, kv_type) * stats.capacity == stats.kv_bytes


def test_a_tied_table_is_read_and_of_the_experts_those_in_use(tiny: Callable[[str], Path]) -> None:
    tied, experts = model_facts(tiny("gemma2")), model_facts(tiny("gpt-oss"))
    assert tied.windowed
    assert tied.file_bytes * 0.9 < tied.weight_bytes < tied.file_bytes
    # all but the embedding table, and two of four experts
    attention = 2 * 128 + 2 * (128 * 128 + 128) + 2 * (128 * 64 + 64) + 4
    feed_forward = 4 * 128 + 4 + 2 * (3 * 128 * 256 + 256 + 256 + 128)
    assert experts.weight_bytes == 4 * (259 * 128 + 128 + 2 * (attention + feed_forward))


def test_the_weights_of_a_split_model_are_those_of_all_parts(tiny_dummy: Path, tmp_path: Path) -> None:
    whole, parts = model_facts(tiny_dummy), split(tiny_dummy, tmp_path, "parts", n_tensors=9)
    assert len(parts) > 2
    facts = model_facts(parts[0])
    assert (facts.weight_bytes, facts.slot_bytes(F16, F16)) == (whole.weight_bytes, whole.slot_bytes(F16, F16))
    parts[1].unlink()
    with pytest.raises(FileNotFoundError, match="parts-00002-of-00003.gguf does not exist"):
        model_facts(parts[0])


def test_bandwidth_is_that_of_memory() -> None:
    assert 1e8 < read_bandwidth(1, 1 << 26) < 1e13


def test_stock_alone_is_compared_with_nothing() -> None:
    report = Report({"threads": 1})
    report.compare()
    assert report.as_dict()["reference_depth"] is None
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)


# dummies


@pytest.mark.parametrize(("name", "n_weights"), [("1B", 1_235_814_400), ("3B", 3_212_749_824), ("8B", 8_030_261_248)])
def test_dummies_have_as_many_weights_as_their_likeness(name: str, n_weights: int) -> None:
    tensors = [tensor for tensor in dummy.SHAPES[name].tensors() if tensor.name != "rope_freqs.weight"]
    assert sum(tensor.n_in * tensor.n_out for tensor in tensors) == n_weights


def test_a_dummy_computes_sane_logits(tiny_dummy: Path) -> None:
    llm = Llama(str(tiny_dummy), n_ctx=256, n_threads=1, logits_all=True, verbose=False)
    llm.eval(llm.tokenize(b"The harbour was quiet."))
    scores = llm.scores[: llm.n_tokens]
    llm.close()
    assert np.isfinite(scores).all()
    assert 0.5 < scores.std() < 2
    assert len(set(scores.argmax(axis=1))) > 1


def test_rope_is_stretched_as_in_llama_3() -> None:
    factors = dummy.rope_factors(dummy.SHAPES["8B"])
    assert (factors[0], factors[-1]) == (1, 8)
    assert (np.diff(factors) >= 0).all()


def test_a_dummy_is_written_once(tiny_dummy: Path) -> None:
    written = tiny_dummy.stat()
    assert dummy.dummy_model("tiny", tiny_dummy.parent) == tiny_dummy
    assert tiny_dummy.stat().st_mtime_ns == written.st_mtime_ns
    with pytest.raises(ValueError, match="unknown dummy '2B'; there are 1B, 3B, 8B, tiny"):
        dummy.dummy_model("2B", tiny_dummy.parent)


def test_a_dummy_that_does_not_fit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5 << 20))
    with pytest.raises(OSError, match=r"the 8B dummy takes 4,\d\d\d MiB, but .* has 5 MiB left; free some, or name another"):
        dummy.dummy_model("8B", tmp_path)
    assert list(tmp_path.iterdir()) == []
