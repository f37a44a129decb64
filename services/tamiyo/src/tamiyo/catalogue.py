"""The blueprints as Urza tells them: a snapshot in memory, so that no evaluation waits for a look-up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from esper_core.blueprints import Blueprint
from esper_core.clocks import SYSTEM_CLOCK, Clock


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a safety data sheet says; bands and classes are Leyline's values."""

    risk_score: float
    hazard_band: int
    handling_class: int


@dataclass(frozen=True, slots=True)
class BlueprintCard:
    """A blueprint with what was decided about it since it was written."""

    blueprint: Blueprint
    refusal: str
    sheet: Sheet | None = None

    @property
    def risk(self) -> float:
        """Risk in [0, 1]: measured where there is a sheet, the prior otherwise."""
        return self.blueprint.risk if self.sheet is None else self.sheet.risk_score


@dataclass(frozen=True, slots=True)
class BlueprintSnapshot:
    """The catalogue at one moment.

    Attributes
    ----------
    cards : Mapping[str, BlueprintCard]
        By blueprint id.
    age_s : float or None
        Seconds since Urza was last in contact; None when it never was.
    """

    cards: Mapping[str, BlueprintCard] = field(default_factory=lambda: MappingProxyType({}))
    age_s: float | None = None

    def get(self, blueprint_id: str) -> BlueprintCard | None:
        """Return a card, or None when Urza has no such blueprint."""
        return self.cards.get(blueprint_id)


class Catalogue:
    """Holds the cards and the moment of the last contact."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._cards: Mapping[str, BlueprintCard] = MappingProxyType({})
        self._contact_s: float | None = None

    @property
    def heard(self) -> bool:
        """Whether any blueprint ever arrived."""
        return bool(self._cards)

    def put(self, card: BlueprintCard) -> None:
        """Take up one blueprint or its new revision."""
        self._cards = MappingProxyType({**self._cards, card.blueprint.blueprint_id: card})
        self.contact()

    def contact(self) -> None:
        """Note that Urza answered just now, so that what is held is current."""
        self._contact_s = self._clock.monotonic()

    def snapshot(self) -> BlueprintSnapshot:
        """Return the catalogue as it is now."""
        age_s = None if self._contact_s is None else self._clock.monotonic() - self._contact_s
        return BlueprintSnapshot(self._cards, age_s)
