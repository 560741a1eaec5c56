"""What SECURITY.md promises and no other file tests: templates in their sandbox, what is open without a key, files' modes."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from server_process import SMALL, Server

from asymkv_gguf import Llama, ModelFileError, save_session
from asymkv_gguf.cli import main
from asymkv_gguf.cli.demo import MODEL

TEMPLATE = "tokenizer.chat_template"


@pytest.fixture(scope="module")
def with_template(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The packaged model with another chat template."""
    directory = tmp_path_factory.mktemp("templates")

    def write(template: str) -> Path:
        reader = gguf.GGUFReader(str(MODEL))
        path = directory / f"{len(list(directory.iterdir()))}.gguf"
        writer = gguf.GGUFWriter(str(path), "llama")
        for name, field in reader.fields.items():
            if not name.startswith("GGUF.") and name not in ("general.architecture", TEMPLATE):
                is_array = field.types[0] == gguf.GGUFValueType.ARRAY
                writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if is_array else None)
        writer.add_chat_template(template)
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


ESCAPES = {
    "{{ ''.__class__.__mro__[1].__subclasses__() }}": "access to attribute '__class__' of 'str' object is unsafe.",
    "{{ cycler.__init__.__globals__.os.system('touch pwned') }}": "access to attribute '__init__' of 'type' object is unsafe.",
    "{{ strftime_now.__globals__.x }}": "access to attribute '__globals__' of 'function' object is unsafe.",
    "{{ messages.append(1) }}": "access to attribute 'append' of 'list' object is unsafe.",
    "{% include '/etc/passwd' %}": "it wants another template, /etc/passwd",
    "{{ range(1000000000) | list }}": "Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).",
}
MISTAKES = {"{{ 1 / 0 }}": "division by zero", "{{ messages[9].a.b }}": "list object has no element 9"}


@pytest.mark.parametrize(("template", "reason"), [*ESCAPES.items(), *MISTAKES.items()])
def test_a_template_gets_out_of_its_sandbox_nowhere_and_its_error_is_one_sentence(
    with_template: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], template: str, reason: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    path = with_template(template)
    assert main(["run", "-m", str(path), "-p", "hi", "-st", "-n", "2", "-c", "512", "-t", "1"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1] == f"asymkv-gguf: the chat template of {path} cannot spell this conversation: {reason}"
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_template_is_one_sentence(with_template: Callable[[str], Path]) -> None:
    path = with_template("{% if %}")
    with pytest.raises(ModelFileError, match=f"the chat template of {path} is damaged: Expected an expression"):
        Llama(str(path), n_ctx=64, verbose=False)


def test_a_template_that_says_nothing_is_one_sentence(
    with_template: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "-m", str(with_template("{{ '' }}")), "-p", "hi", "-st", "-c", "512", "-t", "1"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("asymkv-gguf: the text is empty, and this model does not start")


def test_an_error_that_is_not_the_templates_is_left_alone() -> None:
    llm = Llama(str(MODEL), n_ctx=256, n_threads=1, verbose=False)
    with pytest.raises(TypeError, match="no_such_keyword"):
        llm.create_chat_completion([{"role": "user", "content": "hi"}], no_such_keyword=1)
    llm.close()


def test_the_server_refuses_what_a_template_must_not_and_goes_on(with_template: Callable[[str], Path]) -> None:
    with Server(*SMALL, model=with_template("{{ ''.__class__.x }}")) as server, server.http() as http:
        answer = http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1})
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == (
            "messages: the model's chat template refuses them: access to attribute '__class__' of 'str' object is unsafe."
        )
        assert http.post("/v1/completions", json={"prompt": "The", "max_tokens": 1}).status_code == 200


# the server


def raw(server: Server, path: str, *headers: str) -> int:
    """The status of a request whose path nobody has tidied."""
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
        lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(connection.makefile("rb").readline().split()[1])


def test_without_the_key_only_what_holds_nothing_is_open_however_a_path_is_spelled() -> None:
    with Server(*SMALL, ASYMKV_SERVE_API_KEY="secret") as server:
        assert [raw(server, path) for path in ("/", "/health", "/static/app.js")] == [200, 200, 200]
        closed = ("/metrics", "/asymkv/slots", "/v1/models", "//metrics", "/health/", "/static", "/docs", "/openapi.json")
        assert {path: raw(server, path) for path in closed} == dict.fromkeys(closed, 401)
        below = (
            "/static/../metrics", "/static/..%2fmetrics", "/static/%2e%2e/metrics", "/static/../../page.py",
            "/static//etc/passwd", "/static/..%2f..%2fpage.py",
        )  # fmt: skip
        assert {path: raw(server, path) for path in below} == dict.fromkeys(below, 404)
        assert raw(server, "/metrics", "Authorization: Bearer secret") == 200
        assert raw(server, "/metrics", "Authorization: Bearer secret2") == 401


def test_the_key_of_the_environment_is_in_no_process_list_and_in_no_log() -> None:
    with Server(*SMALL, "-v", ASYMKV_SERVE_API_KEY="secret") as server:
        raw(server, "/metrics", "Authorization: Bearer secret")
        if sys.platform == "linux":
            assert b"secret" not in Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        notes = server.notes
    assert notes
    assert "secret" not in "\n".join(notes)


def test_no_answer_has_cors_headers() -> None:
    with Server(*SMALL) as server, server.http() as http:
        for answer in (
            http.get("/v1/models", headers={"Origin": "https://elsewhere.example"}),
            http.options(
                "/v1/completions",
                headers={"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"},
            ),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control-")]


# files


@pytest.mark.skipif(sys.platform == "win32", reason="no modes")
def test_a_new_session_is_for_its_owner_only(tmp_path: Path) -> None:
    llm = Llama(str(MODEL), n_ctx=256, n_threads=1, verbose=False)
    llm.eval([1, 5])
    save_session(llm, tmp_path / "s")
    llm.close()
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600


def test_nothing_of_the_package_unpickles_or_evaluates() -> None:
    """A session, a model or a request is data."""
    package = Path(__file__).parent.parent / "asymkv_gguf"
    calls = r"\bpickle\.(load|loads)\(|allow_pickle=True|\beval\((?!tokens|kept)|\bexec\(|os\.system\(|shell=True|yaml\.load\("
    found = subprocess.run(["grep", "-rnEP", "--include=*.py", calls, str(package)], capture_output=True, text=True)
    found_lines = [line for line in found.stdout.splitlines() if ".eval(" not in line]
    assert found_lines == []
