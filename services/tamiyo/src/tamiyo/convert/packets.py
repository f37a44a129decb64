"""SystemStatePacket to Observation. What is wrong is refused with the field's name, never repaired."""

from __future__ import annotations

from typing import Any

from esper_core import leyline
from esper_core.blueprints.messages import contract_from_message
from esper_core.errors import ValidationError
from esper_core.guard import ViolationSink, require_id
from esper_core.ids import parse_run_id, parse_seed_id
from tamiyo.observation import Figures, Observation, RunPlan, SeedView, SiteView, Validation

_FIGURES = tuple(Figures.__dataclass_fields__)


def observation_of(packet: leyline.SystemStatePacket, sink: ViolationSink | None = None) -> Observation:
    """Convert a packet.

    Parameters
    ----------
    packet : SystemStatePacket
        As it came.
    sink : callable, optional
        Told of a missing id.

    Raises
    ------
    ContractError
        If version or an enum is wrong.
    DependencyViolationError
        If an id is missing.
    ValidationError
        If an id is malformed, belongs to another run, or occurs twice.
    """
    leyline.validate(packet)
    run_id = parse_run_id(require_id("training_run_id", packet.training_run_id, sink=sink))
    return Observation(
        packet_id=require_id("packet_id", packet.packet_id, sink=sink),
        run_id=run_id,
        epoch=packet.epoch,
        step=packet.global_step,
        generation=packet.generation,
        figures=Figures(**{name: _present(packet.metrics_struct, name) for name in _FIGURES}),
        seeds=_seeds(packet, run_id, sink),
        validation=_validation(packet),
        plan=_plan(packet.context) if packet.HasField("context") else None,
        parameters=packet.parameters,
        flops_used=packet.flops_used,
        device_type=packet.hardware.device_type,
        run_state=packet.run_state,
        final=packet.final,
    )


def without_bulk(packet: leyline.SystemStatePacket) -> leyline.SystemStatePacket:
    """Return a copy without the host's layers, as it is journalled."""
    copy = leyline.SystemStatePacket()
    copy.CopyFrom(packet)
    copy.ClearField("layers")
    return copy


def _present(message: Any, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None


def _validation(packet: leyline.SystemStatePacket) -> Validation | None:
    if not packet.HasField("validation"):
        return None
    made = packet.validation
    return Validation(made.loss, made.step, _present(made, "accuracy"))


def _seeds(packet: leyline.SystemStatePacket, run_id: str, sink: ViolationSink | None) -> tuple[SeedView, ...]:
    seeds = tuple(_seed(seed, index, run_id, sink) for index, seed in enumerate(packet.seeds))
    if len({seed.seed_id for seed in seeds}) != len(seeds):
        raise ValidationError("A seed occurs twice in the packet.", field="seeds", allowed="each seed once")
    return seeds


def _seed(seed: leyline.SeedState, index: int, run_id: str, sink: ViolationSink | None) -> SeedView:
    field = f"seeds[{index}].seed_id"
    parsed = parse_seed_id(require_id(field, seed.seed_id, sink=sink), field)
    if parsed.run_id != run_id or (seed.site and seed.site != parsed.site):
        raise ValidationError(f"{seed.seed_id} is no seed of this run and site.", field=field, allowed=f"{run_id}/…")
    return SeedView(
        seed_id=seed.seed_id,
        site=parsed.site,
        stage=seed.stage,
        blueprint_id=seed.blueprint_id,
        alpha=seed.alpha,
        age_steps=seed.age_steps,
        stage_steps=seed.stage_steps,
        parameter_count=seed.parameter_count,
        contribution=_present(seed, "contribution"),
        contribution_low=_present(seed, "contribution_low"),
        contribution_high=_present(seed, "contribution_high"),
        risk_score=seed.risk_score,
        germinate_command_id=seed.germinate_command_id,
        gradient_norm=_present(seed, "gradient_norm"),
    )


def _plan(context: leyline.RunContext) -> RunPlan:
    sites = tuple(
        SiteView(
            require_id("context.sites.name", site.name),
            contract_from_message(site.contract),
            site.depth,
            tuple(site.blueprint_ids),
        )
        for site in context.sites
    )
    return RunPlan(
        task=context.task,
        policy=context.policy,
        total_steps=context.total_steps,
        flops_budget=context.flops_budget,
        parameters_budget=context.parameters_budget,
        seeds_budget=context.seeds_budget,
        sites=sites,
        blueprint_ids=tuple(context.blueprint_ids),
        host_parameters=context.host_parameters,
        steps_per_epoch=context.steps_per_epoch,
        random_seed=context.random_seed,
    )
