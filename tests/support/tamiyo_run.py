"""A run as Tamiyo hears of it: packets of a small Letter run, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, to_timestamp
from esper_core.ids import new_id, new_run_id

TOTAL_STEPS = 1000
STEPS_PER_EPOCH = 100
HOST_PARAMETERS = 1058


def site(name: str, channels: int, depth: int) -> leyline.Site:
    """Return a site of kind features."""
    contract = leyline.SiteContract(kind=leyline.SITE_KIND_FEATURES, channels=channels)
    return leyline.Site(name=name, module_path=name, contract=contract, depth=depth)


@dataclass(slots=True)
class FakeRun:
    """Makes packets; what is not said has a harmless value."""

    run_id: str = field(default_factory=new_run_id)
    policy: str = "schedule"
    seeds_budget: int = 2
    parameters_budget: int = 0
    blueprint_ids: tuple[str, ...] = ("mlp_residual.v1", "low_rank_linear.v1", "norm.v1")

    def context(self) -> leyline.RunContext:
        """Return the plan of the run."""
        return leyline.RunContext(
            task="letter",
            policy=self.policy,
            total_steps=TOTAL_STEPS,
            seeds_budget=self.seeds_budget,
            parameters_budget=self.parameters_budget,
            sites=[site("stem", 16, 0), site("hidden1", 24, 1)],
            blueprint_ids=self.blueprint_ids,
            host_parameters=HOST_PARAMETERS,
            steps_per_epoch=STEPS_PER_EPOCH,
        )

    def packet(self, step: int, *, context: bool = False, **changes: Any) -> leyline.SystemStatePacket:
        """Return the packet of a step; keyword arguments are fields of the packet or of its metrics."""
        metrics: dict[str, Any] = {"loss": 1.0, "loss_ewma": 1.0}
        names = leyline.TrainingMetrics.DESCRIPTOR.fields_by_name
        metrics |= {name: changes.pop(name) for name in list(changes) if name in names}
        fields: dict[str, Any] = {
            "version": leyline.LEYLINE_VERSION,
            "packet_id": new_id("packet"),
            "training_run_id": self.run_id,
            "epoch": step // STEPS_PER_EPOCH,
            "global_step": step,
            "timestamp": to_timestamp(SYSTEM_CLOCK.wall()),
            "source": "tolaria",
            "run_state": leyline.RUN_STATE_RUNNING,
            "parameters": HOST_PARAMETERS,
            "hardware": leyline.HardwareContext(device_type="cpu"),
        }
        return leyline.SystemStatePacket(
            **{**fields, **changes},
            metrics_struct=leyline.TrainingMetrics(**{k: v for k, v in metrics.items() if v is not None}),
            context=self.context() if context else None,
        )

    def seed(self, command: leyline.AdaptationCommand, stage: int, n: int = 1, **changes: Any) -> leyline.SeedState:
        """Return the seed that came of a command."""
        where = command.target_site
        return leyline.SeedState(
            **{
                "seed_id": f"{self.run_id}/{where}/{n}",
                "site": where,
                "stage": stage,
                "blueprint_id": command.seed_operation.blueprint_id,
                "parameter_count": 544,
                "germinate_command_id": command.command_id,
                **changes,
            }
        )
