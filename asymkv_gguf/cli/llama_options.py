"""The options that open a model and sample from it, for every command that does; spelled as llama.cpp spells them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..cache_types import KV_TYPES
from ..config import AsymKVConfig
from ..rpc import parse_endpoints
from .asymkv_options import take_config
from .budget import config_for_bytes
from .model_source import take_model

F = TypeVar("F", bound=Callable[..., Any])

_LLAMA_OPTIONS = [
    click.option("-m", "--model", metavar="FILE", help="The GGUF file."),
    click.option("-hf", "--hf-repo", metavar="USER/REPO[:QUANT]", help="Instead: a model of the hub; QUANT: Q4_K_M."),
    click.option("-hff", "--hf-file", metavar="FILE", help="With -hf: the GGUF file, instead of QUANT."),
    click.option("-hft", "--hf-token", metavar="TOKEN", help="With -hf: access token; HF_TOKEN."),
    click.option("--offline", is_flag=True, help="With -hf: only what is in the cache."),
    click.option("-c", "--ctx-size", "n_ctx", type=click.IntRange(0, 2**31 - 256), default=0, help="Longest text; 0: trained."),
    click.option("-b", "--batch-size", "n_batch", type=click.IntRange(min=1), help="Tokens read at once."),
    click.option("-ub", "--ubatch-size", "n_ubatch", type=click.IntRange(min=1), help="Tokens computed at once."),
    click.option("-t", "--threads", "n_threads", type=click.IntRange(1, 512), help="CPU threads."),
    click.option("-tb", "--threads-batch", "n_threads_batch", type=click.IntRange(1, 512), help="While reading; as -t."),
    click.option("-ngl", "--gpu-layers", "n_gpu_layers", type=int, help="Layers on the GPU; -1: all, as with --rpc."),
    click.option("--rpc", "rpc_servers", metavar="HOST:PORT,...", help="RPC workers that compute layers, see rpc-worker."),
    click.option("-fa", "--flash-attn", type=click.Choice(["on", "off", "auto"]), default="auto", help="Flash attention."),
    click.option("-ctk", "--cache-type-k", "type_k", type=click.Choice(list(KV_TYPES)), default="f16", help="Keys."),
    click.option("-ctv", "--cache-type-v", "type_v", type=click.Choice(list(KV_TYPES)), default="f16", help="Values."),
    click.option("-v", "--verbose", is_flag=True, help="llama.cpp's own log on stderr."),
]  # fmt: skip

_SAMPLING_OPTIONS = [
    click.option("--temp", "temperature", type=click.FloatRange(min=0), default=0.8, help="Temperature; 0: greedy."),
    click.option("--top-k", type=click.IntRange(min=0), default=40, help="Most likely tokens considered; 0: all."),
    click.option("--top-p", type=click.FloatRange(0, 1), default=0.95, help="Probability mass considered."),
    click.option("--min-p", type=click.FloatRange(0, 1), default=0.05, help="Least probability, relative to the best."),
    click.option("-s", "--seed", type=int, default=-1, help="Seed; -1: random."),
]


def llama_options(function: F) -> F:
    """What `take_llama_arguments` takes."""
    for option in reversed(_LLAMA_OPTIONS):
        function = option(function)
    return function


def sampling_options(function: F) -> F:
    """What `take_sampling` takes."""
    for option in reversed(_SAMPLING_OPTIONS):
        function = option(function)
    return function


def take_sampling(options: dict[str, Any]) -> dict[str, Any]:
    """Takes the sampling options, as the keywords of llama_cpp's create_completion."""
    sampling = {name: options.pop(name) for name in ("temperature", "top_k", "top_p", "min_p")}
    seed = options.pop("seed")
    return {**sampling, "seed": seed} if seed >= 0 else sampling


def take_llama_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Takes the options of `llama_options` and `asymkv_options`, as the keywords of `Llama`."""
    config, budget = take_config(options)
    n_batch = options.pop("n_batch")
    if config is not None and n_batch is not None and budget.n_bytes is None:
        try:
            config.check_batch(n_batch)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    model = take_model(options)
    types = {name: KV_TYPES[options.pop(name)] for name in ("type_k", "type_v")}
    flash_attn = options.pop("flash_attn") != "off"
    if config is not None and budget.n_bytes is not None:
        config = config_for_bytes(config, budget.n_bytes, model, n_batch, flash_attn=flash_attn, **types)
    given = {"n_batch": n_batch, **{name: options.pop(name) for name in ("n_ubatch", "n_threads", "n_threads_batch")}}
    given["n_threads_batch"] = given["n_threads_batch"] or given["n_threads"]
    asymkv: AsymKVConfig | bool = config if config is not None else False
    return {
        "model_path": model,
        "asymkv": asymkv,
        "n_ctx": options.pop("n_ctx"),
        **take_devices(options),
        "flash_attn": flash_attn,
        "verbose": options.pop("verbose"),
        **types,
        **{name: value for name, value in given.items() if value is not None},
    }


def take_devices(options: dict[str, Any]) -> dict[str, Any]:
    """Takes -ngl and --rpc."""
    n_gpu_layers, servers = options.pop("n_gpu_layers"), options.pop("rpc_servers")
    devices = {} if n_gpu_layers is None else {"n_gpu_layers": n_gpu_layers}
    if servers is None:
        return devices
    if n_gpu_layers == 0:
        raise click.UsageError("-ngl 0 leaves nothing to the workers of --rpc; leave it out, or give the number of layers")
    try:
        return {**devices, "rpc_servers": parse_endpoints(servers)}
    except ValueError as error:
        raise click.UsageError(str(error)) from error
