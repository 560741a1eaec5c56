"""What can go wrong, one sentence each."""

from __future__ import annotations


class AsymKVError(RuntimeError):
    """The merged cache could not do what it was asked for."""


class ParameterError(AsymKVError, ValueError):
    """A parameter of the merged cache is out of range."""


class UnsupportedError(AsymKVError):
    """This model, or this use of it, cannot have a merged cache."""


class ModelFileError(ValueError):
    """The model file cannot be used: not GGUF, truncated, or of an unknown kind."""


class ModelNotFoundError(FileNotFoundError, ModelFileError):
    """There is no such model file."""
