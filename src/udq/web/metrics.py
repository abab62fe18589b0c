"""Prometheus metrics: requests, searches, their latencies and queues."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_MILLISECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)


class Metrics:
    """Metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        """Start at zero."""
        self._registry = CollectorRegistry()
        own = self._registry
        self.requests = Counter("udq_requests_total", "Requests answered.", ("method", "route", "status"), registry=own)
        self.latency = Histogram(
            "udq_request_seconds", "From request to response.", ("route",), buckets=_SECONDS, registry=own
        )
        self.in_flight = Gauge("udq_requests_in_flight", "Requests in progress.", registry=own)
        self.searches = Counter("udq_searches_total", "Searches answered.", registry=own)
        self.refused = Counter(
            "udq_searches_refused_total", "Searches refused because the queue was full.", registry=own
        )
        self.encode = Histogram("udq_search_encode_ms", "Encoding the query.", buckets=_MILLISECONDS, registry=own)
        self.scan = Histogram("udq_search_scan_ms", "Ranking all photos.", buckets=_MILLISECONDS, registry=own)
        self.uploads = Counter("udq_uploads_total", "Photos uploaded.", registry=own)

    def add_gauge(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Add a metric whose value is computed whenever the metrics are requested."""
        Gauge(name, description, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)
