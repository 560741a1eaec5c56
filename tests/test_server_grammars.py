"""Grammars and schemas that llama.cpp, left alone with them, would end the process for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from server_process import SMALL, Server

from asymkv_gguf import Llama
from asymkv_gguf.cli.demo import MODEL

NOTHING_FITS = "root ::= <[99999]>"  # a token that the model does not have
NO_TOKEN = "no token of this model goes on as the grammar wants; change the grammar, the JSON schema or the logit_bias"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Which code?"}], "max_tokens": 5}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(*SMALL) as server:
        yield server


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with server.http() as client:
        yield client
        assert client.get("/health").json() == {"status": "ok", "slots": 1, "busy": 0, "queue": 0}


def message(answer: httpx.Response) -> str:
    assert answer.status_code == 400, answer.text
    return str(answer.json()["error"]["message"])


@pytest.mark.parametrize("temperature", [0, 1])
def test_where_no_token_fits_the_answer_is_an_error(http: httpx.Client, temperature: float) -> None:
    body = {"prompt": "The", "temperature": temperature, "grammar": NOTHING_FITS}
    assert message(http.post("/v1/completions", json=body)) == NO_TOKEN
    last = [line for line in http.post("/v1/completions", json={**body, "stream": True}).text.splitlines() if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == NO_TOKEN
    # also after some tokens that did
    assert message(http.post("/v1/completions", json={**body, "grammar": 'root ::= " amber" <[99999]>'})) == NO_TOKEN


def test_a_grammar_that_fits_nothing_ends_the_text_and_not_the_process() -> None:
    from llama_cpp import LlamaGrammar

    llm = Llama(str(MODEL), asymkv=True, n_threads=1, verbose=False)
    with pytest.raises(ValueError, match=NO_TOKEN):
        llm("The", grammar=LlamaGrammar.from_string(NOTHING_FITS))
    assert llm("The", max_tokens=1)["usage"]["completion_tokens"] == 1
    llm.close()


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= " + "(" * 100_000,
        "root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000,
        "\n".join(f"r{i} ::= r{i + 1}" for i in range(100_000)) + '\nroot ::= r0\nr100000 ::= "a"',
    ],
    ids=["open", "groups", "rules"],
)
def test_a_grammar_too_deep_for_the_stack_is_refused(http: httpx.Client, grammar: str) -> None:
    found = message(http.post("/v1/completions", json={"prompt": "The", "grammar": grammar}))
    assert "00 rules and groups, and may have 4,000; shorten it" in found or "00,001 rules" in found or "00,002 rules" in found


def test_a_grammar_as_large_as_allowed_is_used(http: httpx.Client) -> None:
    rules = "\n".join(f"r{i} ::= r{i + 1}" for i in range(3998)) + '\nroot ::= r0\nr3998 ::= " amber"'
    groups = "root ::= " + "(" * 3999 + '" amber"' + ")" * 3999
    for grammar in (rules, groups):
        answer = http.post("/v1/completions", json={"prompt": "The", "grammar": grammar, "max_tokens": 5})
        assert answer.json()["choices"][0]["text"] == " amber"


UNUSABLE: list[tuple[Any, str]] = [
    ({"type": "array", "items": {"type": "string"}, "minItems": 10**8}, "it repeats too much; give smaller numbers"),
    ({"type": "string", "maxLength": 10**8}, "it repeats too much"),
    ({"type": "string", "pattern": "^(abc){9000000}$"}, "it repeats too much"),
    ({"type": "string", "pattern": "a["}, "llama.cpp cannot use this JSON schema: Pattern must start with"),
    ({"type": "object", "properties": {'"\n': {"type": "string"}}}, "llama.cpp cannot parse this grammar"),
    ({"$ref": "#/nowhere"}, "llama.cpp cannot use this JSON schema: "),
]


@pytest.mark.parametrize(("schema", "sentence"), UNUSABLE, ids=[sentence for _, sentence in UNUSABLE])
def test_a_schema_that_llama_cpp_cannot_follow_is_refused_wherever_it_comes_from(
    http: httpx.Client, schema: Any, sentence: str
) -> None:
    function = {"name": "tell", "parameters": schema}
    ways: list[tuple[str, dict[str, Any]]] = [
        ("response_format", {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}),
        ("response_format", {"response_format": {"type": "json_object", "schema": schema}}),
        ("tools", {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}),
        ("functions", {"functions": [function], "function_call": {"name": "tell"}}),
    ]
    for param, way in ways:
        answer = http.post("/v1/chat/completions", json={**CHAT, **way})
        assert message(answer).startswith(f"{param}: ")
        assert sentence in message(answer)
        assert answer.json()["error"]["param"] == param


def test_parameters_that_are_no_schema_are_refused_and_may_be_left_out(http: httpx.Client) -> None:
    asked = {**CHAT, "function_call": {"name": "tell"}, "temperature": 0}
    refused = http.post("/v1/chat/completions", json={**asked, "functions": [{"name": "tell", "parameters": 5}]})
    assert message(refused) == "functions: a JSON schema must be an object, not 5"
    answer = http.post("/v1/chat/completions", json={**asked, "functions": [{"name": "tell"}]}).json()
    assert answer["choices"][0]["message"]["function_call"]["name"] == "tell"


def test_the_tools_of_llama_cpps_own_formats_are_looked_at_before_they_are_called() -> None:
    function = {"name": "tell", "parameters": {"type": "object", "properties": {'"\n': {"type": "string"}}}}
    with Server(*SMALL, "--chat-format", "chatml-function-calling") as server, server.http() as http:
        body = {**CHAT, "tools": [{"type": "function", "function": function}], "tool_choice": "auto"}
        assert "tools: llama.cpp cannot parse this grammar" in message(http.post("/v1/chat/completions", json=body))
