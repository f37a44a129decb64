"""Prometheus instruments made from the catalogue, so that a service's scrape shows the documented names."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any, Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from esper_core.telemetry.catalog import definition_of
from esper_core.telemetry.definition import Kind, MetricDefinition

_MILLISECOND_BUCKETS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 12000, 30000)
_BYTE_BUCKETS: Final = (64, 280, 1024, 4096, 16384, 65536, 262144, 1048576)
_PLAIN_BUCKETS: Final = (0.01, 0.1, 0.25, 0.5, 0.75, 1, 2, 5, 10, 100, 1000)


class Instruments:
    """Records values under catalogued names in one Prometheus registry. Safe across threads.

    Parameters
    ----------
    registry : CollectorRegistry
        Where the instruments are registered on first use.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        self._lock = Lock()
        self._made: dict[str, Counter | Gauge | Histogram] = {}

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Raise a counter."""
        self._child(name, "counter", labels).inc(amount)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._child(name, "gauge", labels).set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add an observation to a histogram."""
        self._child(name, "histogram", labels).observe(value)

    def watch(self, name: str, read: Callable[[], float]) -> None:
        """Let a gauge without labels read its value at every scrape."""
        self._child(name, "gauge", {}).set_function(read)

    def _child(self, name: str, kind: Kind, labels: dict[str, str]) -> Any:
        definition = definition_of(name)
        if definition.kind != kind:
            raise TypeError(f"{name} is a {definition.kind}, not a {kind}")
        with self._lock:
            if name not in self._made:
                self._made[name] = _make(definition, self._registry)
        instrument = self._made[name]
        return instrument.labels(**labels) if definition.labels else instrument


def _make(definition: MetricDefinition, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    if definition.kind == "counter":
        return Counter(definition.prometheus_name, definition.help, definition.labels, registry=registry)
    if definition.kind == "gauge":
        return Gauge(definition.prometheus_name, definition.help, definition.labels, registry=registry)
    return Histogram(
        definition.prometheus_name, definition.help, definition.labels, registry=registry, buckets=_buckets(definition)
    )


def _buckets(definition: MetricDefinition) -> tuple[float, ...]:
    return {"ms": _MILLISECOND_BUCKETS, "By": _BYTE_BUCKETS}.get(definition.unit, _PLAIN_BUCKETS)
