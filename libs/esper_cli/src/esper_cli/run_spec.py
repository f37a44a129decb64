"""From what a person types to the RunSpec that Tolaria takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from esper_core import leyline
from esper_core.errors import ValidationError

POLICIES: Final = ("schedule", "heuristic", "learned", "none")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a person may say about a run; what is left at its zero is the task's default.

    Parameters
    ----------
    task : str
        Built-in task, or module:function from the trainer's allow-list.
    policy : str
        Who decides about growth.
    size : str
        Size of the host that the task knows, such as "small".
    parameters : tuple[str, ...]
        Further task parameters as name=value.
    flops, steps, epochs : int
        Budget; at most one of them.
    learning_rate : float
        Base learning rate.
    optimizer : str
        Name of the optimizer.
    schedule : str
        Learning-rate policy.
    seed_factor : float
        Learning rate of new parameters over the host's; 0 leaves it to the trainer.
    batch_size : int
        Examples per step.
    gradient_accumulation : int
        Parts in which a batch goes through the model.
    pcgrad : str
        Losses whose conflicting gradients are projected; empty adds all gradients up.
    attribution : str
        How to attribute the movement of the loss to host and seeds; empty for not at all.
    gradient_scales : tuple[str, ...]
        Factors on the gradients of seeds as [site:]stage=factor.
    sites, blueprints : tuple[str, ...]
        Where and with what it may grow; empty means everything allowed.
    max_seeds, max_parameters : int
        Bounds of growth.
    allow_restricted : bool
        Whether kernels may grow that their assessment restricts.
    random_seed : int
        Seed of everything random.
    device : str
        "cpu" or "cuda[:n]".
    label : str
        Name for people.
    start_from : str
        Checkpoint folder to start from.
    on_control_loss : str
        "continue" or "halt".
    teacher : TeacherSpec or None
        Model to learn from besides the targets.
    compile : bool
        Whether the model is compiled block by block.
    precision : str
        What the forward pass computes in; empty means float32.
    """

    task: str
    policy: str = "schedule"
    size: str = ""
    parameters: tuple[str, ...] = ()
    flops: int = 0
    steps: int = 0
    epochs: int = 0
    learning_rate: float = 0.0
    optimizer: str = ""
    schedule: str = ""
    seed_factor: float = 0.0
    batch_size: int = 0
    gradient_accumulation: int = 0
    pcgrad: str = ""
    attribution: str = ""
    gradient_scales: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    blueprints: tuple[str, ...] = ()
    max_seeds: int = 0
    max_parameters: int = 0
    allow_restricted: bool = False
    random_seed: int = 0
    device: str = ""
    label: str = ""
    start_from: str = ""
    on_control_loss: str = ""
    teacher: leyline.TeacherSpec | None = None
    compile: bool = False
    precision: str = ""


def run_spec(options: RunOptions) -> leyline.RunSpec:
    """Build the request.

    Raises
    ------
    ValidationError
        If a value cannot be what it should be; the trainer checks the rest.
    """
    if options.policy not in POLICIES:
        raise ValidationError(f"There is no policy {options.policy!r}.", field="policy", allowed=POLICIES)
    spec = leyline.RunSpec(
        version=1,
        task=options.task,
        parameters=_task_parameters(options),
        max_steps=options.steps,
        max_epochs=options.epochs,
        flops_budget=options.flops,
        batch_size=options.batch_size,
        gradient_accumulation=options.gradient_accumulation,
        gradient_aggregation="pcgrad" if options.pcgrad else "",
        pcgrad_losses=options.pcgrad,
        attribution=options.attribution,
        gradient_scales=[gradient_scale(text) for text in options.gradient_scales],
        random_seed=options.random_seed,
        device=options.device,
        label=options.label,
        start_from=options.start_from,
        on_control_loss=options.on_control_loss,
        teacher=options.teacher,
        compile=options.compile,
        precision=options.precision,
        growth=leyline.GrowthSpec(
            policy=options.policy,
            sites=options.sites,
            blueprint_ids=options.blueprints,
            max_seeds=options.max_seeds,
            max_parameters=options.max_parameters,
            allow_restricted=options.allow_restricted,
        ),
    )
    if options.learning_rate or options.optimizer:
        spec.optimizer.name = options.optimizer
        spec.optimizer.learning_rate = options.learning_rate
    if options.schedule or options.seed_factor:
        spec.learning_rate.policy = options.schedule
        spec.learning_rate.seed_factor = options.seed_factor
    return spec


def _task_parameters(options: RunOptions) -> list[leyline.TaskParameter]:
    size = [leyline.TaskParameter(name="size", text=options.size)] if options.size else []
    return [*size, *(task_parameter(text) for text in options.parameters)]


def task_parameter(text: str) -> leyline.TaskParameter:
    """Read name=value: a whole number, a real number, true or false, or a word.

    Raises
    ------
    ValidationError
        If there is no name or no value.
    """
    name, separator, value = text.partition("=")
    if not name or not separator or not value:
        raise ValidationError(f"{text!r} is no parameter.", field="--param", allowed="name=value")
    if value in ("true", "false"):
        return leyline.TaskParameter(name=name, flag=value == "true")
    for convert, field in ((int, "integer"), (float, "real")):
        try:
            return leyline.TaskParameter(name=name, **{field: convert(value)})  # type: ignore[arg-type]
        except ValueError:
            continue
    return leyline.TaskParameter(name=name, text=value)


def gradient_scale(text: str) -> leyline.GradientScale:
    """Read [site:]stage=factor, where the stage is "all" or a stage of a seed that learns; the trainer checks bounds.

    Raises
    ------
    ValidationError
        If it is something else.
    """
    name, _, value = text.partition("=")
    site, _, stage = name.rpartition(":")
    try:
        number = (
            leyline.SEED_STAGE_UNSPECIFIED if stage == "all" else leyline.SeedStage.Value(f"SEED_STAGE_{stage.upper()}")
        )
        return leyline.GradientScale(site=site, stage=number, scale=float(value))
    except ValueError as error:
        raise ValidationError(
            f"{text!r} scales no gradients.",
            field="--gradient-scale",
            allowed="[site:]stage=factor, such as training=0.5 or hidden1:all=2",
        ) from error


def whole_number(text: str, option: str) -> int:
    """Read a count that may be written as 14e9.

    Raises
    ------
    ValidationError
        If it is no whole number of at least 0.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (value >= 0 and value.is_integer()):
        raise ValidationError(
            f"{option} {text!r} is no whole number.", field=option, allowed="such as 14000000000 or 14e9"
        )
    return int(value)


def unique(values: Iterable[str] | None) -> tuple[str, ...]:
    """Return the values in their order, each once."""
    return tuple(dict.fromkeys(values or ()))
