"""What Urabrask tells about its work: instruments for Prometheus, events and sheets for the bus."""

from __future__ import annotations

from typing import Final, Protocol

from google.protobuf.message import Message

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock, to_timestamp
from esper_core.errors import EsperError
from esper_core.logs import get_logger
from esper_core.telemetry import Instruments
from urabrask.sheets import band_name

_log = get_logger("urabrask")
_LEVELS: Final = {
    leyline.HAZARD_BAND_LOW: leyline.TELEMETRY_LEVEL_INFO,
    leyline.HAZARD_BAND_MEDIUM: leyline.TELEMETRY_LEVEL_INFO,
    leyline.HAZARD_BAND_HIGH: leyline.TELEMETRY_LEVEL_WARNING,
    leyline.HAZARD_BAND_CRITICAL: leyline.TELEMETRY_LEVEL_ERROR,
}


class Posting(Protocol):
    """Where messages go that nobody waits for; the bus is one."""

    def post(self, message_type: int, payload: Message, priority: int) -> str:
        """Hand over a message."""


class EventSink(Protocol):
    """Where events go; the telemetry emitter is one."""

    def event(
        self,
        name: str,
        level: leyline.TelemetryLevel.ValueType,
        description: str,
        *,
        run_id: str = "",
        **attributes: object,
    ) -> None:
        """Take an event."""


class Teller:
    """Tells what happens; nothing here waits or fails the work.

    Parameters
    ----------
    instruments : Instruments
        For Prometheus.
    events : EventSink
        For events.
    bus : Posting
        For sheets, failures and benchmarks.
    clock : Clock
        Source of time.
    """

    def __init__(
        self, instruments: Instruments, events: EventSink, bus: Posting, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._instruments = instruments
        self._events = events
        self._bus = bus
        self._clock = clock

    def sheet_issued(self, sheet: leyline.Bsds) -> None:
        """Tell that a sheet was issued."""
        band = band_name(sheet)
        self._instruments.count("urabrask.bsds.issued_total", hazard_band=band)
        for hazard in sheet.hazards:
            self._instruments.count("urabrask.hazards_total", hazard=hazard.name)
        found = ", ".join(hazard.name for hazard in sheet.hazards) or "no hazards"
        sentence = f"{sheet.blueprint_id} was assessed as {band}: {found}."
        attributes = {"blueprint_id": sheet.blueprint_id, "kernel_digest": sheet.kernel_digest, "hazard_band": band}
        self._events.event("bsds_issued", _LEVELS[sheet.hazard_band], sentence, **attributes)
        self._post(leyline.BUS_MESSAGE_TYPE_BSDS_ISSUED, sheet)

    def assessment_failed(self, blueprint_id: str, error: EsperError) -> None:
        """Tell that no sheet could be written."""
        self._instruments.count("urabrask.bsds.failed_total", reason=error.code)
        self._events.event(
            "bsds_failed",
            leyline.TELEMETRY_LEVEL_ERROR,
            f"{blueprint_id} could not be assessed: {error.message}",
            blueprint_id=blueprint_id,
            code=error.code,
        )
        failure = leyline.BsdsFailure(
            blueprint_id=blueprint_id,
            error_code=error.code,
            message=error.message,
            occurred_at=to_timestamp(self._clock.wall()),
        )
        self._post(leyline.BUS_MESSAGE_TYPE_BSDS_FAILED, failure)

    def trial_stopped(self, hazard: str) -> None:
        """Tell that a trial broke a limit."""
        self._instruments.count("urabrask.trials.stopped_total", hazard=hazard)

    def benchmarked(self, benchmark: leyline.BlueprintBenchmark) -> None:
        """Tell measured speed."""
        self._post(leyline.BUS_MESSAGE_TYPE_BENCHMARK_REPORT, benchmark)

    def kernel(self, result: str) -> None:
        """Tell how a request for a kernel ended: `made`, `known`, `refused` or `failed`."""
        self._instruments.count("urabrask.kernels_total", result=result)

    def built(self, milliseconds: float) -> None:
        """Tell how long making a kernel took."""
        self._instruments.observe("urabrask.kernel.build_ms", milliseconds)

    def assessed(self, milliseconds: float) -> None:
        """Tell how long a trial took."""
        self._instruments.observe("urabrask.assessment.latency_ms", milliseconds)

    def _post(self, message_type: int, payload: Message) -> None:
        try:
            self._bus.post(message_type, payload, leyline.MESSAGE_PRIORITY_NORMAL)
        except EsperError as error:
            _log.warning("a message found no room on the bus", code=error.code, reason=error.message)
