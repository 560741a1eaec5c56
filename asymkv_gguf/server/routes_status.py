"""How the server is: health, metrics, and the slots' caches."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from ..errors import RpcError
from .errors import ApiError
from .slots import Slot
from .state import state_of
from .watched import WatchedLlama

router = APIRouter()


@router.api_route("/health", methods=["GET", "HEAD"])
async def health(request: Request) -> JSONResponse:
    pool, llm = state_of(request).pool, state_of(request).llm
    state = {"slots": len(pool.slots), "busy": pool.n_busy, "queue": pool.n_waiting}
    if pool.stopping:
        return JSONResponse({"status": "stopping", **state}, 503)
    try:
        llm.check_workers()
    except RpcError as error:
        return JSONResponse({"status": "failed", "message": str(error), **state}, 503)
    return JSONResponse({"status": "ok", **state})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    return Response(state_of(request).metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get("/asymkv/slots")
async def slots(request: Request) -> dict[str, Any]:
    return {"slots": [_described(slot) for slot in state_of(request).pool.slots]}


@router.get("/asymkv/slots/{index}")
async def one_slot(request: Request, index: int, layer: int = 0, group: int = 0) -> dict[str, Any]:
    all_slots = state_of(request).pool.slots
    if not 0 <= index < len(all_slots):
        raise ApiError(404, f"there is no slot {index}; there are {len(all_slots)}, from 0", param="index")
    slot = all_slots[index]
    stats = slot.snapshot.stats
    if stats is None:
        raise ApiError(400, "the server runs with --no-asymkv: a stock cache has no merged slots to show")
    for name, value, count in (("layer", layer, stats.layers), ("group", group, stats.groups)):
        if not 0 <= value < count:
            raise ApiError(400, f"there is no {name} {value}; there are {count}, from 0", param=name)

    def look(llm: WatchedLlama) -> Any:
        return llm.asymkv_slots(layer, group)

    table = await slot.ask(look)
    columns = {name: table[name].tolist() for name in ("position", "first", "last", "cardinality", "score")}
    return {"layer": layer, "group": group, "n_layers": stats.layers, "n_groups": stats.groups, **columns}


def _described(slot: Slot) -> dict[str, Any]:
    snapshot, stats = slot.snapshot, slot.snapshot.stats
    found = {
        "id": slot.index,
        "busy": slot.busy,
        "tokens": snapshot.tokens,
        "checkpoints": snapshot.checkpoints,
        "checkpoint_bytes": snapshot.checkpoint_bytes,
    }
    if stats is None:
        n_ctx = slot.llm.n_ctx()
        zeros = dict.fromkeys(("layers", "groups", "kv_bytes", "stock_kv_bytes", "compressions", "merges", "evictions"), 0)
        return {**found, "live": snapshot.tokens, "capacity": n_ctx, "budget": n_ctx, **zeros}
    names = ("capacity", "budget", "layers", "groups", "kv_bytes", "stock_kv_bytes", "compressions", "merges", "evictions")
    return {**found, "live": stats.slots, **{name: getattr(stats, name) for name in names}}
