"""What can go wrong, one sentence each."""

from __future__ import annotations


class AsymKVError(RuntimeError):
    """The merged cache could not do what it was asked for."""


class ParameterError(AsymKVError, ValueError):
    """A parameter of the merged cache is out of range."""


class UnsupportedError(AsymKVError):
    """This model, or this use of it, cannot have a merged cache."""


class RpcError(AsymKVError):
    """An RPC worker cannot be reached, speaks another protocol, or went away."""


class ModelFileError(ValueError):
    """The model file cannot be used: not GGUF, truncated, or of an unknown kind."""


class ModelNotFoundError(FileNotFoundError, ModelFileError):
    """There is no such model file."""


class HubError(RuntimeError):
    """A model could not be had from the hub, or is not in its cache."""


class HubUnreachableError(HubError):
    """The hub did not answer; what is in the cache can still be used."""


class SessionError(AsymKVError):
    """A session could not be saved or resumed; file and context are as they were before."""
