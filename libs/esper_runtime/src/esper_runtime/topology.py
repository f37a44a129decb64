"""What has been grown, as data: enough to build it again in another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from esper_core.blueprints import KernelSpec
from esper_runtime.alpha import AlphaRamp
from esper_runtime.blending import BlendSpec


@dataclass(frozen=True, slots=True)
class GraftRecord:
    """One attached seed.

    Attributes
    ----------
    seed_id, site : str
        Who and where.
    stage, isolation : int
        Leyline's SeedStage and IsolationMode.
    blend : BlendSpec
        How the outputs meet.
    alpha : float
        Present alpha.
    ramp : AlphaRamp, optional
        Where alpha is going, while BLENDING.
    kernel : KernelSpec, optional
        How to build the seed; None for a module that the caller brought along.
    """

    seed_id: str
    site: str
    stage: int
    isolation: int
    blend: BlendSpec
    alpha: float
    ramp: AlphaRamp | None = None
    kernel: KernelSpec | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return {
            "seed_id": self.seed_id,
            "site": self.site,
            "stage": self.stage,
            "isolation": self.isolation,
            "blend": self.blend.to_dict(),
            "alpha": self.alpha,
            "ramp": None if self.ramp is None else self.ramp.to_dict(),
            "kernel": None if self.kernel is None else self.kernel.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GraftRecord:
        """Read a record written by `to_dict`."""
        return cls(
            seed_id=data["seed_id"],
            site=data["site"],
            stage=data["stage"],
            isolation=data["isolation"],
            blend=BlendSpec.from_dict(data["blend"]),
            alpha=data["alpha"],
            ramp=None if data["ramp"] is None else AlphaRamp.from_dict(data["ramp"]),
            kernel=None if data["kernel"] is None else KernelSpec.from_dict(data["kernel"]),
        )


@dataclass(frozen=True, slots=True)
class Topology:
    """All attached seeds, in the order in which they were attached, and the generation at that time."""

    generation: int
    grafts: tuple[GraftRecord, ...] = ()

    def chain(self, site: str) -> tuple[GraftRecord, ...]:
        """Return the grafts stacked at one site, innermost first."""
        return tuple(graft for graft in self.grafts if graft.site == site)

    def to_dict(self) -> dict[str, Any]:
        """Return the topology as plain data."""
        return {"generation": self.generation, "grafts": [graft.to_dict() for graft in self.grafts]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Topology:
        """Read a topology written by `to_dict`."""
        return cls(data["generation"], tuple(GraftRecord.from_dict(row) for row in data["grafts"]))
