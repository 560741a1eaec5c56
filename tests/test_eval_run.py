"""Running an evaluation: every column on the same samples, resumable, as a table, JSON, CSV and a picture."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from eval_runs import ENGINE, measured

from asymkv_gguf import Llama, recall
from asymkv_gguf.cli import main
from asymkv_gguf.cli.demo import MODEL
from asymkv_gguf.eval.ppl import Perplexity
from asymkv_gguf.eval.results import FILE_NAME, Results
from asymkv_gguf.eval.text_windows import Window
from asymkv_gguf.preview import vocabulary

TEXT = "".join(recall.make_document(seed, tokens=700).text for seed in range(3))
COLUMNS = "none,none:q8_0,asymkv-exact@64,h2o@64,random@64,asymkv-exact@600"


class Counted(Perplexity):
    """Perplexity that is interrupted after some samples."""

    def __init__(self, *args: Any, stop_after: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.measured: list[str] = []
        self.stop_after = stop_after

    def measure(self, llm: Llama, sample: Window) -> Mapping[str, float]:
        if len(self.measured) == self.stop_after:
            raise KeyboardInterrupt
        self.measured.append(sample.id)
        return super().measure(llm, sample)


@pytest.fixture(scope="module")
def words() -> Iterator[Llama]:
    llm = vocabulary(str(MODEL))
    yield llm
    llm.close()


def task(words: Llama, length: int = 300, most: int = 3, **options: Any) -> Counted:
    return Counted(words, TEXT, length=length, n_buckets=2, most=most, **options)


def test_a_budget_above_the_text_expects_every_token_as_the_full_cache_does(words: Llama) -> None:
    outcome = measured(task(words, most=1), "none,asymkv-exact@600,h2o@600,asymkv-exact@600:q8_0,none:q8_0,asymkv-exact@64")
    values = {label: [one.values for one in results] for label, results in outcome.by_column.items()}
    assert values["asymkv-exact@600"] == values["h2o@600"] == values["none"]
    assert values["asymkv-exact@600:q8_0"] == values["none:q8_0"] != values["none"]
    assert values["asymkv-exact@64"] != values["none"]


def test_what_a_sample_gets_does_not_depend_on_the_samples_before_it(words: Llama) -> None:
    all_at_once = measured(task(words), "random@64,asymkv-exact@64")
    alone = task(words)
    alone._windows = alone._windows[-1:]
    for label, results in measured(alone, "random@64,asymkv-exact@64").by_column.items():
        assert results[0].values == all_at_once.by_column[label][-1].values


def test_slots_and_bytes_are_as_allocated(words: Llama) -> None:
    outcome = measured(task(words, most=1), COLUMNS)
    sizes = {label: (results[0].budget, results[0].slots, results[0].kv_bytes) for label, results in outcome.by_column.items()}
    assert sizes["none"][:2] == (None, 512)
    slot_bytes = sizes["none"][2] // 512
    assert sizes["asymkv-exact@64"] == (64, 256, 256 * slot_bytes)
    assert sizes["none:q8_0"] == (None, 512, 512 * slot_bytes * 34 // 64)
    assert sizes["asymkv-exact@600"] == (600, 512, 512 * slot_bytes)  # no more than the text needs


def test_all_columns_read_in_batches_that_fit_the_smallest(words: Llama) -> None:
    outcome = measured(task(words, most=1), "none,asymkv-exact@64,h2o@300")
    assert outcome.n_batch == 32
    engine = dataclasses.replace(ENGINE, n_batch=64)
    with pytest.raises(ValueError, match="budget 64 is too small for .* batches of 64; raise it to 96 or more"):
        measured(task(words, most=1), "none,h2o@64", engine=engine)


def test_an_interrupted_run_goes_on_with_what_is_left(words: Llama, tmp_path: Path) -> None:
    interrupted = task(words, stop_after=4)
    with pytest.raises(KeyboardInterrupt):
        measured(interrupted, "none,h2o@64", Results(tmp_path))
    assert len(interrupted.measured) == 4
    # as if it had been killed while it wrote
    file = tmp_path / FILE_NAME
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]) + lines[3][:40])

    rest = task(words)
    outcome = measured(rest, "none,h2o@64", Results(tmp_path))
    assert outcome.n_measured == len(rest.measured) == 3
    assert [len(results) for results in outcome.by_column.values()] == [3, 3]
    whole = measured(task(words), "none,h2o@64")
    values = {label: [one.values for one in results] for label, results in outcome.by_column.items()}
    assert values == {label: [one.values for one in results] for label, results in whole.by_column.items()}

    again = task(words)
    assert measured(again, "none,h2o@64", Results(tmp_path)).n_measured == 0
    assert not again.measured


def test_other_settings_texts_and_batches_are_measured_anew(words: Llama, tmp_path: Path) -> None:
    assert measured(task(words, most=1), "h2o@64", Results(tmp_path)).n_measured == 1
    assert measured(task(words, most=1), "h2o@64,observe=8", Results(tmp_path)).n_measured == 1
    assert measured(task(words, length=310, most=1), "h2o@64", Results(tmp_path)).n_measured == 1
    smaller = dataclasses.replace(ENGINE, n_batch=16)
    assert measured(task(words, most=1), "h2o@64", Results(tmp_path), smaller).n_measured == 1
    assert measured(task(words, most=2), "h2o@64", Results(tmp_path)).n_measured == 1  # of two, one is there


def test_a_work_directory_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="work directory .*file cannot be used: File exists"):
        Results(tmp_path / "file")


# the command

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ppl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)

    def run_command(*arguments: object) -> tuple[int, str, str]:
        typed = ["eval", "ppl", "-m", str(MODEL), "-f", "text.txt", "--length", "512", "-n", "2", "-t", "1", *arguments]
        code = main([str(argument) for argument in typed])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run_command


def test_a_table_tells_every_column_with_its_difference_to_the_full_cache(ppl: Command) -> None:
    code, out, err = ppl("--columns", "none,h2o@64,asymkv-exact@600", "--buckets", "2")
    assert code == 0
    lines = out.splitlines()
    assert (
        lines[0]
        == "| column | slots | KV cache | NLL | to none | NLL, tokens 1-255 | to none | NLL, tokens 256-511 | to none |"
    )
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| none", "| h2o@64", "| asymkv-exact@600"]
    assert "| +0.0000 [+0.0000, +0.0000] |" in lines[4]
    assert lines[-1] == "2 samples; in brackets: 95% intervals (bootstrap over samples)"
    assert "eval ppl: 2 samples, 3 columns; texts are read 32 tokens at a time in all of them" in err
    assert "eval ppl: h2o@64 (2 of 6)" in err


def test_json_and_csv_tell_the_same_and_a_plot_is_drawn(ppl: Command, tmp_path: Path) -> None:
    common = ("--columns", "none,h2o@64", "--work", "work", "--buckets", 2)
    code, out, _ = ppl(*common, "--json", "--plot", "plot.png")
    assert code == 0
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads(out)
    assert report["eval"] == "ppl"
    assert [column["column"] for column in report["columns"]] == ["none", "h2o@64"]
    full, h2o = report["columns"]
    assert h2o["metrics"]["nll"]["difference"]["mean"] == pytest.approx(
        h2o["metrics"]["nll"]["value"]["mean"] - full["metrics"]["nll"]["value"]["mean"]
    )
    one = next(iter(h2o["samples"].values()))
    assert one["nll"] == pytest.approx((255 * one["nll_1-255"] + 256 * one["nll_256-511"]) / 511)
    code, out, err = ppl(*common, "--csv")
    assert code == 0
    assert "4 of 4 results are in the work directory" in err
    rows: Sequence[dict[str, str]] = list(csv.DictReader(out.splitlines()))
    assert len(rows) == 2 * 3
    row = next(one for one in rows if (one["column"], one["metric"]) == ("h2o@64", "nll"))
    for end in ("mean", "low", "high"):
        assert float(row[end]) == h2o["metrics"]["nll"]["value"][end]
        assert float(row[f"difference_{end}"]) == h2o["metrics"]["nll"]["difference"][end]
    assert int(row["kv_bytes"]) == h2o["kv_bytes"]


def test_options_come_from_the_environment_too(ppl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYMKV_EVAL_PPL_COLUMNS", "none")
    monkeypatch.setenv("ASYMKV_EVAL_PPL_JSON", "1")
    code, out, _ = ppl()
    assert code == 0
    assert [column["column"] for column in json.loads(out)["columns"]] == ["none"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--columns", "h3o@64"], 2, "column 'h3o@64': unknown policy 'h3o'"),
        (["--budgets", "many"], 2, "budget 'many' is neither a number of slots nor a ratio"),
        (["--plot", "plot.pdf"], 2, "the plot is a PNG, so --plot plot.pdf should end in .png"),
        (["--plot", "no/plot.png"], 2, "there is no directory"),
        (["-f", "none.txt"], 1, "text file none.txt cannot be read: No such file or directory"),
        (["-m", "none.gguf"], 1, "none.gguf"),
        (["--length", "99999"], 1, "give a longer text or a smaller --length"),
        (["--length", "8", "--buckets", "8"], 1, "a window of 8 tokens has no 8 parts; lower --buckets or raise --length"),
        (["--columns", "h2o@8x"], 1, "column 'h2o@8x': of a text of 512 tokens, 8x leaves 64 slots"),
        (["--columns", "h2o@64", "-b", "64"], 1, "raise it to 96 or more"),
        (["--work", "text.txt"], 1, "work directory text.txt cannot be used: File exists"),
    ],
)
def test_wrong_use_is_one_sentence(ppl: Command, arguments: list[str], code: int, message: str) -> None:
    found, out, err = ppl(*arguments)
    assert found == code
    assert not out
    assert message in err
    assert "Traceback" not in err


def test_a_text_longer_than_the_model_was_trained_for_is_told(ppl: Command, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(2 * TEXT)
    code, _, err = ppl("--length", "4100", "-n", "1", "--columns", "none")
    assert code == 0
    assert "texts of 4,100 tokens are longer than the 4,096 that the model is trained for" in err


def test_a_run_that_breaks_off_says_where_its_results_are(ppl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> Mapping[str, float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Perplexity, "measure", interrupt)
    code, out, err = ppl("--columns", "none", "--work", "work")
    assert code == 130
    assert not out
    assert "what was measured is kept in work; the same command goes on" in err
