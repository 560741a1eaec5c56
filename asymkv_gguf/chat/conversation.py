"""A conversation with a model, without any terminal: messages in, pieces of answers out, and turns that can be taken back."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import llama_cpp

from ..errors import SessionError
from ..llama import Llama
from ..session import Session, load_session, save_session
from ..tokens import common_prefix
from .prompt import Message, render
from .text_stream import TextStream
from .token_log import TokenLog


@dataclass
class Turn:
    """What one answer took."""

    n_prompt: int = 0  # tokens of the whole conversation up to the answer
    n_kept: int = 0  # of these, already in the cache
    n_reread: int = 0  # of the others, read before and lost in a cut
    n_written: int = 0
    read_seconds: float = 0.0
    write_seconds: float = 0.0  # from the first token on
    n_steps: int = 0  # tokens computed in that time, with the one that ends the answer
    finish_reason: str = ""  # stop, length, or stopped (by the user)

    @property
    def n_read(self) -> int:
        return self.n_prompt - self.n_kept


class Conversation:
    """Messages, and a model whose cache holds as much of them as can be kept.

    Every turn renders the whole conversation and reads only what follows the longest prefix that the cache holds. A prefix
    that ends in the recent window is cut exactly; otherwise `Llama` goes back to a checkpoint, which each turn leaves.
    """

    def __init__(
        self,
        llm: Llama,
        *,
        system: str | None = None,
        sampling: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """`sampling`: temperature, top_k, top_p, min_p and seed, as llama_cpp names them."""
        self.llm = llm
        self.messages: list[Message] = []
        self.began = datetime.now()  # the date that the template tells, whenever the conversation goes on
        self.turn = Turn()
        #: called while a message is read, with how many tokens were read and how many there are
        self.on_progress: Callable[[int, int], None] | None = None
        #: called before tokens are read again, with how many they are and how many are kept
        self.on_reread: Callable[[int, int], None] | None = None
        self._sampling = dict(sampling or {})
        self._seed: int | None = self._sampling.pop("seed", None)
        self._sampling["temp"] = self._sampling.pop("temperature", 0.8)
        self._max_tokens = max_tokens
        self._log = TokenLog()
        self._stopped = False
        self._reading = False
        if system is not None:
            self.set_system(system)

    # what was said

    @property
    def system(self) -> str | None:
        return self.messages[0]["content"] if self.messages and self.messages[0]["role"] == "system" else None

    def set_system(self, text: str | None) -> None:
        """Put another system prompt in front; with the next message everything after it is read again."""
        spoken = self.messages[1:] if self.system is not None else self.messages
        messages = [*([] if text is None else [{"role": "system", "content": text}]), *spoken]
        render(self.llm, [*messages, {"role": "user", "content": ""}], self.began)  # some templates have no place for it
        self.messages = messages

    @property
    def n_turns(self) -> int:
        return sum(message["role"] == "assistant" for message in self.messages)

    def undo(self) -> str | None:
        """Take the last message and its answer back; returns the message, None if there is none."""
        if not self.n_turns:
            return None
        self._drop_answer()
        return self.messages.pop()["content"]

    def clear(self) -> None:
        """Forget all messages but the system prompt."""
        self.messages = self.messages[:1] if self.system is not None else []
        self.began = datetime.now()
        self._log = TokenLog()

    def _drop_answer(self) -> None:
        self.messages.pop()
        self._log.drop()

    # answers

    def say(self, text: str) -> Generator[str, None, None]:
        """The answer to a message, as it comes. If reading the message fails or is stopped, it is taken back."""
        self.messages.append({"role": "user", "content": text})
        yield from self._answer(on_failure=lambda: self.messages.pop())

    def regenerate(self) -> Generator[str, None, None]:
        """Another answer to the last message."""
        if not self.n_turns:
            raise ValueError("there is no answer yet that could be made again")
        answer, log = self.messages[-1], TokenLog.from_dict(self._log.as_dict())
        self._drop_answer()

        def restore() -> None:
            self.messages.append(answer)
            self._log = log

        yield from self._answer(on_failure=restore)

    def stop(self) -> None:
        """End the answer after the token that is being computed; may be called from a signal handler or another thread."""
        self._stopped = True

    def _answer(self, on_failure: Callable[[], Any]) -> Iterator[str]:
        self._stopped = False
        self.turn = Turn()
        stream = TextStream()
        try:
            prompt = self._log.spelled(render(self.llm, self.messages, self.began), self.llm)
            self._check_length(len(prompt.tokens))
            stream = TextStream(prompt.stop)
            written: list[int] = []
            yield from self._write(prompt.tokens, stream, written)
        except _Stopped:
            self.turn.finish_reason = "stopped"
        finally:
            if self.turn.n_written:
                self.messages.append({"role": "assistant", "content": stream.text})
                self._log.add(prompt, stream.text, written, stream.exact)
            elif not self.turn.finish_reason or self.turn.finish_reason == "stopped":
                on_failure()
            else:  # the model had nothing to say
                self.messages.append({"role": "assistant", "content": ""})
                self._log.add(prompt, "", (), True)

    def _write(self, tokens: list[int], stream: TextStream, written: list[int]) -> Iterator[str]:
        """Reads `tokens`, then yields text; tokens of the answer go to `written`."""
        llm, turn = self.llm, self.turn
        limit = llm.n_ctx() - len(tokens)
        if self._max_tokens is not None:
            limit = min(limit, self._max_tokens)
        llm.set_seed(self._next_seed())
        started = time.perf_counter()
        callbacks = llm.on_progress, llm.on_reread
        llm.on_progress, llm.on_reread = self._progress, self._reread
        generator = None
        try:
            self._reading = True
            self._read(tokens)
            generator = llm.generate(tokens, **self._sampling)
            for token in generator:
                if self._reading:
                    self._reading = False
                    turn.read_seconds = time.perf_counter() - started
                    started = time.perf_counter()
                else:
                    turn.n_steps += 1
                if llama_cpp.llama_vocab_is_eog(llm._model.vocab, token):
                    turn.finish_reason = "stop"
                    break
                written.append(token)
                turn.n_written += 1
                if piece := stream.push(llm.detokenize([token])):
                    yield piece
                if stream.stopped or self._stopped or turn.n_written >= limit:
                    turn.finish_reason = "stop" if stream.stopped else "stopped" if self._stopped else "length"
                    break
            if rest := stream.finish():
                yield rest
        finally:
            llm.on_progress, llm.on_reread = callbacks
            self._reading = False
            turn.write_seconds = time.perf_counter() - started if turn.n_written else 0.0
            if generator is not None:
                generator.close()

    def _read(self, tokens: list[int]) -> None:
        """Everything but the last token, so that there is a place to come back to for another answer."""
        llm, turn = self.llm, self.turn
        turn.n_prompt = len(tokens)
        if 0 < llm.n_tokens == common_prefix(llm.input_ids[: llm.n_tokens], tokens):
            llm.checkpoint()  # for /undo, once the answer has grown out of the recent window
        left = llm._reuse(tokens[:-1])
        turn.n_kept = llm.n_tokens
        llm.eval(left)
        if llm.asymkv is not None and len(left) > llm.asymkv.recent:
            llm.checkpoint()  # for another answer, without reading a long message again

    def _progress(self, done: int, total: int) -> None:
        if self._reading:
            if self._stopped:
                raise _Stopped
            if self.on_progress is not None:
                self.on_progress(done, total)

    def _reread(self, n_again: int, n_kept: int) -> None:
        self.turn.n_reread += n_again
        if self.on_reread is not None:
            self.on_reread(n_again, n_kept)

    def _check_length(self, n_tokens: int) -> None:
        n_ctx = self.llm.n_ctx()
        if n_tokens >= n_ctx:
            raise ValueError(
                f"the conversation would have {n_tokens:,} tokens, and n_ctx is {n_ctx:,}; raise it (-c; 0: what the model "
                "was trained for), take messages back (/undo), or begin anew (/clear)"
            )

    def _next_seed(self) -> int:
        """Answers differ from each other; with a seed, they are the same in every run."""
        if self._seed is None:
            return secrets.randbits(31)
        self._seed += 1
        return self._seed - 1

    # to go on tomorrow

    def save(self, path: str | Path) -> int:
        """Write messages and cache to a session file; returns its bytes."""
        extra = {"messages": self.messages, "began": self.began.isoformat(), "log": self._log.as_dict()}
        return save_session(self.llm, path, extra=extra)

    def load(self, path: str | Path) -> Session:
        """Go on where `save` was called; nothing is read again. SessionError if the session does not fit this model."""

        def take(session: Session) -> tuple[list[Message], datetime, TokenLog]:
            extra = session.extra
            if not extra:
                raise SessionError(f"session {path} holds a text, and no conversation; `run` without -st goes on with it")
            try:
                messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in extra["messages"]]
                return messages, datetime.fromisoformat(extra["began"]), TokenLog.from_dict(extra["log"])
            except (KeyError, TypeError, ValueError, IndexError):
                raise SessionError(f"session {path} holds no conversation; it was saved by another program") from None

        session = load_session(self.llm, path, check=take)
        self.messages, self.began, self._log = take(session)
        self.turn = Turn()
        return session


class _Stopped(Exception):  # noqa: N818  (no error)
    """stop() was called while a message was read."""
