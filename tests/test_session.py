"""Sessions: a context from a file goes on bit for bit, and a file that does not fit is refused and left alone."""

from __future__ import annotations

import hashlib
import json
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
from runs import random_tokens

from asymkv_gguf import AsymKVConfig, AsymKVError, Llama, Session, SessionError, load_session, recall, save_session
from asymkv_gguf.cache_types import KV_TYPES
from asymkv_gguf.cli.demo import MODEL
from asymkv_gguf.fingerprint import difference, file_hash, model_files
from asymkv_gguf.state import read_state

SMALL = AsymKVConfig(budget=192, chunk=64)
QUIET: dict[str, Any] = {"verbose": False, "n_threads": 1, "n_threads_batch": 1, "n_ctx": 2048}
TEXT = recall.make_document(3, tokens=600).text
DIGEST, VERSION = 32, 2


def opened(**options: Any) -> Llama:
    return Llama(**{"model_path": str(MODEL), "asymkv": SMALL, **QUIET, **options})


@pytest.fixture
def llm() -> Iterator[Llama]:
    """A text of which a part is merged."""
    llm = opened()
    llm.eval(llm.tokenize(TEXT.encode()))
    yield llm
    llm.close()


@pytest.fixture
def file(llm: Llama, tmp_path: Path) -> Path:
    path = tmp_path / "talk.session"
    save_session(llm, path, extra={"messages": [{"role": "user", "content": "Grüße"}]})
    return path


def go_on(llm: Llama, n_tokens: int = 150, **sampling: Any) -> list[int]:
    """Tokens that follow, from the logits that are there: nothing is read before the first one is sampled."""
    return list(islice(llm.generate(llm._input_ids.tolist(), **sampling), n_tokens))


def parts(path: Path) -> tuple[dict[str, Any], list[bytes]]:
    """Header and sections of a file, read as docs/sessions.md describes it."""
    data = path.read_bytes()
    magic, version, n_header = struct.unpack_from("<8sII", data)
    assert (magic, version) == (b"ASYMKVS\n", VERSION)
    assert hashlib.blake2b(data[:-DIGEST], digest_size=DIGEST).digest() == data[-DIGEST:]
    header = json.loads(data[16 : 16 + n_header])
    sections, place = [], 16 + n_header
    for _, n_bytes in header["sections"]:
        sections.append(data[place : place + n_bytes])
        place += n_bytes
    assert place == len(data) - DIGEST
    return header, sections


def write(path: Path, header: dict[str, Any], sections: list[bytes]) -> None:
    """A file with a right checksum, whatever it says."""
    text = json.dumps(header).encode()
    data = struct.pack("<8sII", b"ASYMKVS\n", VERSION, len(text)) + text + b"".join(sections)
    path.write_bytes(data + hashlib.blake2b(data, digest_size=DIGEST).digest())


# going on


@pytest.mark.parametrize(
    "sampling", [{"temp": 0.0}, {"temp": 0.9, "top_k": 50, "repeat_penalty": 1.1}], ids=["greedy", "seeded"]
)
@pytest.mark.parametrize("asymkv", [SMALL, False], ids=["merged", "stock"])
def test_a_resumed_session_goes_on_as_if_never_interrupted(tmp_path: Path, asymkv: Any, sampling: dict[str, Any]) -> None:
    """Through further compressions, down to the last bit of the state."""
    tokens = opened(asymkv=False).tokenize(TEXT.encode())
    saved, never_saved, resumed = (opened(asymkv=asymkv, seed=7) for _ in range(3))
    for llm in (saved, never_saved):
        llm.eval(tokens)
    n_bytes = save_session(saved, tmp_path / "s", extra={"title": "codes"})
    assert n_bytes == (tmp_path / "s").stat().st_size
    session = load_session(resumed, tmp_path / "s")
    assert (session.n_tokens, session.n_bytes, session.extra) == (len(tokens), n_bytes, {"title": "codes"})
    runs = []
    for llm in (never_saved, saved, resumed):
        before = llm.asymkv_stats().compressions if asymkv else -1
        runs.append((go_on(llm, **sampling), read_state(llm.ctx).tobytes()))
        if asymkv:
            assert llm.asymkv_stats().compressions > before
        llm.close()
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("model", ["llama", "qwen2", "lfm2"])
@pytest.mark.parametrize("cache_type", ["f16", "bf16", "q8_0"])
def test_other_models_and_cache_types_go_on_as_well(
    tiny: Callable[[str], Path], tmp_path: Path, model: str, cache_type: str
) -> None:
    number = KV_TYPES[cache_type]
    options = {"model_path": str(tiny(model)), "type_k": number, "type_v": number}
    llm = opened(**options)
    llm.eval(random_tokens(500))
    save_session(llm, tmp_path / "s")
    other = opened(**options)
    load_session(other, tmp_path / "s")
    assert go_on(other, temp=0.0) == go_on(llm, temp=0.0)
    assert np.array_equal(read_state(other.ctx), read_state(llm.ctx))


def test_nothing_is_read_again(llm: Llama, file: Path) -> None:
    other = opened()
    read: list[int] = []
    other.on_progress = lambda done, total: read.append(total)
    load_session(other, file)
    assert other._input_ids.tolist() == llm._input_ids.tolist()
    assert read == []
    other.create_completion([*llm._input_ids.tolist(), 5, 6], max_tokens=2, temperature=0)
    assert sum(read) == 3  # the two that are new, and the first one that was sampled


def test_completions_with_the_seed_of_the_model_go_on_as_well(llm: Llama, file: Path) -> None:
    """llama_cpp derives every completion's seed from the last one's."""
    other = opened()
    load_session(other, file)
    prompt = llm._input_ids.tolist()
    texts = [[one.create_completion(prompt, max_tokens=20)["choices"][0]["text"] for _ in range(2)] for one in (llm, other)]
    assert texts[0] == texts[1]


def test_a_session_can_be_saved_again_and_is_the_same(file: Path, tmp_path: Path) -> None:
    other = opened()
    session = load_session(other, file)
    save_session(other, tmp_path / "again", extra=session.extra)
    first, second = parts(file), parts(tmp_path / "again")
    assert first[1] == second[1]
    assert {**first[0], "saved_at": 0} == {**second[0], "saved_at": 0}


def test_logits_of_all_tokens_are_kept_where_they_were_asked_for(tmp_path: Path) -> None:
    llm = opened(logits_all=True)
    llm.eval(llm.tokenize(TEXT[:500].encode()))
    save_session(llm, tmp_path / "s")
    other = opened(logits_all=True)
    load_session(other, tmp_path / "s")
    assert np.array_equal(other._scores, llm._scores)
    prompt = llm._input_ids.tolist()
    results = [one.create_completion(prompt, max_tokens=3, temperature=0, logprobs=2)["choices"] for one in (llm, other)]
    assert results[0] == results[1]


def test_an_empty_context_is_a_session_too(tmp_path: Path) -> None:
    llm = opened()
    save_session(llm, tmp_path / "s", extra={"messages": []})
    llm.eval(llm.tokenize(b"The harbour was quiet."))
    session = load_session(llm, tmp_path / "s")
    assert (session.n_tokens, llm.n_tokens, llm.asymkv_stats().tokens) == (0, 0, 0)
    assert session.extra == {"messages": []}


def test_what_was_taken_back_is_not_saved(llm: Llama, tmp_path: Path) -> None:
    llm.n_tokens -= 10  # as llama_cpp takes back
    save_session(llm, tmp_path / "s")
    other = opened()
    assert load_session(other, tmp_path / "s").n_tokens == other.n_tokens == other.asymkv_stats().tokens == llm.n_tokens
    # no logits are known here, so the last token is read once more
    assert go_on(other, 20, temp=0.0) == go_on(llm, 20, temp=0.0)


def test_a_session_is_frozen() -> None:
    session = Session(n_tokens=1, n_bytes=2, saved_at=3.0)
    with pytest.raises(AttributeError):
        session.n_tokens = 2  # type: ignore[misc]
    assert issubclass(SessionError, AsymKVError)


# what does not fit is refused


@pytest.fixture
def other() -> Iterator[Llama]:
    """A context with another text, which a refused session must not touch."""
    llm = opened()
    llm.eval(llm.tokenize(TEXT[300:1500].encode()))
    yield llm
    llm.close()


def refuses(llm: Llama, path: Path) -> str:
    """The sentence; file and context are as before."""
    before = (llm.n_tokens, llm._input_ids.tolist(), read_state(llm.ctx).tobytes(), llm._seed)
    data = path.read_bytes()
    with pytest.raises(SessionError) as caught:
        load_session(llm, path)
    assert (llm.n_tokens, llm._input_ids.tolist(), read_state(llm.ctx).tobytes(), llm._seed) == before
    assert path.read_bytes() == data
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_cut_anywhere_is_refused(other: Llama, file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    header, sections = parts(file)
    boundaries = [0, 8, 12, 16]
    place = len(data) - DIGEST - sum(map(len, sections))
    boundaries.append(place)
    for section in sections:
        place += len(section)
        boundaries.append(place)
    cut = tmp_path / "cut"
    for boundary in boundaries:
        for n_bytes in (boundary - 1, boundary, boundary + 1):
            if 0 <= n_bytes < len(data):
                cut.write_bytes(data[:n_bytes])
                assert f"is truncated or damaged ({n_bytes:,} bytes)" in refuses(other, cut) or n_bytes < 8
    cut.write_bytes(data + b"\0")
    assert "is truncated or damaged" in refuses(other, cut)
    before = go_on(other, 20, temp=0.0)
    assert len(before) == 20
    assert header["n_tokens"] == len(sections[0]) // 4


def test_a_file_of_an_older_format_is_refused_with_a_remedy(other: Llama, file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:8] + struct.pack("<I", VERSION - 1) + data[12:])
    assert refuses(other, file) == (
        f"session {file} has version {VERSION - 1} of the format, and this asymkv-gguf reads {VERSION}: "
        "read the text again and save it anew, or use the asymkv-gguf that saved it"
    )


def test_any_byte_that_changes_is_noticed(other: Llama, file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    rng = np.random.default_rng(5)
    n_header = 16 + len(json.dumps(parts(file)[0]))
    places = [*range(20), *rng.integers(0, n_header, 40), *rng.integers(0, len(data), 60), *range(len(data) - 40, len(data))]
    flipped = tmp_path / "flipped"
    before = read_state(other.ctx)
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(0, 8))
        flipped.write_bytes(changed)
        with pytest.raises(SessionError, match="is truncated or damaged|is not a session|has version"):
            load_session(other, flipped)
    assert np.array_equal(read_state(other.ctx), before)
    assert load_session(other, file).n_tokens == parts(file)[0]["n_tokens"]


def test_each_part_of_the_fingerprint_is_compared_and_named(other: Llama, file: Path, tmp_path: Path) -> None:
    header, sections = parts(file)
    changed = tmp_path / "changed"
    names = list(header["fingerprint"])
    assert {"n_ctx", "n_batch", "type_k", "flash_attn_type", "asymkv budget", "model file hash", "asymkv-gguf"} <= set(names)
    for name in names:
        write(changed, {**header, "fingerprint": {**header["fingerprint"], name: 12345}}, sections)
        assert f"cannot be resumed: it was saved with {name} 12,345, and here it is " in refuses(other, changed)
        fewer = {key: value for key, value in header["fingerprint"].items() if key != name}
        write(changed, {**header, "fingerprint": fewer}, sections)
        if header["fingerprint"][name] is not None:
            assert f"it was saved with {name} not set, and here it is " in refuses(other, changed)
    assert difference({"n_ctx": 1}, {"n_ctx": 1}) is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n_ctx": 1024}, "it was saved with n_ctx 2,048, and here it is 1,024"),
        ({"n_batch": 32}, "it was saved with n_batch 64, and here it is 32"),
        ({"type_k": llama_cpp.GGML_TYPE_Q8_0}, "it was saved with type_k f16, and here it is q8_0"),
        ({"flash_attn": False}, "it was saved with flash_attn_type 1, and here it is 0"),
        (
            {"asymkv": False, "n_batch": 64, "flash_attn": True, "swa_full": False},
            "it was saved with asymkv on, and here it is off",
        ),
        ({"asymkv": SMALL.replace(budget=200)}, "it was saved with asymkv budget 192, and here it is 200"),
        ({"asymkv": SMALL.replace(score="mass")}, "it was saved with asymkv score exact, and here it is mass"),
        ({"rope_freq_base": 5e5}, "it was saved with rope_freq_base"),
        ({"logits_all": True}, "it was saved with logits_all off, and here it is on"),
        ({"kv_overrides": {"general.quantization_version": 3}}, "it was saved with model overrides not set"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_other_settings_are_refused_and_named(file: Path, options: dict[str, Any], sentence: str) -> None:
    llm = opened(**options)
    assert sentence in refuses(llm, file)
    llm.close()


def test_another_model_is_refused_and_named(tiny: Callable[[str], Path], file: Path, tmp_path: Path) -> None:
    llm = opened(model_path=str(tiny("qwen2")))
    assert "it was saved with model architecture llama, and here it is qwen2" in refuses(llm, file)
    # the same shapes, other weights
    data = bytearray(MODEL.read_bytes())
    data[-100] ^= 1
    (tmp_path / "tuned.gguf").write_bytes(data)
    llm = opened(model_path=str(tmp_path / "tuned.gguf"))
    assert "it was saved with model file hash " in refuses(llm, file)


def test_the_same_model_in_another_place_is_the_same_model(file: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.gguf").write_bytes(MODEL.read_bytes())
    assert load_session(opened(model_path=str(tmp_path / "copy.gguf")), file).n_tokens > 0


def test_all_files_of_a_split_model_count() -> None:
    files = model_files("a/m-00001-of-00003.gguf")
    assert files == ["a/m-00001-of-00003.gguf", "a/m-00002-of-00003.gguf", "a/m-00003-of-00003.gguf"]
    assert model_files("m.gguf") == ["m.gguf"]


def test_a_large_files_hash_sees_its_weights(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as stream:
        stream.truncate(80 << 20)  # takes no space
    first = file_hash(str(large))
    with large.open("r+b") as stream:
        stream.seek((32 << 20) + 10 * (48 << 20) // 256)
        stream.write(b"weights")
    assert file_hash(str(large)) != first


def test_a_file_that_contradicts_itself_is_refused(other: Llama, file: Path, tmp_path: Path) -> None:
    header, sections = parts(file)
    changed = tmp_path / "changed"
    write(changed, {**header, "n_tokens": header["n_tokens"] - 1}, sections)
    assert "contradicts itself" in refuses(other, changed)


def test_a_state_that_llama_cpp_refuses_leaves_the_old_one(other: Llama, file: Path, tmp_path: Path) -> None:
    """The checksum is right, so that only llama.cpp can notice; by then the old state is gone, and has to come back."""
    expected = opened()
    expected.eval(other._input_ids.tolist())
    header, sections = parts(file)
    sections[1] = sections[1][:1000]
    header["sections"][1][1] = 1000
    changed = tmp_path / "changed"
    write(changed, header, sections)
    assert "llama.cpp refuses its state" in refuses(other, changed)
    assert go_on(other, 20, temp=0.0) == go_on(expected, 20, temp=0.0)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("none", "session none cannot be read: No such file or directory"),
        (".", "session . cannot be read: Is a directory"),
        ("text", "file text is not a session of asymkv-gguf"),
    ],
)
def test_what_is_no_session_is_one_sentence(other: Llama, tmp_path: Path, monkeypatch: Any, name: str, sentence: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("The harbour was quiet." * 10)
    with pytest.raises(SessionError, match=f"^{sentence}$"):
        load_session(other, name)


# saving


def test_extra_that_json_cannot_hold_is_one_sentence_and_writes_nothing(llm: Llama, tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="extra must be what JSON can hold"):
        save_session(llm, tmp_path / "s", extra={"llm": llm})
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_saved_is_one_sentence(llm: Llama, tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="could not be saved, and is as it was before: No such file or directory"):
        save_session(llm, tmp_path / "none" / "s")
    with pytest.raises(SessionError, match="is not a regular file"):
        save_session(llm, tmp_path)


def test_without_the_models_file_nothing_is_saved_and_one_sentence_says_so(tmp_path: Path) -> None:
    model = tmp_path / "gone.gguf"
    model.write_bytes(MODEL.read_bytes())
    llm = opened(model_path=str(model))
    llm.eval([1, 5])
    model.unlink()
    with pytest.raises(SessionError, match=r"session .*s needs the model's file, which cannot be read: .*gone.gguf"):
        save_session(llm, tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on files")
def test_a_full_disk_leaves_the_old_session(llm: Llama, file: Path, tmp_path: Path) -> None:
    import resource

    before = file.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    llm.eval([5])
    for limit in (0, 100, len(before) // 2, len(before) - 100):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(SessionError, match="could not be saved, and is as it was before: File too large"):
                save_session(llm, file)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert file.read_bytes() == before
        assert list(tmp_path.iterdir()) == [file]
    save_session(llm, file)
    assert load_session(opened(), file).n_tokens == llm.n_tokens


KILLED = """
import os, sys
from asymkv_gguf import Llama, load_session, save_session
import asymkv_gguf.atomic_file as atomic_file

def stop(*arguments):
    print("stopped", flush=True)
    sys.stdin.read()

llm = Llama({model!r}, asymkv={{"budget": 192, "chunk": 64}}, n_ctx=2048, n_threads=1, n_threads_batch=1, verbose=False)
load_session(llm, {file!r})
llm.eval([5])
os.{function} = stop
save_session(llm, {file!r})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_process_killed_while_saving_leaves_the_old_session(file: Path, tmp_path: Path, function: str) -> None:
    before = file.read_bytes()
    script = KILLED.format(model=str(MODEL), file=str(file), function=function)
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "stopped\n"
    assert len(list(tmp_path.iterdir())) == 2  # the new one was being written
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert file.read_bytes() == before
    llm = opened()
    n_tokens = load_session(llm, file).n_tokens
    llm.eval([5])
    save_session(llm, file)
    assert load_session(llm, file).n_tokens == n_tokens + 1


@pytest.mark.skipif(sys.platform == "win32", reason="no links or modes")
def test_links_and_modes_stay(llm: Llama, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    save_session(llm, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600  # a talk is private
    (tmp_path / "file").chmod(0o640)
    save_session(llm, tmp_path / "link")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def adapter(path: Path, seed: int) -> Path:
    """A LoRA file for the tiny llama, of rank 4."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 4.0)
    for name, shape in (("a", (4, 128)), ("b", (128, 4))):
        writer.add_tensor(f"blk.0.attn_q.weight.lora_{name}", rng.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_adapters_are_part_of_the_model(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    options = {"model_path": str(tiny("llama")), "lora_path": str(adapter(tmp_path / "one.gguf", 1))}
    llm = opened(**options)
    llm.eval(random_tokens(300))
    path = tmp_path / "s"
    save_session(llm, path)
    other = opened(**options)
    load_session(other, path)
    assert go_on(other, 30, temp=0.0) == go_on(llm, 30, temp=0.0)
    assert "it was saved with LoRA scale 1.0, and here it is 0.5" in refuses(opened(**options, lora_scale=0.5), path)
    options["lora_path"] = str(adapter(tmp_path / "two.gguf", 2))
    assert "it was saved with LoRA file hash " in refuses(opened(**options), path)
    del options["lora_path"]
    assert "here it is not set" in refuses(opened(**options), path)
