"""Errors of a model's own chat template, which llama_cpp renders in jinja2's sandbox, as one sentence."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

import jinja2

from .errors import ModelFileError


@contextlib.contextmanager
def template_errors(model_path: object) -> Iterator[None]:
    """Whatever the template raises becomes ValueError; ModelFileError where it is no template at all."""
    try:
        yield
    except jinja2.TemplateSyntaxError as error:
        raise ModelFileError(f"the chat template of {model_path} is damaged: {error.message}") from error
    except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError) as error:
        if not isinstance(error, jinja2.TemplateError) and not _comes_from_template(error):
            raise
        raise ValueError(f"the chat template of {model_path} cannot spell this conversation: {_text(error)}") from error


def _comes_from_template(error: Exception) -> bool:
    """jinja2 puts the template's own lines into the traceback."""
    return any(frame.f_code.co_filename == "<template>" for frame, _ in traceback.walk_tb(error.__traceback__))


def _text(error: Exception) -> str:
    if isinstance(error, jinja2.TemplateNotFound):
        return f"it wants another template, {error.name}"
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) and error.args else str(error)
