"""asymkv-gguf: long texts through GGUF models in a KV cache of fixed size, whose old slots are merged (AsymKV).

    from asymkv_gguf import Llama

    llm = Llama("model.gguf", asymkv=True)

Importing this package loads its libllama in the place of llama_cpp's own, so it must come before `import llama_cpp`.
"""

from importlib.metadata import PackageNotFoundError, version

from .config import AsymKVConfig
from .errors import AsymKVError, ModelFileError, ModelNotFoundError, ParameterError, UnsupportedError
from .native import loader as _loader

_loader.load()

from .llama import Llama  # noqa: E402  (needs the library)
from .stats import AsymKVStats  # noqa: E402

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
    "UnsupportedError",
    "__version__",
]
