"""Sixteen clients at once, for as long as you like, some of which vanish: nothing lost, nothing mixed, the server alive.

    python scripts/clients.py [--seconds 600] [--clients 16] [--slots 4] [--seed 0]

Starts `asymkv-gguf serve` with the packaged model. Every client reads documents of its own and asks for their facts, as chat or
as completion, streamed or not; one in four requests is left in the middle: after the first event, or before the answer. At the
end: requests, right answers, the server's memory after a minute and at the end. A mixed cache would answer of another text, so
each question that was answered with a code that its text does not have is asked again in peace, also behind each beginning of
its text (where a client left decides when the rest is compressed): the model says it again, or it came from elsewhere. Ends
with 1 if a request failed, if fewer than four of five answers are right, if a code came from elsewhere, if slots or queue are
not free again, or if the server's memory grew by more than 5 % after the first minute (only looked at if there were two).
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import httpx
from server_process import SMALL, Server

from asymkv_gguf import recall

MOST_GROWTH, WARM_SECONDS = 0.05, 60.0
LEAST_RIGHT = 0.8
DOCUMENT_TOKENS = 600


class Client:
    """One client: its own documents, one after the other."""

    def __init__(self, server: Server, seed: int) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.problems: list[str] = []
        self.foreign: list[tuple[recall.Document, str, dict[str, object], str]] = []  # its path, body and answer
        self._server, self._rng = server, random.Random(seed)
        self._seed = seed

    def run(self, until: float) -> None:
        with self._server.http() as http:
            number = 0
            while time.monotonic() < until:
                document = recall.make_document(self._seed * 100_000 + number, tokens=DOCUMENT_TOKENS, facts=4, mentioned=2)
                number += 1
                for question in document.questions:
                    if time.monotonic() >= until:
                        return
                    self._ask(http, document, question)

    def _ask(self, http: httpx.Client, document: recall.Document, question: recall.Question) -> None:
        codes = {fact.code for fact in (*document.facts, *document.mentioned)}
        text = document.text + question.prompt
        chat, stream, leave = self._rng.random() < 0.3, self._rng.random() < 0.5, self._rng.random() < 0.25
        body: dict[str, object] = {"max_tokens": 1, "temperature": 0, "stream": stream}
        body |= {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
        path = "/v1/chat/completions" if chat else "/v1/completions"
        self.counts["requests"] += 1
        try:
            if leave and stream:
                with http.stream("POST", path, json={**body, "max_tokens": 50}) as answer:
                    next(answer.iter_lines(), None)
                self.counts["left"] += 1
                return
            if leave:
                try:
                    http.post(path, json=body, timeout=0.02)
                except httpx.TimeoutException:
                    self.counts["left"] += 1
                return
            if stream:
                with http.stream("POST", path, json=body) as answer:
                    answer.raise_for_status()
                    word = _streamed(answer)
            else:
                found = http.post(path, json=body)
                found.raise_for_status()
                word = _whole(found)
        except httpx.HTTPError as error:
            self.problems.append(f"{path}: {type(error).__name__}: {error}")
            return
        word = word.strip()
        self.counts["asked"] += 1
        self.counts["right"] += word == question.answer
        if word in recall.CODES and word not in codes:
            self.counts["a code that the text does not have"] += 1
            self.foreign.append((document, path, {**body, "stream": False}, word))


def _whole(answer: httpx.Response) -> str:
    choice = answer.json()["choices"][0]
    text: str = choice["message"]["content"] if "message" in choice else choice["text"]
    return text


def _streamed(answer: httpx.Response) -> str:
    text = ""
    for line in answer.iter_lines():
        if line.startswith("data: {"):
            choice = json.loads(line[6:])["choices"][0]
            text += choice.get("text") or choice.get("delta", {}).get("content") or ""
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with Server(*SMALL, "-np", options.slots) as server:
        return together(server, options)


def together(server: Server, options: argparse.Namespace) -> int:
    until = time.monotonic() + options.seconds
    clients = [Client(server, options.seed + number) for number in range(options.clients)]
    threads = [threading.Thread(target=client.run, args=(until,)) for client in clients]
    for thread in threads:
        thread.start()
    time.sleep(min(WARM_SECONDS, options.seconds / 2))
    warm = rss_mib(server)
    for thread in threads:
        thread.join()
    counts = sum((client.counts for client in clients), collections.Counter[str]())
    problems = [problem for client in clients for problem in client.problems]
    print(f"{options.clients} clients, {options.slots} slots, {options.seconds:g} s: {dict(counts)}")
    free = {"status": "ok", "slots": options.slots, "busy": 0, "queue": 0}
    with server.http() as http:
        health = http.get("/health").json()
        for _ in range(100):  # answers that nobody waits for end after the token that is being computed
            if health == free:
                break
            time.sleep(0.1)
            health = http.get("/health").json()
    end = rss_mib(server)
    print(f"memory of the server: {warm:.1f} MiB, at the end {end:.1f} MiB; {health}")
    if health != free:
        problems.append(f"the server is not free again: {health}")
    foreign = [asked for client in clients for asked in client.foreign]
    n_again = 0
    with server.http() as http:
        for document, path, body, word in foreign:
            answers = in_peace(http, document, path, body, options.slots)
            n_again += word in answers
            if word not in answers:
                problems.append(f"{word!r} is not in the text, and in peace the answer is one of {sorted(answers)}")
    print(f"codes that the text does not have: {len(foreign)}, of which the model says again in peace: {n_again}")
    if options.seconds >= 2 * WARM_SECONDS and end > warm * (1 + MOST_GROWTH):
        problems.append(f"the server's memory grew from {warm:.1f} to {end:.1f} MiB")
    if counts["right"] < LEAST_RIGHT * counts["asked"] or not counts["asked"]:
        problems.append(f"{counts['right']} of {counts['asked']} answers are right")
    for problem in problems[:20]:
        print(f"FAILED: {problem}")
    return 1 if problems else 0


def in_peace(http: httpx.Client, document: recall.Document, path: str, body: dict[str, object], n_slots: int) -> set[str]:
    """What is answered after another text, and after each beginning of this one."""
    other = recall.make_document(0, tokens=DOCUMENT_TOKENS).text
    words = document.text.split(" ")
    answers = set()
    for n_words in range(0, len(words), 10):
        for slot in range(n_slots):
            http.post("/v1/completions", json={"prompt": f"{slot}{other}", "max_tokens": 1})
        if n_words > 0:
            http.post("/v1/completions", json={"prompt": " ".join(words[:n_words]), "max_tokens": 1})
        answers.add(_whole(http.post(path, json=body)).strip())
    return answers


def rss_mib(server: Server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024


if __name__ == "__main__":
    sys.exit(main())
