"""From a RunSpec, as it came over the wire, to a RunPlan: defaults filled in, every value checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from esper_core import leyline
from esper_core.errors import UnimplementedError, ValidationError
from esper_runtime import distillation
from esper_tasks import ParameterValue, Task, TaskSpec
from tolaria.training.budget import Budget
from tolaria.training.meeting import meeting_faults
from tolaria.training.plan import (
    CONTROL_LOSS,
    GROWTH_POLICIES,
    SEED_FACTOR,
    TEACHER_WEIGHT_LIMIT,
    TEMPERATURE_LIMIT,
    GradientScale,
    GrowthPlan,
    LearningRatePlan,
    OptimizerPlan,
    RunPlan,
    TeacherPlan,
)
from tolaria.training.scales import faults, read_scales

_ISOLATIONS: Final = frozenset(leyline.IsolationMode.values())


def resolve_plan(run_id: str, spec: leyline.RunSpec, task: Task) -> RunPlan:
    """Fill in the task's defaults and check what needs no model.

    Parameters
    ----------
    run_id : str
        The run.
    spec : RunSpec
        What the user asked for.
    task : Task
        The task that the spec names.

    Raises
    ------
    ValidationError
        Names the field and what is allowed.
    UnimplementedError
        If more than one worker process is asked for.
    """
    defaults = task.default_spec()
    _check_bounds(spec)
    batch_size = spec.batch_size or defaults.batch_size
    return RunPlan(
        run_id=run_id,
        task=spec.task,
        batch_size=batch_size,
        budget=_budget(spec, defaults),
        optimizer=_optimizer(spec, defaults),
        learning_rate=_learning_rate(spec, defaults),
        growth=_growth(spec, defaults),
        parameters=task_parameters(spec.parameters),
        random_seed=spec.random_seed,
        threads=spec.threads or 1,
        device=spec.device or "cpu",
        on_control_loss=_control_loss(spec.on_control_loss),
        checkpoint_interval_steps=spec.checkpoint_interval_steps,
        validation_interval_steps=spec.validation_interval_steps,
        start_from=spec.start_from,
        topology_only=spec.topology_only,
        gradient_accumulation=_parts(spec.gradient_accumulation or 1, batch_size),
        gradient_aggregation=_aggregation(spec),
        teacher=_teacher(spec.teacher) if spec.HasField("teacher") else None,
        pcgrad_losses=spec.pcgrad_losses or "microbatch",
        gradient_scales=_scales(spec),
        attribution=spec.attribution,
        compile=spec.compile,
        precision=spec.precision or "float32",
    )


def task_parameters(parameters: Sequence[leyline.TaskParameter]) -> dict[str, ParameterValue]:
    """Return parameters by name; the task itself checks names, types and bounds.

    Raises
    ------
    ValidationError
        If a parameter has no value, or a name occurs twice.
    """
    values: dict[str, ParameterValue] = {}
    for parameter in parameters:
        kind = parameter.WhichOneof("value")
        if kind is None or parameter.name in values:
            raise ValidationError(
                f"Parameter {parameter.name!r} of the task must be given once, with a value.",
                field=f"spec.parameters.{parameter.name}",
                allowed="one value per name",
            )
        values[parameter.name] = getattr(parameter, kind)
    return values


def _parts(parts: int, batch_size: int) -> int:
    if batch_size % parts:
        raise ValidationError(
            f"A batch of {batch_size} examples has no {parts} equal parts.",
            field="spec.gradient_accumulation",
            allowed=f"a divisor of {batch_size}, the batch size",
        )
    return parts


def _aggregation(spec: leyline.RunSpec) -> str:
    for field, sentence, allowed in meeting_faults(spec):
        raise ValidationError(sentence, field=field, allowed=allowed)
    return spec.gradient_aggregation or "sum"


def _scales(spec: leyline.RunSpec) -> tuple[GradientScale, ...]:
    scales = read_scales(spec.gradient_scales)
    for field, sentence, allowed in faults(scales):
        raise ValidationError(sentence, field=field, allowed=allowed)
    return scales


def _teacher(given: leyline.TeacherSpec) -> TeacherPlan:
    plan = TeacherPlan(
        source=given.source,
        weight=given.weight if given.HasField("weight") else distillation.WEIGHT,
        temperature=given.temperature if given.HasField("temperature") else distillation.TEMPERATURE,
        memory_bytes=given.memory_bytes or distillation.BUDGET_BYTES,
    )
    bounds = (
        ("source", bool(plan.source), "the folder of a checkpoint or of an exported model"),
        ("weight", 0 <= plan.weight <= TEACHER_WEIGHT_LIMIT, f"a number from 0 to {TEACHER_WEIGHT_LIMIT:g}"),
        ("temperature", 0 < plan.temperature <= TEMPERATURE_LIMIT, f"above 0, at most {TEMPERATURE_LIMIT:g}"),
    )
    for field, holds, allowed in bounds:
        if not holds:
            raise ValidationError(
                f"A teacher's {field} cannot be {getattr(plan, field)!r}.",
                field=f"spec.teacher.{field}",
                allowed=allowed,
            )
    return plan


def _check_bounds(spec: leyline.RunSpec) -> None:
    if spec.workers > 1:
        raise UnimplementedError(
            f"spec.workers is {spec.workers}; this version trains in one worker process. Set it to 1 or leave it out.",
            details={"field": "spec.workers"},
        )
    if not 0 <= spec.threads <= 256:
        raise ValidationError(
            f"A worker cannot use {spec.threads} threads.", field="spec.threads", allowed="1 to 256, 0 for 1"
        )
    if spec.random_seed >= 2**63:
        raise ValidationError(
            f"spec.random_seed is {spec.random_seed}.", field="spec.random_seed", allowed="an integer below 2^63"
        )


def _budget(spec: leyline.RunSpec, defaults: TaskSpec) -> Budget:
    if spec.max_steps or spec.max_epochs or spec.flops_budget:
        return Budget(max_steps=spec.max_steps, max_epochs=spec.max_epochs, flops=spec.flops_budget)
    return Budget(max_epochs=defaults.max_epochs, flops=defaults.flops_budget)


def _optimizer(spec: leyline.RunSpec, defaults: TaskSpec) -> OptimizerPlan:
    if not spec.HasField("optimizer"):
        return OptimizerPlan(defaults.optimizer, defaults.learning_rate)
    given = spec.optimizer
    return OptimizerPlan(
        given.name or defaults.optimizer,
        given.learning_rate or defaults.learning_rate,
        given.weight_decay,
        given.momentum,
    )


def _learning_rate(spec: leyline.RunSpec, defaults: TaskSpec) -> LearningRatePlan:
    if not spec.HasField("learning_rate"):
        return LearningRatePlan(defaults.learning_rate_policy)
    given = spec.learning_rate
    return LearningRatePlan(
        given.policy or defaults.learning_rate_policy,
        given.warmup_fraction,
        given.floor,
        warmup_floor=given.warmup_floor,
        period=given.period or 1.0,
        after_period=given.after_period or "hold",
        groups=_group_policies(given.groups),
        seed_factor=given.seed_factor or SEED_FACTOR,
    )


def _group_policies(given: Sequence[leyline.GroupLearningRate]) -> dict[str, str]:
    policies = {entry.group: entry.policy for entry in given}
    if len(policies) < len(given):
        raise ValidationError(
            "A group of the optimizer is given more than one learning-rate policy.",
            field="spec.learning_rate.groups",
            allowed="each group once",
        )
    return policies


def _growth(spec: leyline.RunSpec, defaults: TaskSpec) -> GrowthPlan:
    if not spec.HasField("growth"):
        return GrowthPlan()
    given = spec.growth
    if given.policy not in GROWTH_POLICIES:
        raise ValidationError(
            f"Growth policy {given.policy!r} does not exist.", field="spec.growth.policy", allowed=GROWTH_POLICIES
        )
    if given.isolation not in _ISOLATIONS:
        raise ValidationError(
            f"Isolation mode {given.isolation} does not exist.",
            field="spec.growth.isolation",
            allowed=sorted(leyline.IsolationMode.keys()),
        )
    return GrowthPlan(
        policy=given.policy,
        sites=tuple(given.sites),
        blueprint_ids=tuple(given.blueprint_ids),
        max_seeds=given.max_seeds or defaults.growth.max_seeds or 1,
        max_parameters=given.max_parameters,
        isolation=given.isolation,
        allow_restricted=given.allow_restricted,
    )


def _control_loss(value: str) -> str:
    if value and value not in CONTROL_LOSS:
        raise ValidationError(
            f"spec.on_control_loss cannot be {value!r}.", field="spec.on_control_loss", allowed=CONTROL_LOSS
        )
    return value or "continue"
