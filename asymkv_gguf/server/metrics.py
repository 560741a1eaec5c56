"""Prometheus metrics, in a registry of their own."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .slots import Pool
from .watched import Watch


class Metrics:
    """Counters of the requests; what the slots hold is read from them when asked."""

    def __init__(self, pool: Pool) -> None:
        self._registry = CollectorRegistry()
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody reads

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"asymkv_{name}", text, labels, registry=self._registry)

        self.requests = counter("requests", "Requests by route and HTTP status (499: the client left)", "route", "status")
        self._prompt = counter("prompt_tokens", "Tokens of prompts")
        self._cached = counter("prompt_tokens_cached", "Tokens of prompts that were in the cache already")
        self._reread = counter("prompt_tokens_reread", "Tokens read once more because the cache could not take back less")
        self._predicted = counter("completion_tokens", "Tokens written")
        self._prompt_seconds = counter("prompt_seconds", "Seconds that reading prompts took")
        self._predicted_seconds = counter("completion_seconds", "Seconds that writing answers took")
        self._stopped = counter("stopped_answers", "Answers that ended because the client left or the server stopped")
        self._registry.register(_Slots(pool))
        pool.on_finished = self.count

    def count(self, watch: Watch, stopped: bool) -> None:
        self._prompt.inc(watch.n_prompt)
        self._cached.inc(watch.n_cached)
        self._reread.inc(watch.n_reread)
        self._predicted.inc(watch.n_predicted)
        self._prompt_seconds.inc(max(watch.first - watch.started, 0.0))
        self._predicted_seconds.inc(max(watch.ended - watch.first, 0.0))
        self._stopped.inc(stopped)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Slots(Collector):
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        pool = self._pool
        yield GaugeMetricFamily("asymkv_slots", "Slots: contexts that answer one request at a time", len(pool.slots))
        yield GaugeMetricFamily("asymkv_slots_busy", "Slots that answer now", pool.n_busy)
        yield GaugeMetricFamily("asymkv_queue_length", "Requests that wait for a slot", pool.n_waiting)
        tokens = GaugeMetricFamily("asymkv_cache_tokens", "Tokens that a slot's cache stands for", labels=["slot"])
        for slot in pool.slots:
            tokens.add_metric([str(slot.index)], slot.snapshot.tokens)
        yield tokens
        checkpoints = GaugeMetricFamily("asymkv_checkpoint_bytes", "Bytes of a slot's checkpoints", labels=["slot"])
        for slot in pool.slots:
            checkpoints.add_metric([str(slot.index)], slot.snapshot.checkpoint_bytes)
        yield checkpoints
        for name, field, text in (
            ("cache_live", "slots", "Rows in use of a slot's merged cache"),
            ("cache_capacity", "capacity", "Rows of a slot's merged cache"),
            ("cache_bytes", "kv_bytes", "Bytes of keys and values of a slot's merged cache"),
        ):
            gauge = GaugeMetricFamily(f"asymkv_{name}", text, labels=["slot"])
            for slot in pool.slots:
                if slot.snapshot.stats is not None:
                    gauge.add_metric([str(slot.index)], getattr(slot.snapshot.stats, field))
            yield gauge
        for name, text in (
            ("compressions", "Times that a cache was compressed"),
            ("merges", "Merges of two rows, over layers and heads"),
            ("evictions", "Rows dropped, over layers and heads"),
            ("compress_seconds", "Seconds that compressions took"),
        ):
            yield CounterMetricFamily(f"asymkv_{name}", text, sum(slot.totals[name] for slot in pool.slots))
