"""The mode of the whole system and the reasons for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from esper_core import leyline
from weatherlight.topology import NODES


@dataclass(slots=True)
class ModeKeeper:
    """Derives the mode from emergencies, an operator's word and the health of critical services.

    The gravest reason rules: a halt emergency means EMERGENCY; a conservative emergency, an operator's wish or a
    critical service that is away means CONSERVATIVE; else the system is OPERATIONAL.
    """

    _emergencies: dict[str, tuple[leyline.EmergencyLevel.ValueType, str]] = field(default_factory=dict)
    _unhealthy: dict[str, str] = field(default_factory=dict)
    _operator: tuple[leyline.SystemMode.ValueType, str] | None = None

    def observe_health(self, unhealthy: Mapping[str, str]) -> None:
        """Take note of the services that are not healthy, with a sentence each."""
        self._unhealthy = {name: why for name, why in unhealthy.items() if name in NODES and NODES[name].critical}

    def raise_emergency(self, signal_id: str, level: leyline.EmergencyLevel.ValueType, reason: str) -> None:
        """Take note of an emergency."""
        self._emergencies[signal_id] = (level, reason)

    def clear_emergencies(self) -> list[str]:
        """Forget all emergencies and return their signal ids."""
        cleared, self._emergencies = list(self._emergencies), {}
        return cleared

    def set_by_operator(self, mode: leyline.SystemMode.ValueType, reason: str) -> None:
        """Take note of an operator's word; OPERATIONAL takes it back."""
        self._operator = None if mode == leyline.SYSTEM_MODE_OPERATIONAL else (mode, reason)

    def mode(self) -> leyline.SystemMode.ValueType:
        """Return the mode that the gravest reason demands."""
        return max((mode for mode, _ in self._grounds()), default=leyline.SYSTEM_MODE_OPERATIONAL)

    def reasons(self) -> list[str]:
        """Return all reasons, gravest first; empty when the system is operational."""
        return [text for _, text in sorted(self._grounds(), key=lambda ground: -ground[0])]

    def _grounds(self) -> list[tuple[leyline.SystemMode.ValueType, str]]:
        grounds: list[tuple[leyline.SystemMode.ValueType, str]] = []
        for level, reason in self._emergencies.values():
            mode = _MODE_OF_LEVEL.get(level)
            if mode is not None:
                grounds.append((mode, f"{leyline.EmergencyLevel.Name(level)}: {reason}"))
        if self._operator is not None:
            grounds.append((self._operator[0], f"set by an operator: {self._operator[1]}"))
        grounds.extend(
            (leyline.SYSTEM_MODE_CONSERVATIVE, f"{name} is away: {why}") for name, why in self._unhealthy.items()
        )
        return grounds


_MODE_OF_LEVEL = {
    leyline.EMERGENCY_LEVEL_CONSERVATIVE: leyline.SYSTEM_MODE_CONSERVATIVE,
    leyline.EMERGENCY_LEVEL_HALT: leyline.SYSTEM_MODE_EMERGENCY,
}
