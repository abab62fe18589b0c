"""What Prometheus is told: requests, searches, how long they take and how many wait."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_MILLISECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)


class Metrics:
    """Counts of one server."""

    def __init__(self) -> None:
        """Begin at zero."""
        self._registry = CollectorRegistry()
        own = self._registry
        self.requests = Counter("udq_requests_total", "Requests answered.", ("method", "route", "status"), registry=own)
        self.latency = Histogram(
            "udq_request_seconds", "From request to answer.", ("route",), buckets=_SECONDS, registry=own
        )
        self.in_flight = Gauge("udq_requests_in_flight", "Requests that wait for their answer.", registry=own)
        self.searches = Counter("udq_searches_total", "Searches answered.", registry=own)
        self.refused = Counter("udq_searches_refused_total", "Searches refused because too many waited.", registry=own)
        self.encode = Histogram("udq_search_encode_ms", "Encoding the query.", buckets=_MILLISECONDS, registry=own)
        self.scan = Histogram("udq_search_scan_ms", "Ranking all photos.", buckets=_MILLISECONDS, registry=own)
        self.uploads = Counter("udq_uploads_total", "Photos taken in.", registry=own)

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Tell a number that is asked for when it is told."""
        Gauge(name, what, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """Return all of it in Prometheus's text format."""
        return generate_latest(self._registry)
