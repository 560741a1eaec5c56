"""`asymkv-gguf inspect`: its statistics on arrays whose answers are known, and the command on real caches."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from groups import random_group
from runs import random_tokens

from asymkv_gguf import AsymKVConfig, Llama, recall, reference
from asymkv_gguf.cli import main
from asymkv_gguf.cli.demo import MODEL
from asymkv_gguf.inspection import statistics
from asymkv_gguf.inspection.measure import inspect, reading_config
from asymkv_gguf.inspection.plots import cardinality_map
from asymkv_gguf.inspection.report import BUCKETS
from asymkv_gguf.inspection.statistics import adjacent, at_random, likeness
from asymkv_gguf.reference import Group

SINKS, RECENT, BUDGET = 4, 64, 128
N_TOKENS = 500

InProcess = Callable[..., tuple[int, str, str]]


@pytest.fixture
def in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> InProcess:
    """The command without a new process: its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASYMKV_INSPECT_THREADS", "1")
    (tmp_path / "text.txt").write_text(recall.make_document(3, tokens=N_TOKENS + 50).text)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["inspect", *map(str, arguments)])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


# statistics on constructed arrays


def group_of(n: int = 60, **options: Any) -> Group:
    """Nothing merged yet, and queries as a cache keeps them: twelve tokens, two query heads for each KV head."""
    group = random_group(n, merged=False, **options)
    return replace(group, query_positions=np.repeat(np.arange(n - 12, n), 2))


@pytest.mark.parametrize("neox", [False, True])
def test_slots_with_one_key_and_one_value_are_alike_in_everything(neox: bool) -> None:
    """One key before RoPE, which the cache holds rotated to each slot's position."""
    group = group_of(neox=neox)
    rng = np.random.default_rng(1)
    key, value = rng.standard_normal((1, 1, 32)), rng.standard_normal((1, 1, 32))
    keys = reference.rotate(np.repeat(key, 60, axis=0), group.positions[:, None], group.rope_freqs, group.n_rot, neox)
    [one] = likeness(replace(group, keys=keys, values=np.repeat(value, 60, axis=0)))
    for contrast in (one.keys, one.values):
        assert contrast.adjacent == pytest.approx(1, abs=1e-12)
        assert contrast.random == pytest.approx(1, abs=1e-12)
    # rotated keys still draw different logits: RoPE is in the attention
    assert one.sigma.adjacent > 0.1


def test_slots_with_one_key_at_one_position_have_no_logit_gap_and_one_response() -> None:
    group = group_of()
    # what the protected slots draw varies, and with it what is left to the others
    keys = np.where(group.is_protected[:, None, None], group.keys, group.keys[30])
    same = replace(group, keys=keys, positions=np.zeros(60))
    [one] = likeness(same)
    assert one.sigma == statistics.Contrast(0, 0)
    assert one.tolerable == statistics.Contrast(1, 1)
    assert one.response.adjacent == pytest.approx(1)
    assert np.isnan(one.attention.adjacent)  # no query prefers a slot
    assert one.as_dict()["attention"] == {"adjacent": None, "random": None}


def test_independent_slots_are_not_alike() -> None:
    rng = np.random.default_rng(0)
    x, attention = rng.standard_normal((2000, 64)), rng.random((80, 2, 2000))
    for pairs in (adjacent(2000), at_random(2000)):
        assert abs(np.nanmean(statistics.cosine(x, pairs))) < 0.02
        assert abs(np.nanmean(statistics.spearman_over_slots(attention, pairs))) < 0.02
        assert abs(np.nanmean(statistics.spearman_over_queries(attention, pairs))) < 0.02
        # the difference of two independent logits of deviation 1
        assert statistics.logit_gap(rng.standard_normal((3000, 2000)), pairs).mean() == pytest.approx(np.sqrt(2), abs=0.01)


def test_neighbours_that_share_half_are_half_alike_and_random_pairs_are_not() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2001, 256))
    x = noise[1:] + noise[:-1]  # shares one of two terms with each neighbour
    assert statistics.cosine(x, adjacent(2000)).mean() == pytest.approx(0.5, abs=0.01)
    assert statistics.cosine(x, at_random(2000)).mean() == pytest.approx(0, abs=0.01)


def test_rotation_is_removed_exactly() -> None:
    group = random_group(60, merged=True, n_rot=16)
    at_zero = group.keys
    moved = reference.rotate(at_zero, group.positions[:, None], group.rope_freqs, group.n_rot, group.rope_neox)
    np.testing.assert_allclose(statistics.unrotated(replace(group, keys=moved)), at_zero, rtol=0, atol=1e-12)


@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_the_logits_are_those_of_the_attention(softcap: float) -> None:
    group = group_of(softcap=softcap)
    seen = statistics.is_comparable(group)
    logits, attention = statistics.logits(group)[..., seen], reference.observe(group).a[..., seen]
    gaps = np.diff(logits, axis=-1)
    np.testing.assert_allclose(gaps, np.diff(np.log(attention), axis=-1), rtol=0, atol=1e-9)


def test_spearman_is_that_of_ranks_and_ties_share_theirs() -> None:
    assert statistics.ranks(np.array([[3.0, 1.0, 3.0, 0.0], [5.0, 5.0, 5.0, 5.0]])).tolist() == [[2.5, 1, 2.5, 0], [1.5] * 4]
    pair = statistics.Pairs(np.array([0]), np.array([1]))
    x = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    for y, expected in ((np.exp(x), 1.0), (-(x**3), -1.0), (np.array([1.0, 2, 3, 5, 4]), 0.9), (np.ones(5), np.nan)):
        attention = np.stack([x, y], axis=-1)[:, None]  # [T, 1, 2]
        assert statistics.spearman_over_queries(attention, pair)[0, 0] == pytest.approx(expected, nan_ok=True)


def test_random_pairs_are_never_neighbours() -> None:
    for n in range(statistics.LEAST_SLOTS, 60):
        left, right = at_random(n, seed=n)
        assert len(left) == n - 1
        assert np.abs(left - right).min() > 1
        assert right.min() >= 0
        assert right.max() < n
    assert np.array_equal(at_random(50, 1), at_random(50, 1))
    assert not np.array_equal(at_random(50, 1).right, at_random(50, 2).right)


def test_query_heads_are_ranked_each_for_itself() -> None:
    """Two heads look at all slots alike, but one much more than the other: over both, everything would correlate."""
    rng = np.random.default_rng(0)
    attention = rng.random((200, 2, 50)) + np.array([0, 10])[:, None]
    assert abs(statistics.spearman_over_queries(attention, adjacent(50)).mean()) < 0.05
    assert statistics.spearman_over_queries(attention.reshape(400, 1, 50), adjacent(50)).mean() > 0.5


def test_protected_slots_are_not_compared() -> None:
    group = group_of()
    spoiled = replace(group, values=np.where(group.is_protected[:, None, None], 1.0, group.values))
    assert likeness(spoiled)[0].values == likeness(group)[0].values
    with pytest.raises(ValueError, match="there are 15 slots to compare and 24 observed queries; 16 slots are needed"):
        likeness(group_of(30))


def test_heads_that_share_a_plan_are_told_one_by_one() -> None:
    group = group_of(n_heads=2)
    both = likeness(group)
    assert len(both) == 2
    for h, one in enumerate(both):
        alone = replace(group, keys=group.keys[:, [h]], values=group.values[:, [h]], queries=group.queries[[h]])
        for name in statistics.NAMES:
            assert vars(getattr(one, name)) == pytest.approx(vars(getattr(likeness(alone)[0], name)))


# a live cache


def read_and_compress(path: Path, budget: int | None = BUDGET, **config: Any) -> tuple[Llama, Any]:
    settings = reading_config(AsymKVConfig(observe=RECENT).replace(**config), N_TOKENS)
    llm = Llama(str(path), asymkv=settings, n_ctx=1024, n_threads=1, verbose=False)
    return llm, inspect(llm, random_tokens(N_TOKENS), budget)


@pytest.mark.parametrize(
    ("model", "per_head"),
    [("llama-yarn", True), ("llama", False), ("gptneox", True), ("gemma2", True), ("lfm2", True), ("gpt-oss", True)],
)
def test_every_kind_of_cache_can_be_inspected(tiny: Callable[[str], Path], model: str, per_head: bool) -> None:
    llm, report = read_and_compress(tiny(model), per_head=per_head)
    stats = llm.asymkv_stats()
    llm.close()
    assert len(report.layers()) == stats.layers
    assert max(len(heads) for heads in report.layers()) == stats.kv_heads
    assert report.merges + report.evictions == (N_TOKENS - BUDGET) * stats.layers * stats.groups
    for head in report.heads:
        likeness = head.likeness
        for name in ("attention", "response", "keys", "values"):
            contrast = getattr(likeness, name)
            assert -1 <= contrast.adjacent <= 1
            assert -1 <= contrast.random <= 1
        assert likeness.sigma.adjacent > 0
        assert int(head.slots["cardinality"].sum()) + head.n_lost == N_TOKENS


def test_the_same_cosine_as_from_the_rows_of_the_cache(tiny: Callable[[str], Path]) -> None:
    """Of keys that one text gives at two places: a repeated token has, in the first layer, one key and one value."""
    settings = reading_config(AsymKVConfig(observe=RECENT), N_TOKENS)
    llm = Llama(str(tiny("llama")), asymkv=settings, n_ctx=1024, n_threads=1, verbose=False)
    report = inspect(llm, [1] + [42] * (N_TOKENS - 1), BUDGET)
    llm.close()
    for head in report.layers()[0]:
        assert head.likeness.keys.adjacent == pytest.approx(1, abs=1e-5)  # f16 rows
        assert head.likeness.values.adjacent == pytest.approx(1, abs=1e-5)


def test_the_map_has_a_token_of_every_slot_and_only_lost_ones_are_bare(tiny: Callable[[str], Path]) -> None:
    llm, report = read_and_compress(tiny("llama"))
    llm.close()
    covered = cardinality_map(report)
    assert covered.shape == (len(report.heads), N_TOKENS)
    for row, head in zip(covered, report.heads, strict=True):
        assert row[:SINKS].tolist() == [1] * SINKS
        assert row[-RECENT:].tolist() == [1] * RECENT
        assert int((row == 0).sum()) <= head.n_lost
        assert {*row.tolist()} - {0} == {*head.slots["cardinality"].tolist()}


def test_a_cache_that_cannot_be_inspected_is_refused_in_a_sentence(tiny: Callable[[str], Path]) -> None:
    small = {"budget": 200, "sinks": SINKS, "recent": RECENT}
    llm = Llama(str(tiny("llama")), asymkv=small, n_ctx=1024, n_threads=1, verbose=False)
    with pytest.raises(ValueError, match="must be a merged one, empty, and hold 500 slots; open it with reading_config"):
        inspect(llm, random_tokens(N_TOKENS))
    llm.close()


# the command

NUMBERS = {"attention", "response", "keys", "values", "sigma", "tolerable"}
COUNTS = {"tokens_alone", "tokens_merged", "tokens_lost", "max_cardinality", "cardinalities"}


def test_json_tells_every_layer_and_head_and_counts_every_token(in_process: InProcess) -> None:
    code, out, _ = in_process(MODEL, "-f", "text.txt", "--length", N_TOKENS, "--asymkv-budget", BUDGET, "--json")
    assert code == 0
    report = json.loads(out)
    assert (report["model"], report["tokens"], report["slots"]) == ("recall.gguf", N_TOKENS, BUDGET)
    assert (report["pairs"], report["queries"]) == (N_TOKENS - SINKS - RECENT - 1, RECENT)
    assert report["asymkv"]["budget"] == BUDGET
    assert [layer["layer"] for layer in report["layers"]] == [0, 1, 2, 3, 4]
    assert report["merges"] + report["evictions"] == (N_TOKENS - BUDGET) * 10
    assert {*report["mean"]} == NUMBERS | COUNTS
    for layer in report["layers"]:
        assert {*layer} == NUMBERS | COUNTS | {"layer", "heads"}
        assert [head["head"] for head in layer["heads"]] == [0, 1]
        for head in layer["heads"]:
            assert {*head} == NUMBERS | COUNTS | {"head", "slots"}
            assert head["tokens_alone"] + head["tokens_merged"] + head["tokens_lost"] == N_TOKENS
            assert sum(cardinality for _, _, cardinality in head["slots"]) + head["tokens_lost"] == N_TOKENS
            assert len(head["slots"]) == sum(head["cardinalities"].values()) == BUDGET
            assert head["max_cardinality"] == max(cardinality for _, _, cardinality in head["slots"])
        for name in NUMBERS:
            mean = np.mean([head[name]["adjacent"] for head in layer["heads"]])
            assert layer[name]["adjacent"] == pytest.approx(mean)
        assert layer["tokens_lost"] == sum(head["tokens_lost"] for head in layer["heads"])
        # what holds with this model by far: neighbours draw like attention, and random pairs do not
        assert layer["attention"]["adjacent"] > layer["attention"]["random"] + 0.05
        assert layer["sigma"]["adjacent"] < layer["sigma"]["random"]
    # the first layer looks at the last three tokens, by content not at all
    assert report["layers"][0]["keys"]["adjacent"] > 0.9 > 0.5 > report["layers"][0]["values"]["adjacent"]


def test_the_table_has_a_line_for_each_layer_and_the_csv_one_for_each_head(in_process: InProcess) -> None:
    arguments = ["-m", MODEL, "-f", "text.txt", "--length", N_TOKENS]
    code, out, _ = in_process(*arguments)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "recall.gguf: 500 tokens, 431 adjacent pairs, 64 queries, 2 KV heads a layer"
    assert [line.split()[0] for line in lines[4:-2]] == ["0", "1", "2", "3", "4", "all"]
    assert lines[-1].startswith("compressed to 69 slots: ")  # an eighth would be less than what is protected
    code, out, _ = in_process(*arguments, "--csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["layer"], row["head"]) for row in rows] == [(str(layer), str(head)) for layer in range(5) for head in (0, 1)]
    assert sum(int(value) for name, value in rows[0].items() if name.startswith("cardinality_")) == 69
    assert len([name for name in rows[0] if name.startswith("cardinality_")]) == len(BUCKETS)
    assert -1 <= float(rows[0]["attention_adjacent"]) <= 1


def test_the_table_of_the_page_is_that_of_the_command(in_process: InProcess, tmp_path: Path) -> None:
    """Its likeness to the digit before the last; what is merged may differ where costs are equal."""
    (tmp_path / "text.txt").write_text(recall.make_document(1, tokens=1024).text + "\n")
    code, out, _ = in_process(MODEL, "-f", "text.txt")
    page = (Path(__file__).parent.parent / "docs" / "inspect.md").read_text(encoding="utf-8").split("```\n")[2].splitlines()
    lines = out.splitlines()
    assert (code, lines[:4]) == (0, page[:4])
    assert len(lines) == len(page)
    for line, written in zip(lines[4:-2], page[4:-2], strict=True):
        likeness, of_page = ([float(number) for number in one.split()[1:9]] for one in (line, written))
        assert likeness == pytest.approx(of_page, abs=0.021)


def test_the_policy_decides_what_becomes_of_the_slots(in_process: InProcess) -> None:
    arguments = [MODEL, "-f", "text.txt", "--length", N_TOKENS, "--asymkv-budget", BUDGET, "--json"]
    code, out, _ = in_process(*arguments, "--asymkv-policy", "h2o")
    report = json.loads(out)
    assert (code, report["merges"], report["mean"]["max_cardinality"]) == (0, 0, 1)
    code, out, _ = in_process(*arguments, "--asymkv-score", "output")
    merged = json.loads(out)
    assert (code, merged["evictions"], merged["mean"]["tokens_lost"]) == (0, 0, 0)
    assert merged["layers"][0]["keys"] == report["layers"][0]["keys"]  # which the policy has no part in


def test_a_budget_in_bytes_is_turned_into_slots(in_process: InProcess) -> None:
    code, out, _ = in_process(MODEL, "-f", "text.txt", "--length", N_TOKENS, "--asymkv-budget", "200KiB", "--json")
    assert code == 0
    assert json.loads(out)["slots"] == 200 * 1024 // (5 * 2 * 2 * 32 * 2)  # layers, KV heads, K and V, channels, f16


def test_the_plot_is_a_png(in_process: InProcess, tmp_path: Path) -> None:
    code, out, _ = in_process(MODEL, "-f", "text.txt", "--length", N_TOKENS, "--plot", "plot.png")
    assert code == 0
    assert out.startswith("recall.gguf")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-f", "text.txt"], "give either -m FILE, a GGUF file, or -hf USER/REPO[:QUANT], a model of the hub"),
        ([MODEL, "-m", MODEL, "-f", "text.txt"], "recall.gguf and -m or -hf are 2 models; give one of them"),
        ([MODEL, "-p", ""], "the text is empty; give -p PROMPT, -f FILE, or a pipe"),
        ([MODEL, "-f", "text.txt", "--no-asymkv"], "a stock cache has nothing to inspect; leave out --no-asymkv"),
        ([MODEL, "-f", "text.txt", "--asymkv-policy", "none"], "a stock cache has nothing to inspect"),
        ([MODEL, "-f", "text.txt", "--plot", "plot.jpg"], "the plot is a PNG, so --plot plot.jpg should end in .png"),
        ([MODEL, "-f", "text.txt", "--length", "0"], "0 is not in the range x>=1"),
        ([MODEL, "-f", "text.txt", "--asymkv-observe", "99"], "observe 99 is more than the 64 recent tokens"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(in_process: InProcess, arguments: list[object], sentence: str) -> None:
    code, out, err = in_process(*arguments)
    assert (code, out) == (2, "")
    assert sentence in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-p", "The code of"], "tokens, too few for 4 sinks, 64 recent tokens and 16 to compare; give a text of 84 or more"),
        (["-f", "text.txt", "--length", 83], "the text has 83 tokens, too few for 4 sinks, 64 recent tokens"),
        (
            ["-f", "text.txt", "--length", N_TOKENS, "--asymkv-budget", N_TOKENS],
            "a budget of 500 slots holds the whole text, 500 tokens; lower the budget, or give a longer text",
        ),
        (["-f", "text.txt", "--asymkv-budget", 68], "budget 68 is too small for 4 sinks and 64 recent tokens"),
        (["-f", "no.txt"], "text file no.txt cannot be read: No such file or directory"),
    ],
)
def test_what_fails_is_one_sentence_and_exit_code_1(in_process: InProcess, arguments: list[object], sentence: str) -> None:
    code, out, err = in_process(MODEL, *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("asymkv-gguf: ")
    assert sentence in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_missing_extra_is_named(in_process: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = in_process(MODEL, "-f", "text.txt", "--plot", "plot.png")
    assert code == 1
    assert 'matplotlib is not installed; run: pip install "asymkv-gguf[plot]"' in err
