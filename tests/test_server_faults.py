"""What goes wrong, and clients that leave: one clear error each, and a server that goes on."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from server_process import Server

from asymkv_gguf import recall
from asymkv_gguf.cli import main
from asymkv_gguf.cli.demo import MODEL

SMALL = ("--asymkv-budget", "192", "--asymkv-chunk", "64", "-t", "1", "--temp", "0")
PLAIN: dict[str, Any] = {"model": "recall", "temperature": 0}
N_CTX = 1 << 19
ENDLESS: dict[str, Any] = {**PLAIN, "prompt": "The", "max_tokens": -1, "grammar": 'root ::= " amber" root'}
FACT, QUESTION = "The code of Ada Moon is amber.\n", "The code of Ada Moon is"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One slot, one place in the queue, a small body."""
    with Server(*SMALL, "-c", N_CTX, "--queue", 1, "--max-body-mib", 2) as server:
        yield server


@pytest.fixture(scope="module")
def two() -> Iterator[Server]:
    with Server(*SMALL, "-c", N_CTX, "-np", 2) as server:
        yield server


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with server.http() as client:
        yield client


def until(condition: Callable[[], bool]) -> None:
    """Asks the server again and again, as a monitor would."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came true"


def is_(server: Server, **state: object) -> Callable[[], bool]:
    def asked() -> bool:
        with server.http() as client:
            health = client.get("/health").json()
        return all(health[name] == value for name, value in state.items())

    return asked


@contextmanager
def endless(server: Server, **more: Any) -> Iterator[Iterator[str]]:
    """A streamed answer that ends only when its client leaves; it has begun."""
    with server.http() as client, client.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True, **more}) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        yield lines


# errors

MESSAGES: Any = [{"role": "user", "content": FACT}]
ERRORS: list[tuple[str, Any, int, str]] = [
    ("/v1/completions", {"prompt": "x", "n": 2}, 400, "n: this server gives one answer for each request; leave n out"),
    ("/v1/completions", {"prompt": "x", "best_of": 2}, 400, "best_of: this server writes one answer for each request"),
    ("/v1/completions", {"prompt": ["x", "y"]}, 400, "prompt: this server takes one prompt in each request"),
    ("/v1/completions", {"prompt": "x", "suffix": "y"}, 400, "suffix: text after the answer is not supported"),
    ("/v1/completions", {}, 400, "prompt is missing"),
    ("/v1/completions", {"prompt": 5}, 400, "prompt: must be a text, or a list of tokens, not 5"),
    ("/v1/completions", {"prompt": []}, 400, "prompt: must be a text, or a list of tokens, not []"),
    ("/v1/completions", {"prompt": [1, True]}, 400, "prompt: must be a text, or a list of tokens, not [1, True]"),
    ("/v1/completions", {"prompt": "x", "stop": ["a", 5]}, 400, "stop: must be a text, or a list of texts, not ['a', 5]"),
    ("/v1/completions", {"prompt": "x", "logit_bias": {"a": 5}}, 400, "logit_bias.a: input should be a valid integer"),
    ("/v1/completions", {"prompt": [99999]}, 400, "prompt: there is no token 99999; this model has 1,239"),
    ("/v1/completions", {"prompt": "x", "max_tokens": 0}, 400, "max_tokens: give 1 token or more, or -1 for no limit, not 0"),
    (
        "/v1/completions",
        {"prompt": "x", "temperature": -1},
        400,
        "temperature: input should be greater than or equal to 0, not -1",
    ),
    ("/v1/completions", {"prompt": "x", "top_p": 2}, 400, "top_p: input should be less than or equal to 1, not 2"),
    ("/v1/completions", {"prompt": "x", "grammar": "no"}, 400, "grammar: llama.cpp cannot parse this grammar"),
    ("/v1/completions", {"prompt": "x", "logit_bias": {"99999": 1}}, 400, "logit_bias: there is no token 99999"),
    ("/v1/chat/completions", {"messages": []}, 400, "messages: list should have at least 1 item"),
    ("/v1/chat/completions", {"messages": [{}]}, 400, "messages: each message needs a role, such as 'user', not None"),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        400,
        "messages: content of type 'image_url' is not supported; send text",
    ),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": 5}]}, 400, "messages: content must be a text, not 5"),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "assistant", "tool_calls": 5}]},
        400,
        "messages: each of tool_calls needs a function with a name and arguments",
    ),
    ("/v1/chat/completions", {"messages": MESSAGES, "functions": [{}]}, 400, "functions: each function must be"),
    (
        "/v1/chat/completions",
        {"messages": MESSAGES, "function_call": 5},
        400,
        'function_call: must be "none", "auto" or {"name": ...}, not 5',
    ),
    ("/v1/chat/completions", {"messages": MESSAGES, "tools": [{"type": "x"}]}, 400, "tools: each tool must be"),
    ("/v1/chat/completions", {"messages": MESSAGES, "tool_choice": "some"}, 400, "tool_choice: must be 'none', 'auto'"),
    (
        "/v1/chat/completions",
        {"messages": MESSAGES, "tool_choice": "required"},
        400,
        "'required' needs exactly one tool, not 0",
    ),
    (
        "/v1/chat/completions",
        {"messages": MESSAGES, "tool_choice": {"type": "function", "function": {"name": "f"}}},
        400,
        "tool_choice: there is no tool 'f' among the tools",
    ),
    (
        "/v1/chat/completions",
        {"messages": MESSAGES, "response_format": {"type": "json_schema"}},
        400,
        "response_format: json_schema is missing",
    ),
    (
        "/v1/chat/completions",
        {
            "messages": MESSAGES,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}},
        },
        400,
        "response_format: llama.cpp cannot use this JSON schema",
    ),
    ("/v1/embeddings", {"input": "x"}, 501, "embeddings are not served here"),
    ("/v1/nothing", {}, 404, "there is no /v1/nothing here"),
    ("/health", {}, 405, "/health does not take POST"),
]


@pytest.mark.parametrize(("path", "body", "status", "sentence"), ERRORS, ids=[sentence for *_, sentence in ERRORS])
def test_a_wrong_request_is_refused_in_one_sentence(
    http: httpx.Client, path: str, body: Any, status: int, sentence: str
) -> None:
    answer = http.post(path, json=body)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert sentence in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_what_is_no_json_is_refused(http: httpx.Client) -> None:
    json_type = {"Content-Type": "application/json"}
    assert "the body is not JSON" in http.post("/v1/completions", content="{", headers=json_type).text
    for number in ("1" * 5000, "[" * 100_000):
        refused = http.post("/v1/completions", content=f'{{"prompt": "x", "seed": {number}}}', headers=json_type)
        assert refused.status_code == 400
        assert "it is nested too deeply, or has a number of too many digits" in refused.text
    for constant in ("NaN", "Infinity"):  # Python reads them
        body = f'{{"prompt": "x", "logit_bias": {{"5": {constant}}}}}'
        refused = http.post("/v1/completions", content=body, headers=json_type)
        assert "logit_bias.5: input should be a finite number" in refused.text
    half = http.post("/v1/completions", content=r'{"prompt": "x\ud800"}', headers=json_type)
    assert (half.status_code, half.json()["error"]["message"]) == (
        400,
        r"the text holds half a character, '\ud800'; send whole ones",
    )
    # what a web page of somebody else can send without being asked
    without_asking: list[dict[str, str]] = [{"Content-Type": "text/plain"}, {}]
    for headers in without_asking:
        plain = http.post("/v1/completions", content='{"prompt": "x"}', headers=headers)
        assert plain.status_code == 400
        assert "the body must be a JSON object, with Content-Type: application/json" in plain.text


def test_a_missing_slot_layer_or_group_is_named(http: httpx.Client) -> None:
    for path, sentence in (
        ("/asymkv/slots/7", "there is no slot 7; there are 1, from 0"),
        ("/asymkv/slots/0?layer=5", "there is no layer 5; there are 5, from 0"),
        ("/asymkv/slots/0?group=-1", "there is no group -1; there are 2, from 0"),
    ):
        assert http.get(path).json()["error"]["message"] == sentence
    assert "there is no model 'gpt' here; there is 'recall'" in http.get("/v1/models/gpt").text


def test_a_text_longer_than_n_ctx_is_refused_as_openai_does() -> None:
    with Server(*SMALL, "-c", 512, "--alias", "tiny") as server, server.openai() as client:
        text = recall.make_document(1, tokens=700).text
        with pytest.raises(openai.BadRequestError, match=r"the text has 698 tokens, and .* n_ctx = 512") as caught:
            client.completions.create(prompt=text, model="tiny")
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError, match="n_ctx = 512"):
            client.chat.completions.create(messages=[{"role": "user", "content": text}], model="tiny")
        # an answer ends where the context does
        grammar = {"grammar": ENDLESS["grammar"]}
        answer = client.completions.create(prompt="The", model="tiny", max_tokens=10_000, extra_body=grammar)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.total_tokens == 512
        assert answer.model == "tiny"


def test_a_body_that_is_too_large_is_refused_unread(server: Server, http: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"prompt": "'
        for _ in range(40):
            yield b"x" * 100_000

    declared = http.post("/v1/completions", json={"prompt": "x" * (3 << 20)})
    assert declared.status_code == 413
    assert "the body is larger than 2 MiB; shorten it, or start the server with a larger --max-body-mib" in declared.text
    with server.http() as client:
        try:
            status = client.post("/v1/completions", content=chunks()).status_code
        except httpx.WriteError:  # the server hung up while we were still sending
            status = 413
    assert status == 413
    assert is_(server, status="ok", busy=0)()


# who may ask


def test_with_a_key_only_those_who_send_it_are_answered() -> None:
    with Server(*SMALL, ASYMKV_SERVE_API_KEY="secret") as server:
        with server.openai("secret") as client:
            assert client.completions.create(prompt=FACT + QUESTION, max_tokens=1, model="recall").choices[0].text == " amber"
        refused = pytest.raises(openai.AuthenticationError, match="the API key is missing or wrong")
        with server.openai("Secret") as client, refused:
            client.completions.create(prompt=FACT, model="recall")
        with server.http() as http:
            for path in ("/v1/models", "/metrics", "/asymkv/slots", "/asymkv/slots/0", "/nothing"):
                assert http.get(path).status_code == 401
            assert http.get("/metrics", headers={"Authorization": "Basic secret"}).status_code == 401
            assert http.get("/health").status_code == 200
            assert http.get("/").status_code in (200, 404)
        assert not any("warning" in note for note in server.notes)


def test_a_foreign_host_header_is_refused_on_localhost(http: httpx.Client) -> None:
    refused = http.get("/v1/models", headers={"Host": "evil.example:8080"})
    assert refused.status_code == 403
    assert "the Host header names 'evil.example', and this server answers localhost only" in refused.text
    for host in ("localhost:1", "LOCALHOST", "127.0.0.1", "[::1]:8080"):
        assert http.get("/v1/models", headers={"Host": host}).status_code == 200
    assert "access-control-allow-origin" not in http.get("/health", headers={"Origin": "http://evil.example"}).headers


def test_everybodys_server_is_warned_about() -> None:
    with Server(*SMALL, "--host", "0.0.0.0") as server, server.http() as http:
        assert any(
            "warning: everybody who can reach 0.0.0.0 can use this server; give --api-key" in note for note in server.notes
        )
        port = server.url.rpartition(":")[2]
        assert http.get(f"http://127.0.0.1:{port}/v1/models", headers={"Host": "my.machine"}).status_code == 200


# the queue


def test_a_full_queue_sends_requests_away(server: Server, http: httpx.Client) -> None:
    def ask(client: OpenAI) -> str:
        return str(client.completions.create(prompt=FACT + QUESTION, max_tokens=1, **PLAIN).choices[0].text)

    with concurrent.futures.ThreadPoolExecutor() as pool, server.openai() as client:
        with endless(server):
            waiting = pool.submit(ask, client)
            until(is_(server, busy=1, queue=1))
            refused = http.post("/v1/completions", json={"prompt": "x"})
            assert refused.status_code == 503
            assert refused.headers["Retry-After"] == "1"
            assert refused.json()["error"]["code"] == "queue_full"
            assert "all slots are busy and 1 requests wait; try again" in refused.text
            streamed = http.post("/v1/completions", json={"prompt": "x", "stream": True})
            assert streamed.status_code == 503  # not an error within a stream
        assert waiting.result() == " amber"
    until(is_(server, busy=0, queue=0))


def test_requests_are_served_in_the_order_of_their_coming() -> None:
    order: list[int] = []
    told = [threading.Event() for _ in range(3)]

    def hold(number: int) -> None:
        with endless(single):
            order.append(number)  # nobody else has the slot now
            told[number].wait(60)

    with Server(*SMALL, "-c", N_CTX) as single, concurrent.futures.ThreadPoolExecutor() as pool:
        with endless(single):
            for number in range(3):
                pool.submit(hold, number)
                until(is_(single, queue=number + 1))
        for event in told:
            until(lambda: len(order) > sum(other.is_set() for other in told))
            event.set()
    assert order == [0, 1, 2]


# clients that leave


def test_a_stream_stops_when_its_client_leaves(server: Server) -> None:
    before = server.metrics()
    with endless(server) as lines:
        for _ in range(5):
            next(lines)
        assert is_(server, busy=1)()
    until(is_(server, busy=0))
    after = server.metrics()
    written = after["asymkv_completion_tokens_total"] - before["asymkv_completion_tokens_total"]
    assert 3 <= written < N_CTX - 10
    assert after["asymkv_stopped_answers_total"] == before["asymkv_stopped_answers_total"] + 1


def raw_request(server: Server, body: Any) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    data = json.dumps(body).encode()
    head = ("POST /v1/completions HTTP/1.1", f"Host: {host}", "Content-Type: application/json", f"Content-Length: {len(data)}")
    connection.sendall("\r\n".join((*head, "", "")).encode() + data)
    return connection


def test_an_answer_that_is_not_streamed_stops_when_its_client_leaves(server: Server) -> None:
    before = server.metrics()["asymkv_completion_tokens_total"]
    with raw_request(server, ENDLESS):
        until(is_(server, busy=1))
    until(is_(server, busy=0))
    assert server.metrics()["asymkv_completion_tokens_total"] - before < N_CTX - 10
    assert server.metrics()['asymkv_requests_total{route="/v1/completions",status="499"}'] >= 1


def test_reading_a_prompt_stops_when_the_client_leaves_and_goes_on_later(server: Server) -> None:
    text = "\n".join(recall.make_document(seed, tokens=4000).text for seed in range(100, 103))
    body = {**PLAIN, "prompt": text, "max_tokens": 1, "stream": True, "return_progress": True}
    with server.http() as client, client.stream("POST", "/v1/completions", json=body) as answer:
        first = json.loads(next(answer.iter_lines()).removeprefix("data: "))["prompt_progress"]
    until(is_(server, busy=0))
    with server.http() as client:
        (slot,) = client.get("/asymkv/slots").json()["slots"]
    assert 0 < first["processed"] <= slot["tokens"] < first["total"]
    with server.openai() as openai_client:
        usage = openai_client.completions.create(prompt=text, max_tokens=1, **PLAIN).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == slot["tokens"]


def test_who_leaves_the_queue_is_forgotten_and_the_others_go_on(server: Server) -> None:
    with endless(server) as lines:
        with raw_request(server, ENDLESS):
            until(is_(server, queue=1))
        until(is_(server, queue=0))
        assert is_(server, busy=1)()
        next(lines)
    until(is_(server, busy=0))


def test_streams_that_nobody_waits_for_do_not_keep_a_slot(server: Server) -> None:
    for _ in range(30):
        raw_request(server, {**ENDLESS, "stream": True}).close()
        raw_request(server, ENDLESS).close()
    until(is_(server, busy=0, queue=0))


def test_a_stream_that_cannot_even_begin_gives_its_slot_up() -> None:
    from asymkv_gguf.server.routes_openai import Stream

    given_up: list[bool] = []

    async def events() -> AsyncIterator[Any]:
        given_up.append(False)
        yield "never"

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise OSError("the client has left")

    stream = Stream(events(), lambda: given_up.append(True))
    with pytest.raises(OSError, match="the client has left"):
        asyncio.run(stream({"type": "http", "method": "POST"}, receive, send))
    assert given_up == [True]


def test_half_a_request_does_no_harm(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
        connection.sendall(b'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"prompt"')
    until(is_(server, busy=0, queue=0))


def test_clients_that_vanish_do_not_disturb_those_that_stay(two: Server) -> None:
    documents = [recall.make_document(seed, tokens=400) for seed in range(30, 34)]

    def stay(document: recall.Document) -> list[bool]:
        with two.openai() as client:
            return [
                client.completions.create(prompt=document.text + question.prompt, max_tokens=1, **PLAIN).choices[0].text.strip()
                == question.answer
                for question in document.questions[:3]
            ]

    def vanish(number: int) -> None:
        if number % 2:
            with endless(two):
                pass
        else:
            raw_request(two, ENDLESS).close()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        leaving = [pool.submit(vanish, number) for number in range(8)]
        staying = list(pool.map(stay, documents))
        for future in leaving:
            future.result()
    assert staying == [[True] * 3] * 4
    until(is_(two, busy=0, queue=0))


def test_a_busy_slot_can_be_looked_at(two: Server) -> None:
    with endless(two), two.http() as client:
        (busy,) = (slot for slot in client.get("/asymkv/slots").json()["slots"] if slot["busy"])
        first, second = (client.get(f"/asymkv/slots/{busy['id']}").json()["last"][-1] for _ in range(2))
        assert 0 <= first <= second
    until(is_(two, busy=0))


def test_a_conversation_comes_back_to_its_slot(two: Server) -> None:
    texts = [recall.make_document(seed, tokens=300).text for seed in (40, 41)]

    def cached(client: OpenAI, prompt: str) -> float:
        before = two.metrics()["asymkv_prompt_tokens_cached_total"]
        client.completions.create(prompt=prompt, max_tokens=1, **PLAIN)
        return two.metrics()["asymkv_prompt_tokens_cached_total"] - before

    with two.openai() as client:
        for text in texts:
            client.completions.create(prompt=text, max_tokens=1, **PLAIN)
        lengths = [len(recall.tokenize(text)) + 1 for text in texts]  # and the start token
        for _ in range(2):
            assert all(cached(client, text + FACT + QUESTION) >= length for text, length in zip(texts, lengths, strict=True))


def test_a_new_conversation_does_not_cost_another_one_its_cache(two: Server) -> None:
    """Also if both begin with the same system prompt."""
    system = recall.make_document(50, tokens=200).text
    first, second = (system + recall.make_document(seed, tokens=500).text for seed in (51, 52))

    def slot_and_cached(http: httpx.Client, prompt: str) -> tuple[int, int]:
        answer = http.post("/v1/completions", json={"prompt": prompt, "max_tokens": 1, **PLAIN}).json()
        return answer["asymkv"]["slot"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    with two.http() as http:
        mine, _ = slot_and_cached(http, first)
        other, cached = slot_and_cached(http, second)
        assert (other, cached) != (mine, 0)
        assert other == 1 - mine
        assert slot_and_cached(http, first + FACT)[0] == mine
        assert slot_and_cached(http, second + FACT)[0] == other
        assert slot_and_cached(http, FACT * 20)[0] == mine  # not used for the longest time


# the end


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
@pytest.mark.parametrize(("with_signal", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_stops_running_and_waiting_answers_and_ends_the_server(with_signal: signal.Signals, code: int) -> None:
    server = Server(*SMALL, "-c", N_CTX)
    with concurrent.futures.ThreadPoolExecutor() as pool, server.http() as client:
        with endless(server) as lines:
            waiting = pool.submit(client.post, "/v1/completions", json=ENDLESS)
            until(is_(server, queue=1))
            ending = pool.submit(server.end, with_signal)
            rest = list(lines)
        assert ending.result() == code
        assert waiting.result().status_code == 503
        assert "the server is shutting down" in waiting.result().text
    last = [line for line in rest if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "shutting_down"
    assert not any("Traceback" in note for note in server.notes)


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
def test_a_second_ctrl_c_does_not_wait_for_the_batch_that_is_computed() -> None:
    batch = 1 << 15
    options = ("-t", 1, "-b", batch, "-ub", batch, "--asymkv-budget", batch + 256, "-c", N_CTX)
    with Server(*options) as server, raw_request(server, {**PLAIN, "prompt": [5] * batch}):
        until(is_(server, busy=1))
        server.process.send_signal(signal.SIGINT)
        until(is_(server, status="stopping", busy=1))
        assert server.end(signal.SIGINT) == 130


# the command


def run(capfd: pytest.CaptureFixture[str], *options: object) -> tuple[int, str]:
    code = main(["serve", "-m", str(MODEL), *map(str, options)])
    return code, capfd.readouterr().err.strip()


def test_a_port_in_use_is_one_sentence(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    port = server.url.rpartition(":")[2]
    code, err = run(capfd, "--port", port)
    assert code == 1
    assert err == f"asymkv-gguf: port {port} of 127.0.0.1 is in use; choose another --port (0: any free one)"


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--host", "192.0.2.1", "--api-key", "x"], 1, "cannot listen on port 8080 of 192.0.2.1"),
        (["--host", "no such host", "--api-key", "x"], 1, "--host no such host is no address of this machine"),
        (["--api-key", ""], 2, "--api-key is empty; give a key, or leave it out"),
        (["--chat-format", "morse"], 2, "there is no chat format 'morse'; there are alpaca, "),
        (["--max-body-mib", "0"], 2, "0 is not in the range x>0"),
        (["-np", "0"], 2, "0 is not in the range 1<=x<=256"),
        (["-np", "2", "--rpc", "localhost:1"], 2, "--rpc works with one slot only; leave out -np, or --rpc"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_is_one_sentence(
    capfd: pytest.CaptureFixture[str], options: list[str], code: int, sentence: str
) -> None:
    found, err = run(capfd, *options)
    assert found == code
    assert sentence in err
    assert "Traceback" not in err


def test_verbose_logs_requests_and_what_llama_cpp_says() -> None:
    with Server(*SMALL, "-c", 512, "-v") as server, server.http() as http:
        assert http.get("/health").status_code == 200
    assert any("GET /health" in note and "200" in note for note in server.notes)
    assert any("llama_context" in note for note in server.notes)


def test_a_missing_model_is_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "-m", "no/such.gguf", "--port", "0"]) == 1
    assert capfd.readouterr().err.strip() == "asymkv-gguf: model file no/such.gguf does not exist"


def test_without_its_packages_serve_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['uvicorn'] = None; from asymkv_gguf.cli import main; sys.exit(main(['serve', '-m', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "serve needs more packages (uvicorn is missing); install them with: pip install 'asymkv-gguf[server]'" in done.stderr


def test_a_stock_cache_is_served_too() -> None:
    with Server("-t", 1, "--temp", 0, "--no-asymkv", "-c", 2048, "-np", 2) as server, server.http() as http:
        answer = http.post("/v1/completions", json={"prompt": FACT + QUESTION, "max_tokens": 1}).json()
        assert (answer["choices"][0]["text"], answer["asymkv"]) == (" amber", None)
        assert http.get("/asymkv/slots").json()["slots"][0]["capacity"] == 2048
        assert "a stock cache has no merged slots to show" in http.get("/asymkv/slots/0").text


def test_a_chat_format_can_be_chosen() -> None:
    tool: Any = {"type": "function", "function": {"name": "tell", "parameters": {"type": "object", "properties": {}}}}
    with Server(*SMALL, "--chat-format", "chatml-function-calling") as server, server.openai() as client:
        answer = client.chat.completions.create(
            messages=MESSAGES,
            tools=[tool],
            tool_choice="auto",
            max_tokens=30,
            **PLAIN,
        )
        assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 0
