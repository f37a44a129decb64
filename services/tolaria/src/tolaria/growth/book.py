"""The seed book: what the trainer remembers about every seed of the run, settled ones included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from esper_core import leyline
from esper_runtime.improvement import CurvePoint

UNSETTLED: Final = frozenset(
    {
        leyline.SEED_STAGE_GERMINATED,
        leyline.SEED_STAGE_TRAINING,
        leyline.SEED_STAGE_BLENDING,
        leyline.SEED_STAGE_SHADOWING,
        leyline.SEED_STAGE_PROBATIONARY,
    }
)
"""Stages of a seed that is attached and can still be taken out."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """A paired counterfactual as it was measured; losses are means over the held-out examples."""

    step: int
    loss_with: float
    loss_without: float
    mean: float
    low: float
    high: float
    examples: int


@dataclass(frozen=True, slots=True)
class SeedEntry:
    """One seed; entries are replaced, never changed.

    Attributes
    ----------
    stage : int
        Leyline's SeedStage, as Kasmina last told it or as the runtime last set it.
    stage_step, stage_epoch : int
        When that stage began.
    finite : bool
        False once a loss, gradient or output with this seed was not finite.
    alpha_monotone : bool
        False once alpha moved against its ramp.
    rollbacks : int
        Rollbacks that happened while this seed was unsettled.
    """

    seed_id: str
    site: str
    blueprint_id: str
    kernel_digest: str
    command_id: str
    stage: int
    germinated_step: int
    germinated_epoch: int
    stage_step: int
    stage_epoch: int
    parameter_count: int
    loss_at_germination: float | None = None
    finite: bool = True
    alpha: float = 0.0
    alpha_monotone: bool = True
    isolation_violations: int = 0
    gradient_norm: float | None = None
    contribution: Contribution | None = None
    probed_step: int = -1
    rollbacks: int = 0
    settled_by: str = ""

    @property
    def unsettled(self) -> bool:
        """Whether the seed is attached and can still be taken out."""
        return self.stage in UNSETTLED

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SeedEntry:
        """Read what `asdict` wrote."""
        contribution = data["contribution"]
        return cls(**{**data, "contribution": Contribution(**contribution) if contribution else None})


@dataclass(slots=True)
class SeedBook:
    """All seeds by id, and the held-out losses over the run, from which improvement is told."""

    entries: dict[str, SeedEntry] = field(default_factory=dict)
    curve: list[CurvePoint] = field(default_factory=list)
    _unsettled: tuple[SeedEntry, ...] | None = field(default=None, repr=False, compare=False)

    def __iter__(self) -> Iterator[SeedEntry]:
        return iter(tuple(self.entries.values()))

    def unsettled(self) -> tuple[SeedEntry, ...]:
        """Return the seeds that are attached and can still be taken out; asked for several times in every step."""
        if self._unsettled is None:
            self._unsettled = tuple(entry for entry in self.entries.values() if entry.unsettled)
        return self._unsettled

    def put(self, entry: SeedEntry) -> None:
        """Enter a seed, or replace its entry."""
        self.entries[entry.seed_id] = entry
        self._unsettled = None

    def update(self, seed_id: str, **changes: Any) -> SeedEntry:
        """Change some fields of a seed's entry and return it."""
        entry = replace(self.entries[seed_id], **changes)
        self.put(entry)
        return entry

    def enter_stage(self, seed_id: str, stage: int, step: int, epoch: int) -> None:
        """Begin a stage; the same stage again changes nothing."""
        if self.entries[seed_id].stage != stage:
            self.update(seed_id, stage=stage, stage_step=step, stage_epoch=epoch, probed_step=-1)

    def curve_before(self, step: int) -> list[CurvePoint]:
        """Return the held-out losses up to a step, from when the seeds germinated before it were settled.

        What a graft does to the loss is steep and soon over; a curve drawn through it would promise the next seed's
        judge more than training on alone could ever give.
        """
        earlier = [entry for entry in self if not entry.unsettled and entry.germinated_step < step]
        calm = max((min(entry.stage_step, step) for entry in earlier), default=0)
        return [point for point in self.curve if calm <= point.step <= step]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
        return {
            "entries": [asdict(entry) for entry in self.entries.values()],
            "curve": [[point.step, point.loss] for point in self.curve],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SeedBook:
        """Read what `to_dict` wrote."""
        entries = (SeedEntry.from_dict(row) for row in data["entries"])
        return cls({entry.seed_id: entry for entry in entries}, [CurvePoint(*row) for row in data["curve"]])
