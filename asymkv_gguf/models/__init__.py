"""Models of the Hugging Face hub: named `user/repo[:quant]`, kept in huggingface_hub's own cache."""

from .name import ModelName
from .resolve import local_files, local_path

__all__ = ["ModelName", "local_files", "local_path"]
