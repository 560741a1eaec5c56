"""LongBench: its files, the user's prompt formats, truncation, and the command with the packaged model."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer, Repo
from hub_tool import Tool

from asymkv_gguf import Llama, recall
from asymkv_gguf.cli import main
from asymkv_gguf.cli.demo import MODEL
from asymkv_gguf.eval.longbench import chinese
from asymkv_gguf.eval.longbench.formats import filled, read_max_lengths, read_prompts
from asymkv_gguf.eval.longbench.source import Item, Source
from asymkv_gguf.eval.longbench.tasks import TASKS, check_jieba, kind_of
from asymkv_gguf.eval.longbench.truncate import fitted
from asymkv_gguf.eval.prompts import answer, prompt_tokens, to_first_line, trained_context
from asymkv_gguf.preview import vocabulary

InProcess = Callable[..., tuple[int, str, str]]

DOCUMENT = recall.make_document(seed=1, tokens=700, facts=3, mentioned=2)
CODES = {question.prompt.strip(): question.answer.strip() for question in DOCUMENT.questions}
PROMPTS = {
    "triviaqa": "{context}{input}",
    "hotpotqa": "{context}{input}",
    "trec": "{context}{input}",
    "lcc": "{context}{input}",
    "passage_count": "{context}How many? {input}",
    "vcsum": "{context}",
}
LENGTHS = dict.fromkeys(PROMPTS, 4)


def line(**changes: object) -> dict[str, Any]:
    """A line as LongBench has it."""
    (asked, code), *_ = CODES.items()
    fields: dict[str, Any] = {"input": asked, "context": DOCUMENT.text, "answers": [code], "length": 700, "dataset": "triviaqa"}
    return {**fields, "language": "en", "all_classes": None, "_id": "a1", **changes}


def write(directory: Path, files: Mapping[str, list[Any]], prompts: object = PROMPTS, lengths: object = LENGTHS) -> Path:
    directory.mkdir(exist_ok=True)
    for name, lines in files.items():
        texts = (one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in lines)
        (directory / f"{name}.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")
    if prompts is not None:
        (directory / "dataset2prompt.json").write_text(json.dumps(prompts))
    if lengths is not None:
        (directory / "dataset2maxlen.json").write_text(json.dumps(lengths))
    return directory


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Questions about codes, which the packaged model answers, and others, which it does not."""
    asked = [line(input=question, answers=["nothing", code], _id=str(i)) for i, (question, code) in enumerate(CODES.items())]
    classes = sorted({*CODES.values(), "harbour"})
    files = {
        "triviaqa": asked,
        "trec": [{**one, "all_classes": classes, "answers": one["answers"][1:]} for one in asked[:1]],
        "lcc": asked[:1],
        "passage_count": [line(input="", answers=["3"])],
    }
    return write(tmp_path / "longbench", files)


@pytest.fixture
def in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> InProcess:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["eval", "longbench", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def words() -> Iterator[Llama]:
    llm = vocabulary(str(MODEL))
    yield llm
    llm.close()


SMALL = ["-m", MODEL, "-t", "1", "--columns", "none"]


# the command


def test_questions_that_the_model_can_answer_score_all_points(in_process: InProcess, data: Path) -> None:
    arguments = [*SMALL[:-1], "none,random@64", "--data", data, "--tasks", "triviaqa,trec,lcc", "--work", "work", "--json"]
    code, out, err = in_process(*arguments)
    assert code == 0, err
    report = json.loads(out)
    full, small = report["columns"]
    means = {name: cell["value"]["mean"] for name, cell in full["metrics"].items()}
    assert means["triviaqa"] == means["trec"] == 1
    assert 0 < means["lcc"] <= 1
    assert full["metrics"]["triviaqa"]["value"]["n"] == 3
    assert small["metrics"]["triviaqa"]["value"]["mean"] < 1
    assert report["settings"]["truncated"] == {}
    code, again, err = in_process(*arguments)
    assert code == 0
    assert json.loads(again)["columns"] == report["columns"]
    assert "10 of 10 results are in the work directory" in err


def test_without_tasks_all_that_are_there_are_measured_and_samples_are_limited(in_process: InProcess, data: Path) -> None:
    code, out, err = in_process(*SMALL, "--data", data, "-n", "1", "--json")
    assert code == 0, err
    names = [name.split("/")[0] for name in json.loads(out)["columns"][0]["samples"]]
    assert names == ["trec", "triviaqa", "passage_count", "lcc"]


def test_prompts_that_are_too_long_lose_their_middle_and_are_counted(in_process: InProcess, data: Path) -> None:
    code, out, err = in_process(*SMALL, "--data", data, "--tasks", "triviaqa,lcc", "-c", "256", "--json")
    assert code == 0, err
    assert "eval longbench: 3 of 3 prompts of triviaqa lost their middle (-c 256)" in err
    report = json.loads(out)
    assert report["settings"]["truncated"] == {"triviaqa": 3, "lcc": 1}
    assert report["columns"][0]["slots"] <= 256


def test_a_file_of_longbench_e_is_asked_as_the_task_it_belongs_to(in_process: InProcess, data: Path) -> None:
    (data / "triviaqa.jsonl").rename(data / "triviaqa_e.jsonl")
    code, out, err = in_process(*SMALL, "--data", data, "--tasks", "triviaqa_e", "--json")
    assert code == 0, err
    assert json.loads(out)["columns"][0]["metrics"]["score"]["value"]["mean"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--tasks", "squad"], 2, "LongBench has no task 'squad'; there are narrativeqa, "),
        ([], 2, "give --prompts FILE, LongBench's config/dataset2prompt.json, or --data DIR with all of its files"),
        (["--prompts", "p"], 2, "give --max-lengths FILE, LongBench's config/dataset2maxlen.json, or --data DIR"),
        (["--data", "nowhere"], 1, "there is no LongBench directory nowhere; give the one with its .jsonl files (--data)"),
        (["--data", "longbench", "--tasks", "qasper"], 1, "longbench has no qasper.jsonl; there are trec, triviaqa, "),
        (["--data", "longbench", "--prompts", "no.json"], 1, "text file no.json cannot be read: No such file or directory"),
        (["--data", "longbench", "-c", "4"], 1, "a context of 0 tokens, without the answer's, is too short for a prompt"),
    ],
)
def test_wrong_uses_are_one_sentence(arguments: list[str], code: int, sentence: str, in_process: InProcess, data: Path) -> None:
    got, out, err = in_process(*SMALL, *arguments)
    assert (got, out) == (code, "")
    assert sentence in err


# the hub


def archive(directory: Path, data: Path) -> bytes:
    """data.zip as the hub has it."""
    file = directory / "made.zip"
    with zipfile.ZipFile(file, "w") as made:
        for path in data.glob("*.jsonl"):
            made.write(path, f"data/{path.name}")
    return file.read_bytes()


def test_without_data_the_archive_of_the_hub_is_taken_and_once_it_is_cached_nothing_else(tmp_path: Path, data: Path) -> None:
    given = ["--prompts", data / "dataset2prompt.json", "--max-lengths", data / "dataset2maxlen.json", "--tasks", "triviaqa"]
    command = ["eval", "longbench", *SMALL, *given, "--json"]
    with HubServer({"THUDM/LongBench": Repo({"data.zip": archive(tmp_path, data)})}) as server:
        tool = Tool(tmp_path / "home", server)
        assert "data.zip of THUDM/LongBench is not in the cache; leave out --offline" in tool.fails(*command, "--offline")
        first = tool(*command)
        assert first.returncode == 0, first.stderr
        assert "downloading data.zip of THUDM/LongBench" in first.stderr
        assert json.loads(first.stdout)["columns"][0]["metrics"]["score"]["value"]["mean"] == 1
        server.close()
        assert json.loads(tool.works(*command))["columns"][0]["metrics"] == json.loads(first.stdout)["columns"][0]["metrics"]


def test_a_hub_without_it_and_no_hub_are_one_sentence(tmp_path: Path, data: Path) -> None:
    given = ["--prompts", data / "dataset2prompt.json", "--max-lengths", data / "dataset2maxlen.json"]
    with HubServer({}) as server:
        tool = Tool(tmp_path / "home", server)
        assert "there is no repository THUDM/LongBench at" in tool.fails("eval", "longbench", *SMALL, *given)
        server.close()
        sentence = f"{server.endpoint} cannot be reached (Connection refused); check the connection"
        assert sentence in tool.fails("eval", "longbench", *SMALL, *given)


# files


def test_files_are_found_in_the_directory_in_data_and_in_an_archive(tmp_path: Path, data: Path) -> None:
    (tmp_path / "nested").mkdir()
    write(tmp_path / "nested" / "data", {"hotpotqa": [line()]})
    zipped = tmp_path / "zipped"
    zipped.mkdir()
    (zipped / "data.zip").write_bytes(archive(tmp_path, data))
    assert Source(tmp_path / "nested").tasks == ["hotpotqa"]
    assert Source(zipped).tasks == Source(zipped / "data.zip").tasks == ["trec", "triviaqa", "passage_count", "lcc"]
    (item,) = Source(tmp_path / "nested").items("hotpotqa")
    assert (item.task, item.id, item.answers, item.classes) == ("hotpotqa", "a1", tuple(line()["answers"]), ())
    assert [one.fields for one in Source(zipped).items("triviaqa")] == [one.fields for one in Source(data).items("triviaqa")]


def test_a_line_separator_in_a_text_does_not_end_a_line(tmp_path: Path) -> None:
    items = Source(write(tmp_path / "d", {"hotpotqa": [line(context="one\u2028two\x0bthree"), "", line()]})).items("hotpotqa")
    assert [item.fields["context"] for item in items] == ["one\u2028two\x0bthree", DOCUMENT.text]


@pytest.mark.parametrize(
    ("task", "wrong", "sentence"),
    [
        ("hotpotqa", "{", "line 2 is not JSON"),
        ("hotpotqa", "3", "line 2 is not a JSON object"),
        *(("hotpotqa", {k: v for k, v in line().items() if k != name}, f"line 2: field '{name}' is missing")
          for name in ("input", "context", "answers")),
        ("trec", {k: v for k, v in line().items() if k != "all_classes"}, "line 2: field 'all_classes' is missing"),
        ("trec", line(all_classes=[]), "line 2: field 'all_classes' is empty"),
        ("hotpotqa", line(context=3), "line 2: field 'context' must be a string, not int"),
        ("hotpotqa", line(answers="a"), "line 2: field 'answers' must be a list of strings"),
        ("hotpotqa", line(answers=[]), "line 2: field 'answers' is empty"),
        ("passage_retrieval_en", line(answers=["3"]), "line 2: the right answer '3' names no paragraph"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_named_by_file_and_line(task: str, wrong: object, sentence: str, tmp_path: Path) -> None:
    right = line(all_classes=["a"], answers=["Paragraph 1"])
    source = Source(write(tmp_path / "d", {task: [right, wrong]}))
    with pytest.raises(ValueError, match=f"{task}.jsonl, {sentence}"):
        source.items(task)


def test_what_is_no_longbench_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has no .jsonl files; give the directory with LongBench's"):
        Source(tmp_path / "empty")
    (tmp_path / "no.zip").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="no.zip is no zip archive; give a directory with LongBench's .jsonl files"):
        Source(tmp_path / "no.zip")
    (tmp_path / "empty" / "trec.jsonl").write_bytes(b"")
    with pytest.raises(ValueError, match="trec.jsonl is empty; leave the task out"):
        Source(tmp_path / "empty").items("trec")
    (tmp_path / "empty" / "trec.jsonl").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"trec.jsonl is not UTF-8 text \(byte 0\)"):
        Source(tmp_path / "empty").items("trec")


# prompt formats and lengths


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        (None, "there are no prompt formats; give --prompts FILE, LongBench's config/dataset2prompt.json, or put it into"),
        ({}, "dataset2prompt.json says nothing of hotpotqa; add them, or leave these tasks out"),
        ([], "dataset2prompt.json is not a JSON object with the prompt formats"),
        ({"hotpotqa": 3}, "dataset2prompt.json: the prompt of hotpotqa must be a string, not 3"),
        ({"hotpotqa": "{context"}, "dataset2prompt.json: the prompt of hotpotqa is no format"),
        ({"hotpotqa": "{context.x}{}"}, "the prompt of hotpotqa has {context.x}; write {context} and {input}"),
    ],
)
def test_prompt_formats_that_cannot_be_used_are_refused(prompts: object, sentence: str, tmp_path: Path) -> None:
    source = Source(write(tmp_path / "d", {"hotpotqa": [line()]}, prompts=prompts))
    with pytest.raises(ValueError, match=sentence):
        read_prompts(None, source, ["hotpotqa"])


@pytest.mark.parametrize(
    ("lengths", "sentence"),
    [
        (None, "there are no maximal lengths of answers; give --max-lengths FILE"),
        ({"hotpotqa": 0}, "dataset2maxlen.json: the length of hotpotqa must be a number of tokens, not 0"),
        ({"hotpotqa": "x"}, "dataset2maxlen.json: the length of hotpotqa must be a number of tokens, not 'x'"),
    ],
)
def test_lengths_that_cannot_be_used_are_refused(lengths: object, sentence: str, tmp_path: Path) -> None:
    source = Source(write(tmp_path / "d", {"hotpotqa": [line()]}, lengths=lengths))
    with pytest.raises(ValueError, match=sentence):
        read_max_lengths(None, source, ["hotpotqa"])


def test_files_that_are_named_count_more_than_those_in_the_directory(tmp_path: Path) -> None:
    source = Source(write(tmp_path / "d", {"hotpotqa": [line()]}))
    (tmp_path / "mine.json").write_text('{"hotpotqa": "mine {input}"}')
    assert read_prompts(str(tmp_path / "mine.json"), source, ["hotpotqa"]) == {"hotpotqa": "mine {input}"}
    assert read_prompts(None, source, ["hotpotqa"]) == {"hotpotqa": PROMPTS["hotpotqa"]}
    (tmp_path / "mine.json").write_text("{")
    with pytest.raises(ValueError, match="mine.json is not JSON"):
        read_max_lengths(str(tmp_path / "mine.json"), source, ["hotpotqa"])


def test_braces_in_a_text_are_text_and_an_unknown_field_is_named() -> None:
    item = Item("lcc", "7", {"input": "{x}", "context": "f({}) {{"}, ("a",), ())
    assert filled("{{{context}}} {input}", item) == "{f({}) {{} {x}"
    with pytest.raises(ValueError, match=r"the prompt of lcc asks for \{question\}, which sample 7 does not have"):
        filled("{question}", item)


# prompts and answers


@pytest.mark.parametrize("chat", [True, False])
def test_a_prompt_that_is_too_long_keeps_its_first_and_its_last_tokens(chat: bool, words: Llama) -> None:
    prompt = "".join(recall.make_document(seed, tokens=700).text for seed in range(2))
    whole, is_cut = fitted(words, prompt, 4096, chat=chat)
    assert (whole, is_cut) == (prompt_tokens(words, prompt, chat=chat), False)
    tokens, is_cut = fitted(words, prompt, 200, chat=chat)
    assert is_cut
    assert 190 < len(tokens) <= 200
    text = words.detokenize(tokens).decode().strip()
    assert prompt.strip().startswith(text[:300])
    assert prompt.strip().endswith(text[-300:])


def test_a_context_that_has_no_room_for_a_prompt_is_refused(words: Llama) -> None:
    with pytest.raises(ValueError, match="a context of 1 tokens, without the answer's, is too short for a prompt"):
        fitted(words, "The code of Anna Reed is amber.", 1, chat=False)


def test_an_answer_ends_where_its_first_line_does_if_no_more_is_wanted() -> None:
    pieces = iter(["\n", "Par", "is\nQ", "uestion"])
    assert "".join(to_first_line(pieces)) == "\nParis\nQ"
    assert next(pieces) == "uestion"  # was not asked for
    assert list(to_first_line(["\n", "\n"])) == ["\n", "\n"]


def test_an_answer_is_greedy_and_ends_where_the_model_ends_it() -> None:
    llm = Llama(str(MODEL), n_ctx=1024, n_threads=1, verbose=False)
    try:
        (asked, code), *_ = CODES.items()
        tokens = prompt_tokens(llm, f"{DOCUMENT.text}{asked}", chat=False)
        assert answer(llm, tokens, 60).strip().startswith(code)
        assert len(llm.tokenize(answer(llm, tokens, 2).encode(), add_bos=False)) <= 2
        assert "\n" not in answer(llm, tokens, 60)
    finally:
        llm.close()


def test_the_context_is_what_the_model_was_trained_for(words: Llama) -> None:
    assert trained_context(words) == 4096


def test_what_looks_like_a_special_token_in_a_text_is_text(words: Llama) -> None:
    end = words.detokenize([words.token_eos()], special=True).decode()
    assert words.token_eos() not in prompt_tokens(words, f"before {end} after", chat=False)


# Chinese


def test_without_jieba_chinese_tasks_are_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chinese, "find_spec", lambda name: None if name == "jieba" else find_spec(name))
    with pytest.raises(ValueError, match="vcsum, dureader: Chinese answers .* pip install 'asymkv-gguf\\[eval\\]', or leave"):
        check_jieba(["hotpotqa", "vcsum", "dureader"])
    check_jieba(name for name in TASKS if not kind_of(name).needs_jieba)


def test_a_chinese_task_is_measured(in_process: InProcess, tmp_path: Path) -> None:
    pytest.importorskip("jieba")
    data = write(tmp_path / "zh", {"vcsum": [line(context="今天天气很好。", answers=["天气"])]})
    code, out, err = in_process(*SMALL, "--data", data, "--json")
    assert code == 0, err
    assert list(json.loads(out)["columns"][0]["metrics"]) == ["score"]
    assert "jieba" not in err
