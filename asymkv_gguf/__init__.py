"""asymkv-gguf: long texts through GGUF models in a KV cache of fixed size, whose old slots are merged (AsymKV).

    from asymkv_gguf import Llama

    llm = Llama("model.gguf", asymkv=True)

Importing this package loads its libllama in the place of llama_cpp's own, so it must come before `import llama_cpp`.
"""

from importlib.metadata import PackageNotFoundError, version

from .config import AsymKVConfig
from .errors import (
    AsymKVError,
    ModelFileError,
    ModelNotFoundError,
    ParameterError,
    RpcError,
    SessionError,
    UnsupportedError,
)
from .native import loader as _loader

try:
    _loader.load()

    from .llama import Llama  # needs the library
    from .session import Session, load_session, save_session
    from .stats import AsymKVStats
except ImportError:
    # the command says it in one sentence, and `asymkv-gguf doctor` looks for more
    if not _loader.is_command():
        raise
except KeyboardInterrupt:
    # Ctrl-C while the command starts
    if not _loader.is_command():
        raise
    raise SystemExit(130) from None

try:
    __version__ = version("asymkv-gguf")
except PackageNotFoundError:  # built, but not installed
    __version__ = "0+unknown"

__all__ = [
    "AsymKVConfig",
    "AsymKVError",
    "AsymKVStats",
    "Llama",
    "ModelFileError",
    "ModelNotFoundError",
    "ParameterError",
    "RpcError",
    "Session",
    "SessionError",
    "UnsupportedError",
    "__version__",
    "load_session",
    "save_session",
]
