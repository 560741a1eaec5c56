"""`asymkv-gguf chat` at a pseudo-terminal, as a person would type, and through pipes."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from pseudo_terminal import ALT_ENTER, CTRL_C, CTRL_D, ENTER, TAB, UP, PseudoTerminal

from asymkv_gguf import recall
from asymkv_gguf.chat.terminal import Terminal
from asymkv_gguf.cli import main
from asymkv_gguf.cli.demo import MODEL

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")

# an answer is one token
SMALL = ["-c", "4096", "-t", "1", "-n", "1", "--temp", "0", "--asymkv-budget", "192", "--asymkv-chunk", "64"]
ADA, ANNA = "The code of Ada Saunders is", "The code of Anna Reed is"
DOCUMENT = recall.make_document(5, tokens=1500)


def chat(cwd: Path, *arguments: object, columns: int = 100, environment: Mapping[str, str] | None = None) -> PseudoTerminal:
    """Without a command's name: chat is the default."""
    return PseudoTerminal("-m", MODEL, *SMALL, *arguments, cwd=cwd, columns=columns, environment=environment)


def piped(cwd: Path, text: str | bytes, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "asymkv_gguf", "-m", str(MODEL), *SMALL, *map(str, arguments)],
        input=text.encode() if isinstance(text, str) else text,
        capture_output=True,
        cwd=cwd,
        env={**os.environ, "XDG_STATE_HOME": str(cwd / "state")},
        timeout=120,
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in err
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def test_a_conversation_as_a_person_types_it(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(DOCUMENT.text)
    (tmp_path / "latin1.txt").write_bytes("caf\xe9".encode("latin-1"))
    first, second = DOCUMENT.questions[:2]
    with chat(tmp_path, "-sys", "The harbour was calm that week.", columns=160) as terminal:
        terminal.wait_for_prompt()
        screen = terminal.wait_for("memory: model 1.2 MiB, cache 320 KiB (256 slots)")
        assert "recall.gguf: /help lists the commands, Ctrl-D leaves" in screen

        # a long file, and facts of its first quarter
        terminal.enter("/read book.txt")
        terminal.wait_for("book.txt: 1,4")
        terminal.enter(first.prompt)
        terminal.wait_for(f"\n{first.answer}\n")
        terminal.wait_for("slots (320 KiB instead of 5.0 MiB)")
        screen = terminal.wait_for("wrote 1]")
        assert re.search(r"\[1,5\d\d tokens in \d\d\d slots, 4.7 MiB saved, read 1,5\d\d at [\d,]+ t/s, wrote 1", screen)
        assert "reading" in terminal.raw  # the bar, which leaves when it is full
        assert "tokens" in terminal.raw

        terminal.enter(second.prompt)
        terminal.wait_for(f"\n{second.answer}\n")
        terminal.wait_for("wrote 1]", 2)
        terminal.enter("/undo")
        terminal.wait_for(f"taken back: {second.prompt}")
        terminal.type(UP + UP)
        terminal.wait_for(f"> {second.prompt}", 2)
        terminal.type(ENTER)
        terminal.wait_for(f"\n{second.answer}\n", 2)
        terminal.enter("/regen")
        screen = terminal.wait_for(f"\n{second.answer}\n", 3)
        terminal.wait_for("wrote 1]", 4)
        assert screen.count("instead of 5.0 MiB") <= 2  # nothing is told twice

        terminal.enter("/stats")
        screen = terminal.wait_for("sinks         8 tokens")
        assert "(budget 192, capacity 256)" in screen
        terminal.enter("/cache 4 1")
        screen = terminal.wait_for("tokens in a slot:")
        assert "layer 4, head 1: 1,5" in screen
        assert "\x1b[48;5;" in terminal.raw  # coloured

        for wrong, sentence in (
            ("/cache 5", "there is no layer 5; there are 0 to 4"),
            ("/cache 0 2", "there is no head 2; there are 0 to 1"),
            ("/cache x", "/cache takes the numbers of a layer and a head, not 'x'"),
            ("/red book.txt", "there is no command /red; did you mean /read?"),
            ("/xyz", "there is no command /xyz; /help lists them"),
            ("/read", "name a file: /read FILE"),
            ("/read no/such.txt", "text file no/such.txt cannot be read: No such file or directory"),
            ("/read latin1.txt", "text file latin1.txt is not UTF-8 text (byte 3); convert it first"),
        ):
            terminal.enter(wrong)
            terminal.wait_for(sentence)

        terminal.enter("/system")
        terminal.wait_for("The harbour was calm that week.")
        terminal.enter("/system " + "The harbour was calm that week. " * 4)
        terminal.wait_for("the conversation is read again with the next message, after the new system prompt")
        terminal.wait_for("of which the first 8 are never merged; start with -sys to protect all of it")
        terminal.enter("/clear")
        terminal.wait_for("the conversation is empty")
        for nothing, sentence in (("/undo", "there is nothing to take back"), ("/regen", "there is no answer yet")):
            terminal.enter(nothing)
            terminal.wait_for(sentence)
        terminal.enter("/help")
        screen = terminal.wait_for("begins another line")
        for name in ("/stats", "/cache [LAYER [HEAD]]", "/system [TEXT]", "/regen", "/undo", "/read FILE", "/clear", "/exit"):
            assert f"\n{name} " in screen
        terminal.enter("/exit")
        assert terminal.wait_for_end() == 0


def test_messages_of_several_lines(tmp_path: Path) -> None:
    with chat(tmp_path) as terminal:
        terminal.wait_for_prompt()
        terminal.paste(f"{ADA} coral.\n{ANNA} amber.\n\n{ADA}")
        terminal.type(ENTER)
        terminal.wait_for("\ncoral\n")
        terminal.wait_for("wrote 1]")
        terminal.type("There was fog.\\" + ENTER + "There was rain." + ALT_ENTER)
        terminal.enter(ANNA)
        screen = terminal.wait_for("\namber\n")
        assert f"> There was fog.\n. There was rain.\n. {ANNA}\namber\n" in screen
        screen = terminal.wait_for("wrote 1]", 2)
        assert screen.count("wrote 1]") == 2  # two messages, whatever many lines
        terminal.type(CTRL_D)
        assert terminal.wait_for_end() == 0


def test_ctrl_c_stops_the_answer_and_twice_at_the_prompt_the_program(tmp_path: Path) -> None:
    with chat(tmp_path, "-n", "-1") as terminal:
        terminal.wait_for_prompt()
        terminal.enter(f"{ADA} coral. {ANNA} amber. The train")  # the model never stops by itself
        terminal.wait_for("The", 4)
        terminal.type(CTRL_C)
        terminal.wait_for("\nstopped\n")
        terminal.enter(ANNA)
        terminal.wait_for("\namber")
        terminal.type(CTRL_C)
        terminal.wait_for_prompt()
        terminal.type("half a message" + CTRL_C)
        terminal.wait_for_prompt()
        terminal.type(CTRL_C)
        terminal.wait_for("Ctrl-C again, or Ctrl-D, leaves")
        terminal.wait_for_prompt()
        terminal.type(CTRL_C)
        assert terminal.wait_for_end() == 130
        assert "interrupted" in terminal.screen


def test_ctrl_c_while_a_long_message_is_read_takes_it_back(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(recall.make_document(5, tokens=3800).text)
    with chat(tmp_path, "-b", "2") as terminal:  # many batches, so that there is time
        terminal.wait_for_prompt()
        terminal.enter(f"{ADA} coral. {ADA}")
        terminal.wait_for("wrote 1]")
        terminal.enter("/read book.txt")
        terminal.wait_for("go before the next message")
        terminal.enter("Later")
        terminal.wait_for("reading")
        terminal.type(CTRL_C)
        screen = terminal.wait_for("stopped while reading; the message was taken back")
        assert "\nreading" not in screen  # the bar is gone
        terminal.enter("/undo")
        terminal.wait_for(f"taken back: {ADA} coral.")
        terminal.type(CTRL_D)
        assert terminal.wait_for_end() == 0


def test_typed_lines_are_there_again_the_next_time_and_tab_completes(tmp_path: Path) -> None:
    (tmp_path / "nothing.txt").write_text("There was")
    with chat(tmp_path) as terminal:
        terminal.wait_for_prompt()
        terminal.enter("/stats")
        terminal.wait_for("sinks")
        terminal.type(CTRL_D)
        terminal.wait_for_end()
    with chat(tmp_path) as terminal:
        terminal.wait_for_prompt()
        terminal.type(UP + ENTER)
        terminal.wait_for("sinks")
        terminal.wait_for_prompt()
        terminal.type("/sta" + TAB)
        terminal.wait_for("> /stats", 2)
        terminal.type(ENTER)
        terminal.wait_for("sinks", 2)
        terminal.wait_for_prompt()
        terminal.type("/read noth" + TAB)
        terminal.wait_for("> /read nothing.txt")
        terminal.type(ENTER)
        terminal.wait_for("nothing.txt: 2 tokens go before the next message")
    history = tmp_path / "state" / "asymkv-gguf" / "chat_history"
    assert history.read_text().count("+/stats") == 1
    assert history.stat().st_mode & 0o077 == 0  # nobody else's business


def test_no_color_and_a_narrow_terminal(tmp_path: Path) -> None:
    with chat(tmp_path, columns=24, environment={"NO_COLOR": "1"}) as terminal:
        terminal.wait_for_prompt()
        terminal.enter(f"{ADA} coral. {ADA}")
        terminal.wait_for("\ncoral\n")
        terminal.wait_for("wrote 1]")
        terminal.enter("/cache")
        screen = terminal.wait_for("17+")
        assert "\n...............\n" in screen  # 15 tokens, none merged
        assert ". 1, :\n2, - 3-4" in screen
        assert not re.search(r"\x1b\[[\d;]*(3|4|9|10)\d[\d;]*m", terminal.raw)
        terminal.type(CTRL_D)
        assert terminal.wait_for_end() == 0


def test_a_place_without_history_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the directory should be")
    with chat(tmp_path) as terminal:
        terminal.wait_for_prompt()
        terminal.type(CTRL_D)
        assert terminal.wait_for_end() == 0


def test_what_a_model_writes_cannot_control_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:

    terminal = Terminal()
    terminal.write("\x1b]0;title\x07")
    assert capsys.readouterr().out == "\x1b]0;title\x07"  # a pipe gets what there is
    monkeypatch.setattr(terminal, "_shown", True)
    terminal.write("a\x1b]0;title\x07\tb\n\x9b2J")
    assert capsys.readouterr().out == "a\ufffd]0;title\ufffd\tb\n\ufffd2J"


# sessions


def test_a_session_is_saved_when_the_chat_is_left_at_the_prompt_by_a_signal(tmp_path: Path) -> None:
    with chat(tmp_path, "--session", "a.session") as terminal:
        terminal.wait_for_prompt()
        terminal.enter(f"{ADA} coral. {ADA}")
        terminal.wait_for("wrote 1]")
        terminal.wait_for_prompt()
        terminal.hang_up()
        assert terminal.wait_for_end() == 130
        assert "session a.session: saved" in terminal.screen


def test_a_session_goes_on_the_next_day_without_reading_anything_again(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(DOCUMENT.text)
    first, second, third = DOCUMENT.questions[:3]
    with chat(tmp_path, "--session", "day.session", "-sys", "The harbour was calm that week.") as terminal:
        terminal.wait_for_prompt()
        terminal.enter("/read book.txt")
        terminal.enter(first.prompt)
        terminal.wait_for(f"\n{first.answer}\n")
        terminal.enter("/save other.session")
        terminal.wait_for("session other.session: saved 1,5")
        terminal.enter(second.prompt)
        terminal.wait_for(f"\n{second.answer}\n")
        terminal.type(CTRL_D)
        assert terminal.wait_for_end() == 0
        assert "session day.session: saved 1,5" in terminal.screen
    # the sinks are those of the session's system prompt
    with chat(tmp_path, "--session", "day.session", "-sys", "Another one.") as terminal:
        terminal.wait_for("session day.session: goes on after 2 answers and 1,5")
        terminal.wait_for("the session keeps its own system prompt; /system sets another one")
        terminal.wait_for_prompt()
        terminal.enter(third.prompt)
        terminal.wait_for(f"\n{third.answer}\n")
        assert re.search(r"read \d at", terminal.wait_for("wrote 1]"))
        terminal.enter("/load other.session")
        terminal.wait_for("session other.session: goes on after 1 answer and 1,5")
        terminal.enter("/regen")
        terminal.wait_for(f"\n{first.answer}\n")
        assert len(re.findall(r"read \d at", terminal.wait_for("wrote 1]", 2))) == 2
        for wrong, sentence in (
            ("/load book.txt", "file book.txt is not a session of asymkv-gguf"),
            ("/load no/such", "session no/such cannot be read: No such file or directory"),
            ("/load", "name a file: /load FILE"),
            ("/save no/such/place", "session no/such/place could not be saved"),
        ):
            terminal.enter(wrong)
            terminal.wait_for(sentence)
        terminal.enter("/save")
        terminal.wait_for("session day.session: saved 1,5")
        terminal.enter("/exit")
        assert terminal.wait_for_end() == 0


def test_a_session_is_saved_when_the_terminal_is_closed_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    with chat(tmp_path, "--session", "a.session", "-n", "-1") as terminal:
        terminal.wait_for_prompt()
        terminal.enter(f"{ADA} coral. {ANNA} amber. The train")
        terminal.wait_for("The", 4)
        terminal.hang_up()
        assert terminal.wait_for_end() == 130
        assert "\nsession a.session: saved " in terminal.screen  # a line of its own
    done = piped(tmp_path, f"{ADA}\n", "--session", "a.session")
    assert done.stdout == "coral\n"
    assert "goes on after 1 answer" in done.stderr


def test_a_session_that_does_not_fit_is_refused_and_left_alone(tmp_path: Path) -> None:
    assert piped(tmp_path, f"{ADA} coral. {ADA}\n", "--session", "a.session").returncode == 0
    before = (tmp_path / "a.session").read_bytes()
    done = piped(tmp_path, f"{ADA}\n", "--session", "a.session", "-c", "2048")
    assert done.returncode == 1
    assert "session a.session cannot be resumed: it was saved with n_ctx 4,096, and here it is 2,048" in done.stderr
    assert (tmp_path / "a.session").read_bytes() == before
    done = piped(tmp_path, f"{ADA}\n", "--session", "a.session")
    assert (done.returncode, done.stdout) == (0, "coral\n")
    assert piped(tmp_path, "/save\n").returncode == 1  # there is no file to save to


def test_where_nothing_could_be_saved_is_said_before_anything_else(tmp_path: Path) -> None:
    done = piped(tmp_path, f"{ADA}\n", "--session", "no/such/place")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("asymkv-gguf: session no/such/place cannot be saved: there is no directory ")


def test_a_session_may_be_saved_by_its_name_too(tmp_path: Path) -> None:
    text = f"{ADA} coral. {ADA}\n/save a.session\n/save ./a.session\n/save\n"
    done = piped(tmp_path, text, "--session", "a.session")
    assert (done.returncode, done.stdout) == (0, "coral\n")
    assert done.stderr.count("session a.session: saved 15 tokens") == 4  # the last one at the end
    assert [file.name for file in tmp_path.glob("*.session")] == ["a.session"]


def test_two_chats_on_one_session_lose_nothing(tmp_path: Path) -> None:
    with chat(tmp_path, "--session", "a.session") as first, chat(tmp_path, "--session", "a.session") as second:
        for terminal, n_turns in ((first, 1), (second, 2)):
            terminal.wait_for_prompt()
            for turn in range(1, n_turns + 1):
                terminal.enter(f"{ADA} coral. {ADA}")
                terminal.wait_for("wrote 1]", turn)
        for terminal in (first, second):
            terminal.wait_for_prompt()
            terminal.type(CTRL_D)
            assert terminal.wait_for_end() == 0
        assert "session a-2.session: saved" in second.screen
        assert "as a.session was changed by another process meanwhile" in second.screen.replace("\n", " ")
    assert "session a.session: goes on after 1 answer " in piped(tmp_path, "", "--session", "a.session").stderr
    assert "session a-2.session: goes on after 2 answers " in piped(tmp_path, "", "--session", "a-2.session").stderr


def test_a_session_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    run_arguments = ["run", "-m", str(MODEL), *SMALL, "-p", DOCUMENT.text[:2000], "--session", str(tmp_path / "text.session")]
    assert main(run_arguments) == 0
    (tmp_path / "book.txt").write_text("The book.")
    with chat(tmp_path) as terminal:
        terminal.wait_for_prompt()
        terminal.enter(f"{ADA} coral. {ADA}")
        terminal.wait_for("wrote 1]")
        terminal.enter("/load text.session")
        terminal.wait_for("session text.session holds a text, and no conversation")
        terminal.enter("/save book.txt")
        terminal.wait_for("file book.txt is not a session of asymkv-gguf, and is left as it is")
        terminal.enter(ADA)
        screen = terminal.wait_for("wrote 1]", 2)
        assert "again" not in screen
        assert re.search(r"\[23 tokens in 23 slots.* read 8 at", screen)
    assert (tmp_path / "book.txt").read_text() == "The book."


# pipes


def test_every_line_of_a_pipe_is_a_message_and_only_answers_go_to_stdout(tmp_path: Path) -> None:
    done = piped(tmp_path, f"{ADA} coral. {ANNA} amber. {ADA}\n\n{ANNA}\n/stats\n")
    assert done.returncode == 0
    assert done.stdout == "coral\namber\n"
    lines = done.stderr.splitlines()
    assert lines[0] == "memory: model 1.2 MiB, cache 320 KiB (256 slots)"
    assert sum(line.endswith("]") for line in lines) == 2
    assert "slots         31 (budget 192, capacity 256)" in lines
    assert "\x1b" not in done.stderr


def test_a_long_text_from_a_pipe_tells_how_far_it_is(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(DOCUMENT.text)
    question = DOCUMENT.questions[0]
    done = piped(tmp_path, f"/read book.txt\n{question.prompt}\n")
    assert done.stdout == f"{question.answer}\n"
    assert len(re.findall(r"^reading: [\d,]+ of 1,5\d\d tokens, [\d,]+ t/s, \d+ s left$", done.stderr, re.MULTILINE)) == 3


def test_the_first_message_can_be_an_option(tmp_path: Path) -> None:
    (tmp_path / "facts.txt").write_text(f"{ADA} coral. {ANNA} amber.\n")
    done = piped(tmp_path, f"{ANNA}\n", "-f", "facts.txt", "-p", ADA)
    assert (done.returncode, done.stdout) == (0, "coral\namber\n")
    done = piped(tmp_path, f"{ANNA}\n", "-f", "facts.txt", "-p", ADA, "-st")
    assert (done.returncode, done.stdout) == (0, "coral\n")
    done = piped(tmp_path, f"{ADA} coral. {ANNA} amber.\n", "-f", "-", "-p", ADA)
    assert (done.returncode, done.stdout) == (0, "coral\n")  # the pipe is the text, and has no more lines
    done = piped(tmp_path, f"/stats\n{ANNA}\n{ADA}\n", "-f", "facts.txt", "-st")
    assert (done.returncode, done.stdout) == (0, "amber\n")


def test_a_message_that_begins_with_a_slash_is_written_with_two(tmp_path: Path) -> None:
    done = piped(tmp_path, "//etc\n")
    assert done.returncode == 0
    assert done.stdout.strip()


@pytest.mark.parametrize("name", ["my facts.txt", "'my facts.txt'", '"my facts.txt"', "my\\ facts.txt"])
def test_a_files_name_may_have_spaces_and_be_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my facts.txt").write_text(f"{ADA} coral.")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"/read {name}\n{ADA}\n".encode())))
    assert main(["-m", str(MODEL), *SMALL]) == 0
    assert capfd.readouterr().out == "coral\n"


@pytest.mark.parametrize("leave", ["/exit", "/quit", "/bye"])
def test_a_chat_is_left_as_in_other_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leave: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"/?\n{leave}\n/nonsense\n".encode())))
    assert main(["-m", str(MODEL), *SMALL]) == 0


def test_the_system_prompt_can_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "system.txt").write_text(f"{ADA} coral.\n")
    done = piped(tmp_path, f"{ADA}\n/system\n", "-sysf", "system.txt")
    assert done.stdout == "coral\n"
    assert f"\n{ADA} coral.\n" in done.stderr


def test_a_system_prompt_that_is_too_long_for_the_sinks_says_so(tmp_path: Path) -> None:
    done = piped(tmp_path, "", "-sys", "The harbour was calm. " * 30)
    assert "of which the first 96 are never merged; raise --asymkv-budget to" in done.stderr


def test_the_stock_cache_chats_too(tmp_path: Path) -> None:
    done = piped(tmp_path, f"{ADA} coral. {ADA}\n/stats\n", "--no-asymkv")
    assert done.stdout == "coral\n"
    assert "15 tokens in the stock cache of 4,096" in done.stderr
    assert "memory:" not in done.stderr
    done = piped(tmp_path, "/cache\n", "--no-asymkv")
    assert done.returncode == 1
    assert "leave out --no-asymkv" in done.stderr


@pytest.mark.parametrize(
    ("text", "arguments", "code", "sentence"),
    [
        ("/foo\n", [], 1, "there is no command /foo; /help lists them"),
        (b"caf\xe9\n", [], 1, "line 1 of standard input is not UTF-8 text; convert it first"),
        ("There was fog. " * 100 + "\n", ["-c", "256"], 1, "tokens, and n_ctx is 256; raise it (-c"),
        ("", ["-n", "0"], 2, "-n 0 writes no answers; give 1 or more, or -1 for no limit"),
        ("", ["-sys", "a", "-sysf", "b"], 2, "give either -sys or -sysf, not both"),
        ("", ["-sysf", "no/such.txt"], 1, "text file no/such.txt cannot be read: No such file or directory"),
        ("", ["-m", "no/such.gguf"], 1, "model file no/such.gguf does not exist"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_sentence_and_an_exit_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    text: str | bytes,
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode() if isinstance(text, str) else text)))
    assert main(["-m", str(MODEL), *SMALL, *arguments]) == code
    captured = capfd.readouterr()
    assert captured.out == ""
    assert sentence in captured.err


def test_a_conversation_that_fills_n_ctx_says_what_to_do(tmp_path: Path) -> None:
    done = piped(tmp_path, "The train\n", "-c", "256", "-n", "-1")
    assert done.returncode == 0
    assert "n_ctx is full (256 tokens): raise it with -c, or /undo, or /clear" in done.stderr


def test_a_model_without_a_template_says_which_one_is_used(tmp_path: Path, tiny: Callable[[str], Path]) -> None:
    done = piped(tmp_path, "", "-m", tiny("llama"))
    assert "the model has no chat template; llama-2 is used, as llama-cpp-python does" in done.stderr


def test_without_arguments_the_help_is_shown(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "asymkv_gguf"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0
    assert "Talk to a model (the default command)" in done.stdout
