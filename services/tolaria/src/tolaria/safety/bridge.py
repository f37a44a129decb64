"""What a run tells the orchestrator of its host through shared memory: its own emergencies and its deadlines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from esper_core import leyline
from esper_core.bridge import BridgeWriter, DeadlineNotice, shortened
from esper_core.clocks import to_timestamp
from esper_core.errors import EsperError
from esper_core.logs import get_logger
from esper_core.security import Keyring, MessageSigner
from tolaria.safety.alarm import Signal

LIFETIME_S: Final = 3600.0
_log = get_logger("bridge")


class SignalMaker:
    """Makes the signed signal of an emergency that the run itself raised.

    Parameters
    ----------
    keyring : Keyring
        Signs for the purpose `emergency`.
    run_id : str
        The run.
    """

    def __init__(self, keyring: Keyring, run_id: str) -> None:
        self._signer = MessageSigner(keyring, "emergency", window_s=LIFETIME_S)
        self._run_id = run_id

    def signal(self, raised: Signal) -> leyline.EmergencySignal:
        """Return the signal, signed."""
        message = leyline.EmergencySignal(
            version=1,
            signal_id=raised.signal_id,
            level=raised.level,
            reason=shortened(raised.reason),
            origin=raised.origin,
            training_run_id=self._run_id,
            triggered_at=to_timestamp(raised.triggered_at),
        )
        return self._signer.sign(message)


class Bridge:
    """The run's end of the bridge; a bridge that fails is told in the log and never ends a run.

    Parameters
    ----------
    folder : Path
        The bridge.
    run_id : str
        The run.
    maker : SignalMaker
        Makes signals.
    """

    def __init__(self, folder: Path, run_id: str, maker: SignalMaker) -> None:
        self._maker = maker
        self._writer: BridgeWriter | None = None
        try:
            self._writer = BridgeWriter(folder, run_id)
        except EsperError as error:
            _tell_failure(error)

    def emergency(self, raised: Signal) -> None:
        """Tell of an emergency that the run itself raised."""
        self._write(lambda writer: writer.emergency(self._maker.signal(raised)))

    def deadline(self, notice: DeadlineNotice) -> None:
        """Tell when a rollback must be over, or that it is."""
        self._write(lambda writer: writer.deadline(notice))

    def close(self) -> None:
        """Say that nothing more comes."""
        self._write(lambda writer: writer.close())
        self._writer = None

    def _write(self, record: Callable[[BridgeWriter], None]) -> None:
        if self._writer is None:
            return
        try:
            record(self._writer)
        except EsperError as error:
            _tell_failure(error)


def _tell_failure(error: EsperError) -> None:
    _log.error("the bridge could not be used", code=error.code, reason=error.message)
