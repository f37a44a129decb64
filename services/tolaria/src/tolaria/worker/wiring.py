"""Which parts the mediator has: what is configured, and what the run needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import grpc

from esper_core import leyline
from esper_core.bus import BusClient
from esper_core.errors import SettingsError
from esper_core.rpc import open_channel, tls_from_environment
from esper_core.security import Keyring
from esper_core.security.tokens import TokenSource
from esper_core.telemetry import TelemetryEmitter
from tolaria.mediator.kasmina import KasminaPart
from tolaria.mediator.kernels import KernelSource
from tolaria.mediator.oona import OonaPart, TelemetryPart
from tolaria.mediator.peer import ControlPeer, Voices
from tolaria.mediator.tamiyo import TamiyoPart
from tolaria.mediator.thread import Part
from tolaria.mediator.ticker import Ticker
from tolaria.mediator.tolaria import TolariaPart
from tolaria.reporting.records import RunFacts
from tolaria.reporting.reporter import Reporter
from tolaria.rundir import WorkerMark
from tolaria.safety.bridge import Bridge, SignalMaker
from tolaria.settings import WorkerSettings
from tolaria.training.links import Links


class Wiring:
    """Makes the mediator's parts; `parts` runs on the mediator's loop, because channels belong to a loop.

    Raises
    ------
    SettingsError
        If a run that grows lacks an address, or a configured peer lacks the keyring.
    """

    def __init__(
        self,
        facts: RunFacts,
        settings: WorkerSettings,
        links: Links,
        reporter: Reporter,
        voices: Voices,
        mark: WorkerMark,
        save_status: Callable[[], None],
    ) -> None:
        self._facts = facts
        self._settings = settings
        self._links = links
        self._reporter = reporter
        self._voices = voices
        self._mark = mark
        self._save_status = save_status
        self._grows = facts.policy != "none"
        if self._grows:
            for name in ("tamiyo", "kasmina", "urza"):
                settings.peer(name)
        self._keyring = self._load_keyring()
        self._maker = SignalMaker(self._keyring, facts.run_id) if self._keyring else None
        self._tokens = TokenSource(self._keyring, "tolaria-worker") if self._keyring else None

    def parts(self) -> Sequence[Part]:
        """Return every part, ready to run."""
        settings = self._settings
        parts: list[Part] = [
            Ticker(self._voices.board, self._voices.events, self._save_status, settings.status_interval_s)
        ]
        telemetry = self._telemetry(parts)
        if settings.tolaria_address is not None:
            parts.append(
                TolariaPart(
                    self._channel("tolaria"), self._facts.run_id, self._mark, settings, self._links, self._voices
                )
            )
        if self._grows:
            parts += self._control_plane(telemetry)
        return parts

    def part_crashed(self, name: str, reason: str) -> None:
        """Make the run conservative where it has lost its way to the control plane by a defect of ours."""
        if self._grows and name in ("tamiyo", "kasmina", "mediator"):
            self._voices.control.set_lost(name, reason)
            loss = leyline.ControlLoss(peer=name, lost=True, reason=f"The worker's own part failed: {reason}")
            self._voices.events.append(loss, self._voices.step())

    def _telemetry(self, parts: list[Part]) -> TelemetryEmitter:
        if self._settings.oona_address is None or self._keyring is None or self._maker is None:
            return TelemetryEmitter("tolaria", _nobody_listens)
        bus = BusClient(self._settings.oona_address, "tolaria", self._keyring)
        emitter = TelemetryEmitter("tolaria", bus.publish_telemetry)
        bus.report_to(emitter)
        parts += [OonaPart(bus, self._voices.events, emitter, self._maker), TelemetryPart(emitter)]
        return emitter

    def _control_plane(self, telemetry: TelemetryEmitter) -> list[Part]:
        settings, voices = self._settings, self._voices
        kasmina = KasminaPart(
            self._channel("kasmina"),
            KernelSource(self._channel("urza"), settings.kernel_cache_bytes, telemetry),
            self._facts,
            settings,
            self._links,
            voices,
            ControlPeer("kasmina", settings, voices, telemetry),
        )
        tamiyo = TamiyoPart(
            self._channel("tamiyo"),
            self._facts,
            settings,
            self._links,
            self._reporter,
            voices,
            ControlPeer("tamiyo", settings, voices, telemetry),
            kasmina.pass_on,
        )
        return [kasmina, tamiyo]

    def _channel(self, peer: str) -> grpc.aio.Channel:
        return open_channel(self._settings.peer(peer), self._tokens, "tolaria", tls_from_environment())

    def _load_keyring(self) -> Keyring | None:
        settings = self._settings
        peers = ("tolaria", "oona") if not self._grows else ("tolaria", "oona", "tamiyo", "kasmina", "urza")
        if not any(getattr(settings, f"{name}_address") for name in peers):
            return None
        return _keyring(settings, "a peer")


def open_bridge(settings: WorkerSettings, run_id: str) -> Bridge | None:
    """Open the bridge to the orchestrator of this host, where one is configured.

    Raises
    ------
    SettingsError
        If it is, and the keyring is not.
    """
    if settings.bridge_dir is None:
        return None
    return Bridge(settings.bridge_dir, run_id, SignalMaker(_keyring(settings, "the bridge"), run_id))


def _keyring(settings: WorkerSettings, what: str) -> Keyring:
    if settings.keyring_file is None:
        raise SettingsError(
            f"ESPER_KEYRING_FILE is not set, and {what} is configured. Set it to the stack's keyring file.",
            variable="ESPER_KEYRING_FILE",
        )
    return Keyring.load(settings.keyring_file)


async def _nobody_listens(packet: leyline.TelemetryPacket) -> None:
    """Take telemetry of a run without a bus; its events are in the journal all the same."""
