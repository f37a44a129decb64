"""Telemetry: one catalogue of metrics, one builder of packets, one emitter per process."""

from esper_core.telemetry.builder import (
    PRIORITY_OF_LEVEL,
    TelemetryBuilder,
    make_event,
    priority_of,
)
from esper_core.telemetry.catalog import CATALOG, definition_of
from esper_core.telemetry.definition import MetricDefinition, counter, gauge, histogram
from esper_core.telemetry.emitter import Publish, TelemetryEmitter
from esper_core.telemetry.prometheus import Instruments

__all__ = [
    "CATALOG",
    "PRIORITY_OF_LEVEL",
    "Instruments",
    "MetricDefinition",
    "Publish",
    "TelemetryBuilder",
    "TelemetryEmitter",
    "counter",
    "definition_of",
    "gauge",
    "histogram",
    "make_event",
    "priority_of",
]
