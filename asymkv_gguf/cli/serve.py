"""`asymkv-gguf serve`: OpenAI's routes over several merged caches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..checkpoints import MAX_CHECKPOINTS
from ..preview import memory_needed
from .asymkv_options import asymkv_options
from .llama_options import llama_options, sampling_options, take_llama_arguments, take_sampling


@click.command(context_settings={"show_default": True}, short_help="Serve the model over HTTP, as OpenAI does, with a page.")
@llama_options
@click.option("-np", "--parallel", type=click.IntRange(1, 256), default=1, help="Slots: answers at the same time.")
@click.option("--queue", type=click.IntRange(min=0), default=64, metavar="N", help="Most requests that wait for a slot.")
@click.option(
    "--ctx-checkpoints",
    "checkpoints",
    type=click.IntRange(min=0),
    default=MAX_CHECKPOINTS,
    metavar="N",
    help="States kept per slot, so that edited turns are not read from the start.",
)
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, help="Port to listen on; 0: any free one.")
@click.option("--api-key", metavar="KEY", show_default=False, help="Key that clients must send.")
@click.option("--max-body-mib", type=click.FloatRange(0, min_open=True), default=64, metavar="N", help="Largest request.")
@click.option("--alias", metavar="NAME", help="The model's name for clients; default: the file's.")
@click.option("--chat-format", metavar="NAME", help="One of llama_cpp's chat formats, instead of the model's template.")
@sampling_options
@asymkv_options
def serve(**options: Any) -> None:
    """Serve the model over HTTP, as OpenAI does, and a page to chat on and to watch the cache.

    Every slot has a cache of --asymkv-budget slots of its own; the weights are shared. Sampling options hold for requests
    that say nothing else.
    """
    try:
        from ..server.process import bind
        from ..server.process import serve as run
        from ..server.prompts import chat_formats
        from ..server.settings import Settings, is_loopback
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"serve needs more packages ({error.name} is missing); install them with: pip install 'asymkv-gguf[server]'"
        ) from error
    parallel, queue, max_body_mib = options.pop("parallel"), options.pop("queue"), options.pop("max_body_mib")
    host, port, api_key = options.pop("host"), options.pop("port"), options.pop("api_key")
    alias, chat_format, verbose = options.pop("alias"), options.pop("chat_format"), options["verbose"]
    if api_key == "":
        raise click.UsageError("--api-key is empty; give a key, or leave it out")
    if chat_format is not None and chat_format not in chat_formats():
        raise click.UsageError(f"there is no chat format {chat_format!r}; there are {', '.join(chat_formats())}")
    if api_key is None and not is_loopback(host):
        click.echo(f"warning: everybody who can reach {host} can use this server; give --api-key KEY", err=True)
    arguments = take_llama_arguments(options)
    if parallel > 1 and "rpc_servers" in arguments:
        raise click.UsageError("--rpc works with one slot only; leave out -np, or --rpc")
    if chat_format is not None:
        arguments["chat_format"] = chat_format
    settings = Settings(
        llama=arguments,
        alias=alias or Path(arguments["model_path"]).stem,
        sampling=take_sampling(options),
        parallel=parallel,
        queue=queue,
        checkpoints=options.pop("checkpoints"),
        max_body_bytes=int(max_body_mib * (1 << 20)),
        api_key=api_key,
        host=host,
        verbose=verbose,
    )
    with bind(host, port) as listener:
        if arguments["asymkv"]:
            click.echo(f"memory: {_memory(arguments, parallel)}", err=True)
        run(settings, listener)


def _memory(arguments: dict[str, Any], parallel: int) -> str:
    needed = memory_needed(**arguments).notice()
    return needed if parallel == 1 else f"{needed}, for each of {parallel} contexts"
