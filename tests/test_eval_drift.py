"""Drift: distributions against those of the full cache."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from eval_runs import ENGINE, mean, measured

from asymkv_gguf import Llama, recall
from asymkv_gguf.cli import main
from asymkv_gguf.cli.demo import MODEL
from asymkv_gguf.eval.drift import Drift
from asymkv_gguf.eval.full_log_probs import FullLogProbs, rounded
from asymkv_gguf.eval.logits import log_probs
from asymkv_gguf.eval.results import Results
from asymkv_gguf.preview import vocabulary

TEXT = "".join(recall.make_document(seed, tokens=700).text for seed in range(2))


@pytest.fixture(scope="module")
def words() -> Iterator[Llama]:
    llm = vocabulary(str(MODEL))
    yield llm
    llm.close()


def task(words: Llama, work: Path | None = None, most: int = 2) -> Drift:
    return Drift(words, TEXT, length=600, scored=40, most=most, work=work)


def test_a_budget_above_the_text_has_no_drift_at_all(words: Llama) -> None:
    outcome = measured(task(words, most=1), "none,asymkv-exact@600,h2o@600,none:q8_0,asymkv-exact@64,random@64")
    for same in ("none", "asymkv-exact@600", "h2o@600"):
        assert [one.values for one in outcome.by_column[same]] == [{"kl": 0.0, "agreement": 1.0}]
    assert 0 < mean(outcome, "none:q8_0", "kl") < mean(outcome, "random@64", "kl")
    assert 0 < mean(outcome, "asymkv-exact@64", "kl") < mean(outcome, "random@64", "kl")
    assert mean(outcome, "random@64", "agreement") < mean(outcome, "asymkv-exact@64", "agreement") <= 1


def test_drift_is_what_two_caches_read_by_hand_give(words: Llama) -> None:
    one = task(words, most=1)
    values = measured(one, "asymkv-exact@64").by_column["asymkv-exact@64"][0].values
    tokens = one.samples()[0].tokens
    found = []
    for asymkv in (False, {"budget": 64, "sinks": 4, "recent": 28, "observe": 28}):
        llm = Llama(
            str(MODEL), asymkv=asymkv, n_ctx=768, n_batch=32, flash_attn=True, n_threads=1, n_threads_batch=1, verbose=False
        )
        llm.eval(tokens[:-40])
        found.append(np.concatenate([log_probs(logits) for logits in llm.eval_with_logits(tokens[-40:])]))
        llm.close()
    full, merged = found
    assert values["kl"] == pytest.approx((np.exp(full) * (full - merged)).sum() / 40, abs=1e-5)
    assert values["agreement"] == np.mean(full.argmax(axis=1) == merged.argmax(axis=1))


def test_the_full_cache_is_read_once_and_kept(words: Llama, tmp_path: Path) -> None:
    first = measured(task(words, tmp_path), "h2o@64", Results(tmp_path))
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "full").iterdir()}
    assert len(files) == 2
    array = np.load(next(iter(files)))
    assert array.shape == (40, words.n_vocab())
    assert array.dtype == np.float16
    again = measured(task(words, tmp_path), "h2o@64,tova@64", Results(tmp_path))
    assert again.n_measured == 2
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "full").iterdir()} == files
    assert again.by_column["h2o@64"] == first.by_column["h2o@64"]
    # read in other batches, the full cache is another one
    measured(task(words, tmp_path), "tova@32", Results(tmp_path))
    assert len(list((tmp_path / "full").iterdir())) == 4


def test_without_a_work_directory_nothing_is_left(words: Llama) -> None:
    full = FullLogProbs()
    full.add("one", [np.zeros((2, 3))], (2, 3))
    directory = full._directory
    assert "one" in full
    assert directory.exists()
    del full
    assert not directory.exists()


def test_what_was_rounded_is_a_distribution() -> None:
    rows = rounded(log_probs(np.random.default_rng(0).normal(0, 5, (4, 1000)).astype(np.float32)))
    assert np.exp(rows).sum(axis=1) == pytest.approx(1.0)


def test_more_scored_tokens_than_the_window_has_are_one_sentence(words: Llama) -> None:
    with pytest.raises(ValueError, match="of a window of 64 tokens, 64 cannot be scored; lower --scored or raise --length"):
        Drift(words, TEXT, length=64, scored=64)


def test_the_command_tells_kl_and_agreement(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    arguments = ["-m", str(MODEL), "-f", str(tmp_path / "text.txt"), "--length", "400", "--scored", "20", "-n", "1", "-t", "1"]
    assert main(["eval", "drift", *arguments, "--columns", "none,h2o@64", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["settings"]["model"] == ENGINE.model
    assert [metric["name"] for metric in report["metrics"]] == ["kl", "agreement"]
    assert report["columns"][1]["metrics"]["kl"]["value"]["mean"] > 0
