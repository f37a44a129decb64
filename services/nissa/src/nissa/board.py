"""The metric board: the last value of every series that came over the bus, shown to Prometheus under its old name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from threading import Lock

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from esper_core.telemetry import CATALOG, MetricDefinition

SOURCE_LABEL = "source"


@dataclass(frozen=True, slots=True)
class Sample:
    """The last value of one series.

    Parameters
    ----------
    definition : MetricDefinition
        What it is.
    source : str
        Service that told it.
    labels : tuple[str, ...]
        Values of the definition's labels.
    value : float
        The value.
    updated_at : datetime
        Wall time.
    """

    definition: MetricDefinition
    source: str
    labels: tuple[str, ...]
    value: float
    updated_at: datetime


class MetricBoard(Collector):
    """Keeps the last value of every series, up to a bound.

    Parameters
    ----------
    max_series : int
        Most series that are kept; further ones are counted as refused.
    """

    def __init__(self, max_series: int) -> None:
        self._max_series = max_series
        self._samples: dict[tuple[str, str, tuple[str, ...]], Sample] = {}
        self._refused = 0
        self._lock = Lock()

    @property
    def refused(self) -> int:
        """Values that were not kept: an unknown metric, or one series too many."""
        return self._refused

    def put(self, name: str, source: str, attributes: dict[str, str], value: float, at: datetime) -> bool:
        """Keep a value; return False when it is refused."""
        definition = CATALOG.get(name)
        if definition is None:
            self._refused += 1
            return False
        labels = tuple(attributes.get(label, "") for label in definition.labels)
        key = (name, source, labels)
        with self._lock:
            if key not in self._samples and len(self._samples) >= self._max_series:
                self._refused += 1
                return False
            self._samples[key] = Sample(definition, source, labels, value, at)
        return True

    def samples(self, prefix: str = "", source: str = "") -> list[Sample]:
        """Return the kept values, sorted by name and source."""
        with self._lock:
            kept = sorted(self._samples.items())
        return [sample for (name, told_by, _), sample in kept if name.startswith(prefix) and source in ("", told_by)]

    def collect(self) -> Iterator[Metric]:
        """Yield one metric family for each name, for a Prometheus scrape."""
        families: dict[str, list[Sample]] = {}
        for sample in self.samples():
            families.setdefault(sample.definition.name, []).append(sample)
        for samples in families.values():
            yield _family(samples)


def _family(samples: Iterable[Sample]) -> Metric:
    rows = list(samples)
    definition = rows[0].definition
    names = [label for label in definition.labels if label != SOURCE_LABEL]
    kind = CounterMetricFamily if definition.kind == "counter" else GaugeMetricFamily
    family: Metric = kind(definition.prometheus_name, definition.help, labels=[*names, SOURCE_LABEL])
    for sample in rows:
        told = dict(zip(definition.labels, sample.labels, strict=True))
        family.add_metric([*(told[name] for name in names), told.get(SOURCE_LABEL) or sample.source], sample.value)  # type: ignore[attr-defined]
    return family
