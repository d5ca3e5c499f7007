"""What a server counts, for Prometheus: requests by model and status, times, batches, what waits."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from edgecv_runtime import __version__
from edgecv_runtime.errors import Unavailable

_BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters that are written as requests are answered, and gauges that are asked when they are read."""

    def __init__(self) -> None:
        """Raises Unavailable without prometheus-client."""
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
        except ImportError as exc:
            raise Unavailable("metrics need prometheus-client", extra="serve") from exc
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("edgecv", "What runs.", registry=registry).info({"version": __version__})
        of_model = ("model", "version")
        self._requests = Counter(
            "edgecv_serve_requests", "Requests by their status of HTTP.", (*of_model, "status"), registry=registry
        )
        self._seconds = Histogram(
            "edgecv_serve_request_seconds", "From the headers to the answer, of those that were answered.", of_model,
            buckets=_BOUNDS_S, registry=registry,
        )  # fmt: skip
        self._calls = Histogram(
            "edgecv_serve_inference_seconds", "Calls of a model.", of_model, buckets=_BOUNDS_S, registry=registry
        )
        self._rows = Histogram(
            "edgecv_serve_inference_rows", "Rows of a call of a model.", of_model, buckets=_ROWS, registry=registry
        )
        self._count, self._time = cache(self._requests.labels), cache(self._seconds.labels)
        self._inside = Gauge("edgecv_serve_inside", "Requests that wait or are computed.", of_model, registry=registry)
        self._held = Gauge("edgecv_serve_body_bytes", "Bytes of bodies that are held.", registry=registry)

    def held(self, count: Callable[[], float]) -> None:
        """Where the bytes of bodies are asked for."""
        self._held.set_function(count)

    def inside(self, name: str, version: str, count: Callable[[], float]) -> None:
        """Where a model's requests are asked for."""
        self._inside.labels(name, version).set_function(count)

    def answered(self, name: str, version: str, status: int, seconds: float) -> None:
        """A request was answered, or refused."""
        self._count(name, version, status).inc()
        if status == 200:
            self._time(name, version).observe(seconds)

    def ran(self, name: str, version: str) -> Callable[[int, float], None]:
        """What is told of each call of a model: rows and seconds."""
        calls, sizes = self._calls.labels(name, version), self._rows.labels(name, version)

        def note(rows: int, seconds: float) -> None:
            calls.observe(seconds)
            sizes.observe(rows)

        return note

    def counts(self) -> list[dict[str, object]]:
        """How many requests there were, by model, version and status."""
        samples = [sample for family in self._requests.collect() for sample in family.samples]
        return [
            {**sample.labels, "requests": int(sample.value)} for sample in samples if sample.name.endswith("_total")
        ]

    def text(self) -> bytes:
        """All of them in Prometheus' text format 0.0.4."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)
