"""What a metric is: one definition, from which its points, its Prometheus name and its documentation follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """One metric.

    Attributes
    ----------
    name : str
        Dotted name that starts with the service: `kasmina.seeds.active`.
    unit : str
        Unit of the value, `1` where it has none.
    kind : {"counter", "gauge", "histogram"}
        Counters end in `_total`; their points carry the total since the process started.
    help : str
        One sentence.
    labels : tuple of str
        Bounded labels; never the id of a run or seed.
    prometheus : str
        Name in Prometheus where it is not simply the dotted name with underscores.
    """

    name: str
    unit: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    prometheus: str = ""

    @property
    def prometheus_name(self) -> str:
        """Name under which Prometheus shows it."""
        return self.prometheus or self.name.replace(".", "_")


def counter(name: str, help_text: str, *labels: str, prometheus: str = "") -> MetricDefinition:
    """Define a counter of things that happened."""
    return MetricDefinition(name, "1", "counter", help_text, labels, prometheus)


def gauge(name: str, unit: str, help_text: str, *labels: str) -> MetricDefinition:
    """Define a value that goes up and down."""
    return MetricDefinition(name, unit, "gauge", help_text, labels)


def histogram(name: str, unit: str, help_text: str, *labels: str) -> MetricDefinition:
    """Define a distribution, mostly of durations."""
    return MetricDefinition(name, unit, "histogram", help_text, labels)
