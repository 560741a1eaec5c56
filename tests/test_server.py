"""The server answers as OpenAI's does, to OpenAI's own client."""

from __future__ import annotations

import concurrent.futures
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI
from server_process import SMALL, Server

from asymkv_gguf import recall

DOCUMENT = recall.make_document(3, tokens=700)
FACT = "The code of Ada Moon is amber.\n"
QUESTION = "The code of Ada Moon is"
PLAIN: dict[str, Any] = {"model": "recall", "temperature": 0}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(*SMALL, "-np", 2) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with server.openai() as client:
        yield client


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with server.http() as client:
        yield client


def events(text: str) -> list[Any]:
    """The data of a stream's events."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


# completions


def test_a_completion_answers_from_the_prompt(client: OpenAI) -> None:
    answer = client.completions.create(prompt=FACT + QUESTION, max_tokens=3, **PLAIN)
    assert answer.choices[0].text == " amber"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "recall"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 1


def test_a_streamed_completion_is_the_same_text(client: OpenAI) -> None:
    whole = client.completions.create(prompt=DOCUMENT.text, max_tokens=20, **PLAIN).choices[0].text
    chunks = list(client.completions.create(prompt=DOCUMENT.text, max_tokens=20, stream=True, **PLAIN))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_prompt_may_be_tokens(client: OpenAI) -> None:
    tokens = recall.tokenize(FACT + QUESTION)
    assert client.completions.create(prompt=tokens, max_tokens=1, **PLAIN).choices[0].text == " amber"


def test_stop_ends_the_answer_before_the_text(client: OpenAI) -> None:
    answer = client.completions.create(prompt=DOCUMENT.text, max_tokens=60, stop=["."], **PLAIN)
    assert answer.choices[0].finish_reason == "stop"
    assert "." not in answer.choices[0].text


def test_the_same_seed_writes_the_same(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "recall", "prompt": DOCUMENT.text, "max_tokens": 30, "temperature": 1.5}
    first, second = (client.completions.create(seed=7, **asked).choices[0].text for _ in range(2))
    assert first == second
    texts = {client.completions.create(seed=seed, **asked).choices[0].text for seed in range(4)}
    assert len(texts) > 1


def test_without_a_seed_answers_differ(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "recall", "prompt": "The", "max_tokens": 20, "temperature": 2, "top_p": 1}
    assert len({client.completions.create(**asked).choices[0].text for _ in range(4)}) > 1


def test_echo_repeats_the_prompt(client: OpenAI) -> None:
    answer = client.completions.create(prompt=FACT + QUESTION, max_tokens=1, echo=True, **PLAIN)
    assert answer.choices[0].text == FACT + QUESTION + " amber"
    chunks = client.completions.create(prompt=FACT + QUESTION, max_tokens=1, echo=True, stream=True, **PLAIN)
    assert "".join(chunk.choices[0].text for chunk in chunks) == FACT + QUESTION + " amber"


def test_logprobs_of_a_completion(client: OpenAI) -> None:
    answer = client.completions.create(prompt=FACT + QUESTION, max_tokens=1, logprobs=3, **PLAIN)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == [" amber"]
    assert logprobs.token_logprobs is not None
    assert math.exp(logprobs.token_logprobs[0]) > 0.5
    assert logprobs.top_logprobs is not None
    assert len(logprobs.top_logprobs[0]) == 3
    assert max(logprobs.top_logprobs[0].values()) == logprobs.token_logprobs[0]


def test_logit_bias_makes_a_token_likely(client: OpenAI) -> None:
    token = recall.tokenize(" coral")[-1]
    answer = client.completions.create(prompt=FACT + QUESTION, max_tokens=1, logit_bias={str(token): 100}, **PLAIN)
    assert answer.choices[0].text == " coral"


def test_a_grammar_holds_the_answer(client: OpenAI) -> None:
    answer = client.completions.create(prompt="The", max_tokens=9, extra_body={"grammar": 'root ::= " yes" | " no"'}, **PLAIN)
    assert answer.choices[0].text in (" yes", " no")


# chat


def test_a_chat_answers_in_the_models_template(client: OpenAI) -> None:
    messages: list[Any] = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": FACT + QUESTION}]
    answer = client.chat.completions.create(messages=messages, max_completion_tokens=1, **PLAIN)
    assert answer.choices[0].message.content == " amber"
    assert answer.choices[0].message.role == "assistant"


def test_content_in_parts_is_one_text(client: OpenAI) -> None:
    parts: list[Any] = [{"type": "text", "text": FACT}, {"type": "text", "text": QUESTION}]
    answer = client.chat.completions.create(messages=[{"role": "user", "content": parts}], max_tokens=1, **PLAIN)
    assert answer.choices[0].message.content == " amber"


def test_a_streamed_chat_ends_with_usage_if_asked(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            messages=[{"role": "user", "content": FACT + QUESTION}],
            max_tokens=2,
            stream=True,
            stream_options={"include_usage": True},
            **PLAIN,
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text.startswith(" amber")
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 23


def test_logprobs_of_a_chat_stream_and_of_a_whole_answer_agree(client: OpenAI) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": DOCUMENT.text}], "max_tokens": 8, **PLAIN}
    whole = client.chat.completions.create(logprobs=True, top_logprobs=2, **asked).choices[0].logprobs
    chunks = client.chat.completions.create(logprobs=True, top_logprobs=2, stream=True, **asked)
    streamed = [entry for chunk in chunks if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content or []]
    assert whole is not None
    assert whole.content is not None
    assert [entry.token for entry in streamed] == [entry.token for entry in whole.content]
    assert len(whole.content) > 3
    assert all(len(entry.top_logprobs) == 2 for entry in whole.content)


TOOL: Any = {
    "type": "function",
    "function": {
        "name": "tell",
        "parameters": {"type": "object", "properties": {"code": {"enum": ["amber", "coral"]}}, "required": ["code"]},
    },
}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "tell"}}])
def test_a_tool_is_called_with_arguments_of_its_schema(client: OpenAI, choice: Any) -> None:
    messages: list[Any] = [{"role": "user", "content": FACT + QUESTION}]
    answer = client.chat.completions.create(messages=messages, tools=[TOOL], tool_choice=choice, max_tokens=60, **PLAIN)
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.tool_calls is not None
    (call,) = answer.choices[0].message.tool_calls
    assert call.type == "function"
    assert call.function.name == "tell"
    assert json.loads(call.function.arguments)["code"] in ("amber", "coral")


def test_a_streamed_tool_call_names_the_tool_once(client: OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": FACT + QUESTION}]
    with client.chat.completions.stream(
        messages=messages, tools=[TOOL], tool_choice="required", max_tokens=60, **PLAIN
    ) as stream:
        final = stream.get_final_completion()  # the client puts the pieces together
    assert final.choices[0].message.tool_calls is not None
    (call,) = final.choices[0].message.tool_calls
    assert call.function.name == "tell"
    assert json.loads(call.function.arguments)["code"] in ("amber", "coral")


def test_a_tool_call_that_max_tokens_cuts_says_so(client: OpenAI) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": FACT}], "tools": [TOOL], "tool_choice": "required"}
    whole = client.chat.completions.create(max_tokens=3, **asked, **PLAIN).choices[0]
    assert whole.message.tool_calls is not None
    chunks = list(client.chat.completions.create(max_tokens=3, stream=True, **asked, **PLAIN))
    assert (whole.finish_reason, chunks[-1].choices[0].finish_reason) == ("length", "length")


# makes the small model write what a larger one would write by itself
CALL = '<tool_call>{"name": "tell", "arguments": {"code": "amber"}}</tool_call>'
WRITES_A_CALL = f"root ::= {json.dumps('Well, ' + CALL)}"


@pytest.mark.parametrize("choice", ["auto", None])
def test_a_call_that_the_model_writes_is_a_tool_call(client: OpenAI, choice: Any) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": FACT}], "tools": [TOOL], "max_tokens": 200, **PLAIN}
    asked["extra_body"] = {"grammar": WRITES_A_CALL}
    if choice is not None:
        asked["tool_choice"] = choice
    whole = client.chat.completions.create(**asked).choices[0]
    with client.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion().choices[0]
    for answer in (whole, streamed):
        assert answer.finish_reason == "tool_calls"
        assert (answer.message.content or "").strip() == "Well,"
        assert answer.message.tool_calls is not None
        (call,) = answer.message.tool_calls
        assert (call.type, call.function.name) == ("function", "tell")
        assert json.loads(call.function.arguments) == {"code": "amber"}


def test_without_a_choice_of_tools_a_call_is_text(client: OpenAI) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": FACT}], "max_tokens": 200, **PLAIN}
    asked["extra_body"] = {"grammar": WRITES_A_CALL}
    with_tools: list[dict[str, Any]] = [asked, {**asked, "tools": [TOOL], "tool_choice": "none"}]
    for each in with_tools:
        answer = client.chat.completions.create(**each)
        assert answer.choices[0].message.content == "Well, " + CALL
        assert answer.choices[0].finish_reason == "stop"


def test_a_conversation_with_a_tools_answer_is_read(client: OpenAI) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "tell", "arguments": "{}"}}
    messages: list[Any] = [
        {"role": "user", "content": "Which code?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": FACT + QUESTION},
    ]
    answer = client.chat.completions.create(messages=messages, tools=[TOOL], max_tokens=1, **PLAIN)
    assert answer.choices[0].message.content == " amber"


def test_a_json_schema_holds_the_answer(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"sure": {"type": "boolean"}},
        "required": ["sure"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        messages=[{"role": "user", "content": FACT}],
        response_format={"type": "json_schema", "json_schema": {"name": "sure", "schema": schema}},
        max_tokens=60,
        **PLAIN,
    )
    assert json.loads(answer.choices[0].message.content or "")["sure"] in (True, False)


def test_json_mode_starts_an_object(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        messages=[{"role": "user", "content": FACT}], response_format={"type": "json_object"}, max_tokens=5, **PLAIN
    )
    assert (answer.choices[0].message.content or "").lstrip().startswith("{")


# what is told beside


def test_an_answer_tells_timings_and_the_cache(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", json={"prompt": DOCUMENT.text + "\n", "max_tokens": 2, **PLAIN}).json()
    assert answer["timings"]["prompt_n"] + answer["timings"]["cache_n"] == answer["usage"]["prompt_tokens"]
    assert answer["timings"]["predicted_n"] == 2
    assert answer["asymkv"]["tokens"] > 700
    assert answer["asymkv"]["slots"] <= answer["asymkv"]["capacity"] == 256


def test_a_text_that_goes_on_is_not_read_again(client: OpenAI) -> None:
    text = recall.make_document(11, tokens=300).text
    first = client.completions.create(prompt=text, max_tokens=1, **PLAIN)
    second = client.completions.create(prompt=text + FACT + QUESTION, max_tokens=1, **PLAIN)
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert second.usage.prompt_tokens_details.cached_tokens == first.usage.prompt_tokens
    assert second.choices[0].text == " amber"


def test_another_turn_after_a_long_answer_goes_on_from_the_checkpoint(http: httpx.Client) -> None:
    """The answer is longer than what a merged cache can take back, and the cache is merged."""
    text = recall.make_document(13, tokens=700).text
    endless = {"grammar": 'root ::= " amber" root', **PLAIN}
    first = http.post("/v1/completions", json={"prompt": text, "max_tokens": 200, **endless}).json()
    assert first["usage"]["completion_tokens"] == 200
    second = http.post("/v1/completions", json={"prompt": text + FACT + QUESTION, "max_tokens": 1, **PLAIN}).json()
    assert second["choices"][0]["text"] == " amber"
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == first["usage"]["prompt_tokens"]
    assert second["asymkv"]["reread"] == 0
    assert second["asymkv"]["slot"] == first["asymkv"]["slot"]
    slot = http.get("/asymkv/slots").json()["slots"][first["asymkv"]["slot"]]
    assert slot["checkpoints"] >= 1
    assert slot["checkpoint_bytes"] > 0


def test_progress_of_the_prompt_is_streamed_if_asked(http: httpx.Client) -> None:
    text = recall.make_document(12, tokens=500).text
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1, "stream": True, "return_progress": True, **PLAIN}
    chunks = events(http.post("/v1/chat/completions", json=body).text)
    progress = [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]
    done = [step["processed"] for step in progress]
    assert len(done) > 3
    assert done == sorted(done)
    assert done[-1] == progress[-1]["total"] == 500
    assert len({step["cache"] for step in progress}) == 1
    assert "timings" in chunks[-1]


def test_models_are_listed(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "recall"
    assert client.models.retrieve("recall").to_dict()["meta"]["n_ctx"] == 2048  # type: ignore[index]


def test_the_slots_caches_can_be_looked_at(http: httpx.Client, client: OpenAI) -> None:
    client.completions.create(prompt=DOCUMENT.text, max_tokens=1, **PLAIN)
    slots = http.get("/asymkv/slots").json()["slots"]
    assert [slot["id"] for slot in slots] == [0, 1]
    merged = max(slots, key=lambda slot: slot["tokens"])
    assert merged["merges"] > 0
    assert merged["kv_bytes"] * 8 == merged["stock_kv_bytes"]
    view = http.get(f"/asymkv/slots/{merged['id']}", params={"layer": 2, "group": 1}).json()
    assert (view["layer"], view["group"], view["n_layers"], view["n_groups"]) == (2, 1, merged["layers"], merged["groups"])
    assert len(view["position"]) == len(view["score"]) == merged["live"]
    assert max(view["cardinality"]) > 1
    assert view["last"][-1] == merged["tokens"] - 1


def test_metrics_count_requests_and_tokens(server: Server, client: OpenAI) -> None:
    before = server.metrics()
    answer = client.completions.create(prompt=FACT + QUESTION, max_tokens=5, **PLAIN)
    after = server.metrics()
    assert answer.usage is not None

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown("asymkv_prompt_tokens_total") == answer.usage.prompt_tokens
    assert grown("asymkv_completion_tokens_total") == answer.usage.completion_tokens
    assert grown('asymkv_requests_total{route="/v1/completions",status="200"}') == 1
    assert (after["asymkv_slots"], after["asymkv_slots_busy"], after["asymkv_queue_length"]) == (2, 0, 0)
    assert grown("asymkv_prompt_tokens_reread_total") == 0
    assert {
        "asymkv_merges_total",
        'asymkv_checkpoint_bytes{slot="0"}',
        "asymkv_compress_seconds_total",
        'asymkv_cache_tokens{slot="1"}',
    } <= set(after)


def test_what_was_merged_is_counted_on_when_another_text_comes(server: Server, http: httpx.Client) -> None:
    """Also when a cache is emptied, or goes back to a checkpoint: counters never fall."""

    def counted() -> list[float]:
        metrics = server.metrics()
        return [metrics[f"asymkv_{name}_total"] for name in ("compressions", "merges", "evictions")]

    texts = [recall.make_document(seed, tokens=700).text for seed in (60, 61, 62)]
    endless = {"max_tokens": 200, "grammar": 'root ::= " amber" root', **PLAIN}
    for prompt in (*texts, texts[2] + FACT):  # the last one changes the turn after a long answer
        before = counted()
        answer = http.post("/v1/completions", json={"prompt": prompt, **endless}).json()
        grown = [after - was for after, was in zip(counted(), before, strict=True)]
        assert answer["usage"]["completion_tokens"] == 200
        assert min(grown) > 0


def test_health_says_how_busy_it_is(http: httpx.Client) -> None:
    assert http.get("/health").json() == {"status": "ok", "slots": 2, "busy": 0, "queue": 0}


def test_monitors_may_ask_for_the_head_only(http: httpx.Client) -> None:
    for path in ("/health", "/"):
        answer = http.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert int(answer.headers["Content-Length"]) > 0


def test_every_file_of_the_page_is_asked_for_again_and_may_load_nothing(http: httpx.Client) -> None:
    """So that files of two versions never meet in a browser."""
    page = http.get("/")
    files = set(re.findall(r'(?:src|href)="(static/[^"]+)"', page.text))
    assert {"static/app.js", "static/style.css", "static/icon.svg"} <= files
    for answer in (page, *map(http.get, sorted(files))):
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    for path in ("/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/static/"):
        assert http.get(path).status_code == 404


def test_the_memory_is_told_before_the_model_is_loaded(server: Server) -> None:
    assert server.notes[0] == "memory: model 1.2 MiB, cache 320 KiB (256 slots), for each of 2 contexts"
    assert server.notes[1] == f"listening on {server.url}"


# many at once


def test_eight_clients_on_two_slots_each_get_the_answer_to_their_own_question(server: Server, client: OpenAI) -> None:
    documents = [recall.make_document(seed, tokens=400) for seed in range(20, 28)]

    def ask(document: recall.Document) -> list[bool]:
        return [
            client.completions.create(prompt=document.text + question.prompt, max_tokens=1, **PLAIN).choices[0].text.strip()
            == question.answer
            for question in document.questions[:3]
        ]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        right = list(pool.map(ask, documents))
    assert right == [[True] * 3] * 8
    assert server.metrics()["asymkv_slots_busy"] == 0
