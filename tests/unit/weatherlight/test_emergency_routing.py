"""An emergency is acted upon once, by everybody who can, and told when somebody could not."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from esper_core import leyline
from esper_core.errors import UnavailableError, ValidationError
from weatherlight.emergencies import Emergency, EmergencyRouter


@dataclass
class RecordingPeers:
    """Takes note of what it is asked, and is away where told so."""

    away: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def _ask(self, what: str) -> None:
        if what in self.away:
            raise UnavailableError(f"{what}: nobody answers")
        self.asked.append(what)

    async def halt_runs(self, emergency: Emergency) -> list[str]:
        self._ask("halt")
        return ["run-1"]

    async def warn_runs(self, emergency: Emergency) -> list[str]:
        self._ask("warn")
        return ["run-1"]

    async def clear_runs(self, training_run_id: str, reason: str) -> list[str]:
        self._ask("clear")
        return ["run-1"]

    async def set_conservative(self, training_run_id: str, reason: str, *, enabled: bool) -> None:
        self._ask("conservative on" if enabled else "conservative off")


def emergency(level: leyline.EmergencyLevel.ValueType, signal_id: str = "s1") -> Emergency:
    return Emergency(signal_id, level, "the loss is NaN", "tolaria")


def router(peers: RecordingPeers, noted: list[Emergency]) -> EmergencyRouter:
    return EmergencyRouter(peers, noted.append)


@pytest.mark.parametrize(
    ("level", "asked"),
    [
        (leyline.EMERGENCY_LEVEL_NOTICE, []),
        (leyline.EMERGENCY_LEVEL_ELEVATED, []),
        (leyline.EMERGENCY_LEVEL_CONSERVATIVE, ["warn", "conservative on"]),
        (leyline.EMERGENCY_LEVEL_HALT, ["halt", "conservative on"]),
    ],
)
async def test_each_level_asks_for_what_it_means(level: leyline.EmergencyLevel.ValueType, asked: list[str]) -> None:
    peers, noted = RecordingPeers(), list[Emergency]()
    routing = await router(peers, noted).route(emergency(level))
    assert peers.asked == asked
    assert routing.complete
    assert len(noted) == 1


async def test_a_signal_that_comes_twice_is_acted_upon_once() -> None:
    peers, noted = RecordingPeers(), list[Emergency]()
    routes = router(peers, noted)
    await routes.route(emergency(leyline.EMERGENCY_LEVEL_HALT))
    again = await routes.route(emergency(leyline.EMERGENCY_LEVEL_HALT))
    assert again.duplicate
    assert peers.asked.count("halt") == 1
    assert len(noted) == 1


async def test_one_peer_that_is_away_keeps_nobody_else_from_acting_and_the_signal_may_come_again() -> None:
    peers, noted = RecordingPeers(away={"halt"}), list[Emergency]()
    routes = router(peers, noted)
    routing = await routes.route(emergency(leyline.EMERGENCY_LEVEL_HALT))
    assert peers.asked == ["conservative on"]
    assert not routing.complete
    peers.away.clear()
    assert (await routes.route(emergency(leyline.EMERGENCY_LEVEL_HALT))).runs == ("run-1",)


async def test_a_signal_without_an_id_is_refused() -> None:
    with pytest.raises(ValidationError, match="signal id"):
        await router(RecordingPeers(), []).route(emergency(leyline.EMERGENCY_LEVEL_HALT, signal_id=""))


async def test_clearing_tells_everybody() -> None:
    peers = RecordingPeers()
    routing = await router(peers, []).clear("", "it was a drill")
    assert peers.asked == ["clear", "conservative off"]
    assert routing.runs == ("run-1",)
