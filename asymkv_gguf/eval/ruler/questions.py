"""The user's documents, and the questions about them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...text_file import read_text_file


@dataclass(frozen=True)
class Document:
    """A text, and the name that questions give it."""

    name: str
    text: str


@dataclass(frozen=True)
class Question:
    """A question about one document; any of the answers is right."""

    text: str
    answers: tuple[str, ...]
    document: Document


def read_documents(files: Sequence[str]) -> list[Document]:
    """One document for each file, named as the file."""
    documents: dict[str, Document] = {}
    for file in files:
        name = Path(file).name
        if name in documents:
            raise ValueError(f"two documents are called {name}; rename one of them")
        text = read_text_file(file).strip()
        if not text:
            raise ValueError(f"the document {file} is empty; leave it out")
        documents[name] = Document(name, text)
    return list(documents.values())


def read_questions(file: str, documents: Sequence[Document]) -> list[Question]:
    """From a JSON Lines file: `question`, `answers` (a string or a list), and `document` (the name of one) or `context` (its
    text). With a single document, neither is needed."""
    by_name = {document.name: document for document in documents}
    by_text = {document.text: document for document in documents}
    questions = []
    for number, line in enumerate(read_text_file(file).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        fields = _json_object(line, where)
        question = _string(fields, "question", where)
        answers = fields.get("answers", fields.get("answer"))
        answers = [answers] if isinstance(answers, str) else answers
        if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
            raise ValueError(f"{where}: 'answers' must be a string or a list of strings, none of them empty")
        if "context" in fields:
            text = _string(fields, "context", where).strip()
            document = by_text.setdefault(text, Document(f"line {number}", text))
        elif "document" in fields:
            name = _string(fields, "document", where)
            if name not in by_name:
                known = ", ".join(by_name) or "none (give them with -f)"
                raise ValueError(f"{where}: there is no document {name!r}; there are {known}")
            document = by_name[name]
        elif len(documents) == 1:
            document = documents[0]
        else:
            raise ValueError(f"{where}: 'document' (the name of a file given with -f) or 'context' (a text) is missing")
        questions.append(Question(question, tuple(answers), document))
    if not questions:
        raise ValueError(f"{file} has no questions; give one JSON object with question and answers a line")
    return questions


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{where} is not a JSON object")
    return fields


def _string(fields: dict[str, Any], name: str, where: str) -> str:
    if name not in fields:
        raise ValueError(f"{where}: {name!r} is missing")
    value = fields[name]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: {name!r} must be a string that is not empty")
    return value
