"""RPC: the layers and their part of the merged cache in two real worker processes, with the results of this process."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import last_logits, random_tokens, read, settings
from server_process import SMALL as SERVED
from server_process import Server

from asymkv_gguf import AsymKVConfig, Llama, RpcError, load_session, recall, rpc, save_session
from asymkv_gguf.cli import main
from asymkv_gguf.cli.demo import MODEL
from asymkv_gguf.native.loader import load

TEXT = recall.make_document(3, tokens=900).text
SMALL = AsymKVConfig(budget=128, recent=32, observe=16, chunk=64)
OPTIONS: dict[str, Any] = {"n_ctx": 2048, "n_threads": 1, "n_threads_batch": 1, "verbose": False}


@dataclass
class Worker:
    process: subprocess.Popen[str]
    report: dict[str, Any]

    @property
    def endpoint(self) -> str:
        return str(self.report["endpoint"])

    def stop(self, number: int = signal.SIGKILL) -> str:
        """Ends it; returns what it wrote to stderr."""
        self.process.send_signal(number)
        return self.process.communicate(timeout=60)[1]


@contextlib.contextmanager
def started(port: str = "0", *arguments: str) -> Iterator[Worker]:
    """A worker that has said that it is ready."""
    command = [sys.executable, "-m", "asymkv_gguf", "rpc-worker", "-p", port, "-t", "1", "--json", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Worker(process, json.loads(process.stdout.readline()))
        finally:
            process.kill()


@pytest.fixture(scope="module")
def servers() -> Iterator[str]:
    with started() as one, started() as two:
        yield f"{one.endpoint},{two.endpoint}"


def open_recall(**options: Any) -> Llama:
    return Llama(str(MODEL), asymkv=SMALL, **{**OPTIONS, **options})


def recall_tokens(llm: Llama) -> list[int]:
    return llm.tokenize(TEXT.encode())


def counts(llm: Llama) -> dict[str, Any]:
    """The statistics that depend neither on time nor on the device."""
    stats = llm.asymkv_stats().as_dict()
    return {name: value for name, value in stats.items() if not name.endswith("seconds") and name != "native_attention"}


# the same results


@pytest.mark.parametrize("n_gpu_layers", [-1, 2], ids=["all layers", "some layers"])
def test_two_workers_compute_what_this_process_computes_to_the_bit(servers: str, n_gpu_layers: int) -> None:
    with contextlib.closing(open_recall()) as local:
        tokens = recall_tokens(local)
        expected = read(local, tokens, 64)
        with contextlib.closing(open_recall(rpc_servers=servers, n_gpu_layers=n_gpu_layers)) as remote:
            np.testing.assert_array_equal(read(remote, tokens, 64), expected)
            assert remote.asymkv_stats().merges > 1000
            assert counts(remote) == counts(local)
            for layer in range(4):
                np.testing.assert_array_equal(remote.asymkv_slots(layer, 0), local.asymkv_slots(layer, 0))


@pytest.mark.parametrize(
    ("name", "cache_type", "flash_attn"),
    [("llama", "f16", False), ("llama-head64", "q8_0", True), ("gemma2", "f16", True), ("lfm2", "f16", True)],
)
def test_every_kind_of_cache_lives_on_workers(
    servers: str, tiny: Callable[[str], Path], name: str, cache_type: str, flash_attn: bool
) -> None:
    options = {**settings(cache_type, flash_attn), "swa_full": False}
    tokens = random_tokens(400)
    with contextlib.closing(Llama(str(tiny(name)), asymkv=SMALL, **options)) as local:
        expected = read(local, tokens, 64)
        merges = local.asymkv_stats().merges
    with contextlib.closing(Llama(str(tiny(name)), asymkv=SMALL, rpc_servers=servers, **options)) as remote:
        np.testing.assert_array_equal(read(remote, tokens, 64), expected)
        assert remote.asymkv_stats().merges == merges > 0


def test_the_layers_are_spread_over_both_workers(servers: str, capfd: pytest.CaptureFixture[str]) -> None:
    open_recall(rpc_servers=servers, verbose=True).close()
    log = capfd.readouterr().err
    for endpoint in servers.split(","):
        for kind in ("model", "KV"):
            assert any(f"[{endpoint}] {kind} buffer size" in line for line in log.splitlines()), log


def test_states_are_saved_and_loaded_through_workers(servers: str) -> None:
    with contextlib.closing(open_recall(rpc_servers=servers)) as llm:
        tokens = recall_tokens(llm)
        llm.eval(tokens[:-20])
        state = llm.save_state()
        llm.eval(tokens[-20:])
        expected = last_logits(llm)
        llm.reset()
        llm.eval(tokens[:50])
        llm.load_state(state)
        llm.eval(tokens[-20:])
        np.testing.assert_array_equal(last_logits(llm), expected)


def test_a_session_that_workers_computed_goes_on_here(servers: str, tmp_path: Path) -> None:
    with contextlib.closing(open_recall(rpc_servers=servers)) as remote, contextlib.closing(open_recall()) as local:
        tokens = recall_tokens(remote)
        remote.eval(tokens[:-20])
        save_session(remote, tmp_path / "a.session")
        load_session(local, tmp_path / "a.session")
        for llm in (remote, local):
            llm.eval(tokens[-20:])
        np.testing.assert_array_equal(last_logits(remote), last_logits(local))


def test_a_model_on_workers_does_not_move_other_models_there(servers: str, capfd: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(open_recall(rpc_servers=servers)):
        capfd.readouterr()
        open_recall(verbose=True, n_gpu_layers=-1).close()
        assert "RPC" not in capfd.readouterr().err


def test_two_models_of_a_process_share_the_workers(servers: str) -> None:
    with (
        contextlib.closing(open_recall(rpc_servers=servers)) as one,
        contextlib.closing(open_recall(rpc_servers=servers)) as two,
    ):
        tokens = recall_tokens(one)
        for start in range(0, len(tokens), 100):  # in turns
            one.eval(tokens[start : start + 100])
            two.eval(tokens[start : start + 100])
        np.testing.assert_array_equal(last_logits(one), last_logits(two))


def test_a_pickled_model_finds_its_workers_again(servers: str) -> None:
    with contextlib.closing(open_recall(rpc_servers=servers)) as llm:
        data = pickle.dumps(llm)
    with contextlib.closing(pickle.loads(data)) as again:
        again.eval(recall_tokens(again)[:20])
        assert again.__getstate__()["rpc_servers"] == tuple(servers.split(","))


def test_the_command_prints_the_same_text_with_workers(servers: str, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "-m", str(MODEL), "-p", TEXT, "-n", "8", "--temp", "0", "-t", "1", "--asymkv-budget", "192"]
    assert main(arguments) == 0
    expected = capfd.readouterr().out
    assert main([*arguments, "--rpc", servers]) == 0
    assert capfd.readouterr().out == expected


# workers that are not there, or go away


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_worker_that_is_not_there_is_named_with_the_remedy(capfd: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    assert main(["run", "-m", str(MODEL), "-p", "x", "--rpc", f"127.0.0.1:{port}"]) == 1
    assert capfd.readouterr().err == (
        f"asymkv-gguf: RPC worker 127.0.0.1:{port} cannot be reached (Connection refused); "
        f"start it there: asymkv-gguf rpc-worker --host 127.0.0.1 --port {port}\n"
    )


@contextlib.contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """Something else at a port: takes the greeting, sends `answer` and hangs up; or (None) says nothing at all."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                if answer is None:
                    done.wait(60)
                    return
                connection.recv(33)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield "{}:{}".format(*server.getsockname())
        finally:
            done.set()
            thread.join()


def test_a_worker_of_another_version_is_refused_with_both_versions() -> None:
    with answering(struct.pack("<Q4B", 28, 6, 1, 2, 0) + bytes(24)) as endpoint:
        sentence = f"^RPC worker {endpoint} speaks protocol 6.1.2, but this asymkv-gguf speaks 7.0; run the same version"
        with pytest.raises(RpcError, match=sentence):
            open_recall(rpc_servers=endpoint)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""], ids=["a web server", "it hangs up"])
def test_something_else_at_the_port_is_no_worker(answer: bytes) -> None:
    with answering(answer) as endpoint, pytest.raises(RpcError, match=f"what answers at {endpoint} is no RPC worker"):
        open_recall(rpc_servers=endpoint)


def test_a_worker_that_does_not_answer_may_be_busy() -> None:
    with answering(None) as endpoint, pytest.raises(RpcError, match="a worker serves one process at a time"):
        rpc.check_worker(endpoint, seconds=0.1)


def test_our_workers_speak_the_protocol_that_we_expect(servers: str) -> None:
    assert rpc.check_worker(servers.split(",")[0])[:2] == rpc.PROTOCOL


def test_a_worker_that_dies_in_the_middle_ends_the_text_and_not_the_process() -> None:
    with started() as one, started() as two:
        servers = f"{one.endpoint},{two.endpoint}"
        llm = open_recall(rpc_servers=servers, n_batch=64)
        tokens = recall_tokens(llm)

        def progress(done: int, total: int) -> None:
            if done == 320:
                two.stop()

        llm.on_progress = progress
        sentence = f"^RPC worker {two.endpoint} went away, .* start it again and open the model again$"
        with pytest.raises(RpcError, match=sentence):
            llm.eval(tokens)
        for use in (llm.save_state, llm.asymkv_compress, lambda: llm.eval(tokens[:5])):
            with pytest.raises(RpcError, match=sentence):
                use()
        with pytest.raises(RpcError, match=f"{two.endpoint} went away under another model of this process"):
            open_recall(rpc_servers=servers)
        llm.close()
        with pytest.raises(RpcError, match="cannot be reached"):
            open_recall(rpc_servers=servers)
        with started(two.endpoint.split(":")[1]), contextlib.closing(open_recall(rpc_servers=servers)) as again:
            again.eval(tokens)
            remote = last_logits(again)
    with contextlib.closing(open_recall()) as local:
        local.eval(tokens)
        np.testing.assert_array_equal(remote, last_logits(local))


def test_a_worker_that_dies_while_a_text_is_written_ends_the_text() -> None:
    with started() as worker, contextlib.closing(open_recall(rpc_servers=worker.endpoint)) as llm:
        never = {llm.token_eos(): -100.0}
        pieces = llm.create_completion("The", max_tokens=1000, stream=True, logit_bias=never)
        next(pieces)
        worker.stop()
        with pytest.raises(RpcError, match=f"^RPC worker {worker.endpoint} went away"):
            list(pieces)


def test_a_server_whose_worker_dies_says_so_to_clients_and_monitors_and_ends_soundly() -> None:
    endless = {"prompt": "The", "max_tokens": -1, "temperature": 0, "grammar": 'root ::= " amber" root', "stream": True}
    fact = {"prompt": "The code of Ada Moon is amber.\nThe code of Ada Moon is", "max_tokens": 1, "temperature": 0}
    with started() as one, started() as two, Server(*SERVED, "--rpc", f"{one.endpoint},{two.endpoint}") as server:
        sentence = f"RPC worker {two.endpoint} went away, "
        with server.http() as client:
            assert client.post("/v1/completions", json=fact).json()["choices"][0]["text"] == " amber"
            assert client.get("/health").status_code == 200
            with client.stream("POST", "/v1/completions", json=endless) as answer:
                lines = answer.iter_lines()
                next(lines)
                two.stop()
                last = [line for line in lines if line][-1]
            assert json.loads(last.removeprefix("data: "))["error"]["message"].startswith(sentence)
            refused = client.post("/v1/completions", json=fact)
            assert (refused.status_code, refused.json()["error"]["type"]) == (500, "server_error")
            assert refused.json()["error"]["message"].startswith(sentence)
            health = client.get("/health")
            assert (health.status_code, health.json()["status"]) == (503, "failed")
            assert health.json()["message"].startswith(sentence)
        assert server.end(signal.SIGTERM) == 0


def test_a_worker_outlives_a_client_that_was_killed() -> None:
    program = """
        import sys
        from asymkv_gguf import Llama
        llm = Llama(sys.argv[1], asymkv=True, rpc_servers=sys.argv[2], n_threads=1, verbose=False)
        print("open", flush=True)
        while True:
            llm("The harbour")
    """
    with started() as worker:
        command = [sys.executable, "-c", textwrap.dedent(program), str(MODEL), worker.endpoint]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == "open\n"
            client.kill()
        with contextlib.closing(open_recall(rpc_servers=worker.endpoint)) as llm:
            llm.eval(recall_tokens(llm)[:100])
            assert llm.asymkv_stats().tokens == 100


# names and options


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("", "'' names no RPC worker; write host:port, e.g. 192.168.1.7:50052"),
        ("host:", "'host:' names no RPC worker"),
        ("host:0", "'host:0' names no RPC worker"),
        ("host:70000", "'host:70000' names no RPC worker"),
        ("a:1,:2", "':2' names no RPC worker"),
        ("::1:50052", "'::1:50052' names no RPC worker"),
        ("a:1,b,a:1", "RPC worker a:1 is named twice; name each worker once"),
        (",".join(f"h{i}" for i in range(17)), "17 RPC workers were given; name 1 to 16"),
    ],
)
def test_a_wrong_list_of_workers_is_one_sentence(value: str, sentence: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="^" + sentence):
        rpc.parse_endpoints(value)
    assert main(["run", "-m", str(MODEL), "-p", "x", "--rpc", value]) == 2
    assert sentence in capfd.readouterr().err


def test_a_list_of_workers_is_text_or_a_list_and_the_port_may_be_left_out() -> None:
    assert rpc.parse_endpoints("a:1, b") == rpc.parse_endpoints(["a:1", "b:50052"]) == ("a:1", "b:50052")


def test_workers_without_layers_are_a_wrong_use(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-m", str(MODEL), "-p", "x", "--rpc", "a:1", "-ngl", "0"]) == 2
    assert "-ngl 0 leaves nothing to the workers of --rpc" in capfd.readouterr().err


# the worker's own command


def test_the_worker_listens_on_this_machine_only_and_ctrl_c_ends_it_with_130() -> None:
    with started() as worker:
        assert worker.endpoint.startswith("127.0.0.1:")
        assert worker.report["threads"] == 1
        assert worker.report["devices"][0]["memory_total"] > 0
        assert worker.stop(signal.SIGINT).splitlines() == [
            f"rpc-worker: {described(worker)} at {worker.endpoint}; use it with --rpc {worker.endpoint}",
            "interrupted",
        ]
        assert worker.process.returncode == 130


def described(worker: Worker) -> str:
    device = worker.report["devices"][0]
    return f"{device['name']} ({device['description']}, {device['memory_free'] / (1 << 30):,.0f} GiB free)"


def test_a_worker_that_others_can_reach_warns() -> None:
    with started("0", "--host", "0.0.0.0") as worker:
        assert worker.stop(signal.SIGINT).startswith(
            f"rpc-worker: anybody who reaches {worker.endpoint} can use this worker and crash it; the protocol has no password"
        )


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["-p", "{taken}"], 1, "cannot listen on 127.0.0.1:{taken}: Address already in use; choose another --host or --port"),
        (["-H", "192.0.2.1"], 1, "cannot listen on 192.0.2.1:50052: "),
        (["-H", "no host"], 2, "'no host' is no IPv4 address or host name; give --host 127.0.0.1 or 0.0.0.0"),
        (["-d", "CUDA9"], 2, "there is no device 'CUDA9'; this machine has "),
        (["-p", "70000"], 2, "70000 is not in the range"),
    ],
)
def test_a_worker_that_cannot_start_says_why(
    arguments: list[str], code: int, sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = str(server.getsockname()[1])
        assert main(["rpc-worker", *(argument.format(taken=taken) for argument in arguments)]) == code
    assert sentence.format(taken=taken) in capfd.readouterr().err


def test_a_build_without_rpc_says_so(tmp_path: Path) -> None:
    native = load()
    (tmp_path / "lib").mkdir()
    (tmp_path / "include").mkdir()
    shutil.copy(native.library, tmp_path / "lib")
    shutil.copy(native.header, tmp_path / "include")
    done = subprocess.run(
        [sys.executable, "-m", "asymkv_gguf", "rpc-worker"],
        capture_output=True,
        text=True,
        env={**os.environ, "ASYMKV_GGUF_NATIVE": str(tmp_path)},
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"asymkv-gguf: {tmp_path / 'lib'} has no library ggml-rpc, so this build ")
