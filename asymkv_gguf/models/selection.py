"""Which files of a repository are a model, and which model is meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from ..errors import HubError
from ..stats import size_text
from .name import DEFAULT_QUANT, ModelName

File = TypeVar("File")

_SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})")  # as llama.cpp's gguf-split names the parts
_QUANT = re.compile(r"(?:^|[-._/ ])((?:UD[-_])?(?:I?Q\d+(?:_\w+)?|TQ\d_\d|B?F16|F32|(?:MX|NV)FP4(?:_\w+)?))(?=$|[-._/ ])", re.I)
# what belongs to a model, but is none: projectors of images, importance matrices, draft heads
_NO_MODELS: Final = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")


@dataclass(frozen=True)
class Model(Generic[File]):
    """One model of a repository: a GGUF, or all parts of a split one in their order."""

    quant: str  # or the file's name, if that names no quant
    path: str  # of the first part, in the repository
    files: tuple[File, ...]
    size: int
    n_parts: int = 1

    @property
    def is_whole(self) -> bool:
        return len(self.files) == self.n_parts


def models_of(files: Iterable[tuple[str, int, File]]) -> list[Model[File]]:
    """The models among a repository's files (path, size, what stands for the file), sorted by path.

    Parts that are not there are missing in the model's `files`, too.
    """
    parts: dict[tuple[str, int], dict[int, tuple[str, int, File]]] = {}
    for path, size, file in files:
        if not is_model_file(path):
            continue
        split = _SPLIT.fullmatch(path[: -len(".gguf")])
        key, index = ((split[1], int(split[3])), int(split[2])) if split else ((path[: -len(".gguf")], 1), 1)
        parts.setdefault(key, {})[index] = (path, size, file)
    models = []
    for (stem, n_parts), by_index in sorted(parts.items()):
        paths, sizes, ordered = zip(*(by_index[index] for index in sorted(by_index)), strict=True)
        models.append(Model(quant_of(stem), paths[0], ordered, sum(sizes), n_parts))
    return models


def newest_of(models: Iterable[Model[File]]) -> list[Model[File]]:
    """Of the same models in several commits, newest first: each once, from the newest that has it whole."""
    known: dict[str, Model[File]] = {}
    for model in models:
        if model.path not in known or (model.is_whole and not known[model.path].is_whole):
            known[model.path] = model
    return list(known.values())


def is_model_file(path: str) -> bool:
    name = path.rpartition("/")[2].lower()
    return name.endswith(".gguf") and not any(mark in name for mark in _NO_MODELS)


def quant_of(stem: str) -> str:
    """`Q4_K_M` of `dir/model-q4_k_m`; of a name without a quant, the directory's; else the name itself."""
    directory, _, name = stem.rpartition("/")
    for text in (name, directory):
        if found := _QUANT.findall(text):
            return str(found[-1]).upper()
    return name


def choose(name: ModelName, models: list[Model[File]], where: str) -> Model[File]:
    """The model that `name` means among those of `where` (the repository, or what is cached of it), if it is whole."""
    model = find(name, models, where)
    if not model.is_whole:
        raise HubError(f"{where} has only {len(model.files)} of the {model.n_parts} parts of {model.path}")
    return model


def find(name: ModelName, models: list[Model[File]], where: str) -> Model[File]:
    """As `choose`, whole or not."""
    if not models:
        raise HubError(f"{where} holds no GGUF model; look for a repository with GGUF files, often named ...-GGUF")
    found = _matches(name, models)
    if len(found) > 1:
        paths = ", ".join(model.path for model in found)
        raise HubError(f"{where} holds several models for {name}: {paths}; name one, as in {name.repo}:{found[0].path}")
    if not found:
        wanted = name.file or name.quant or DEFAULT_QUANT
        raise HubError(f"{where} has no {wanted}; it has {_listed(models)}; name one, as in {name.repo}:{models[0].quant}")
    return found[0]


def _matches(name: ModelName, models: list[Model[File]]) -> list[Model[File]]:
    if name.file is not None:
        return [model for model in models if name.file in part_paths(model)] or [
            model for model in models if name.file in {path.rpartition("/")[2] for path in part_paths(model)}
        ]
    wanted = (name.quant or DEFAULT_QUANT).casefold()
    found = [model for model in models if model.quant.casefold() == wanted]
    if not found:  # UD- marks the variant of one publisher; people leave it out
        found = [model for model in models if model.quant.casefold().removeprefix("ud-") == wanted]
    if not found and name.quant is None and len(models) == 1:
        return models
    return found


def part_paths(model: Model[File]) -> set[str]:
    """The paths of all parts, whether they are there or not."""
    split = _SPLIT.fullmatch(model.path[: -len(".gguf")])
    if split is None:
        return {model.path}
    return {f"{split[1]}-{index:05}-of-{split[3]}.gguf" for index in range(1, model.n_parts + 1)}


def _listed(models: list[Model[File]]) -> str:
    return ", ".join(f"{model.quant} ({size_text(model.size)})" for model in models)
