"""What can be said about a RunSpec without a model: every problem at once, each with its field and what is allowed.

What needs the task itself (its parameters, sites, data and defaults) is looked at by the chore `check`, in a process
that may load torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from esper_core import leyline
from esper_core.blueprints import load_catalogue
from esper_core.errors import UnimplementedError, ValidationError
from tolaria.training.meeting import meeting_faults
from tolaria.training.plan import (
    AFTER_PERIOD,
    CONTROL_LOSS,
    GROWTH_POLICIES,
    LR_GROUPS,
    LR_POLICIES,
    OPTIMIZERS,
    PRECISIONS,
    TEACHER_WEIGHT_LIMIT,
    TEMPERATURE_LIMIT,
)
from tolaria.training.scales import faults, read_scales

_MOST_THREADS: Final = 256
_MOST_COUNT: Final = 2**53
_SEED_LIMIT: Final = 2**63
_LABEL_LENGTH: Final = 200
_NO_BUDGET: Final = "0 for none, or a whole number below 2^53"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    field: str
    sentence: str
    allowed: str


def check_spec(spec: leyline.RunSpec) -> None:
    """Refuse a specification that no task could make sense of.

    Raises
    ------
    UnimplementedError
        If more than one worker process is asked for.
    ValidationError
        About the first problem; its sentence and its detail `problems` tell the others.
    """
    if spec.workers > 1:
        raise UnimplementedError(
            f"spec.workers is {spec.workers}; this version trains in one worker process. Set it to 1 or leave it out.",
            details={"field": "spec.workers"},
        )
    problems = list(_problems(spec))
    if problems:
        raise as_error(problems)


def as_error(problems: Sequence[Problem]) -> ValidationError:
    """Return one error that tells all problems."""
    first = problems[0]
    sentence = " ".join(problem.sentence for problem in problems)
    error = ValidationError(sentence, field=first.field, allowed=first.allowed)
    error.details["problems"] = "; ".join(f"{problem.field}: {problem.allowed}" for problem in problems)
    return error


def _problems(spec: leyline.RunSpec) -> Iterator[Problem]:
    if not spec.task.strip():
        yield Problem("spec.task", "spec.task is missing.", "a built-in task, or module:function of the allow-list")
    yield from _numbers(spec)
    yield from _words(spec)
    for field, sentence, allowed in (*meeting_faults(spec), *faults(read_scales(spec.gradient_scales))):
        yield Problem(field, f"{sentence} {field} takes {allowed}.", allowed)
    if spec.HasField("optimizer"):
        yield from _optimizer(spec.optimizer)
    if spec.HasField("learning_rate"):
        yield from _learning_rate(spec.learning_rate)
    if spec.HasField("growth"):
        yield from _growth(spec.growth)
    if spec.HasField("teacher"):
        yield from _teacher(spec.teacher)


def _numbers(spec: leyline.RunSpec) -> Iterator[Problem]:
    for name in ("max_steps", "max_epochs", "flops_budget"):
        value = getattr(spec, name)
        yield from _unless(value < _MOST_COUNT, f"spec.{name}", f"A budget of {value} has no end.", _NO_BUDGET)
    yield from _unless(
        spec.threads <= _MOST_THREADS,
        "spec.threads",
        f"A worker cannot use {spec.threads} threads.",
        f"1 to {_MOST_THREADS}, 0 for 1",
    )
    yield from _unless(
        not spec.batch_size or spec.batch_size % (spec.gradient_accumulation or 1) == 0,
        "spec.gradient_accumulation",
        f"A batch of {spec.batch_size} examples has no {spec.gradient_accumulation} equal parts.",
        f"a divisor of {spec.batch_size}, the batch size",
    )
    yield from _unless(
        spec.random_seed < _SEED_LIMIT,
        "spec.random_seed",
        f"spec.random_seed is {spec.random_seed}.",
        "a whole number below 2^63",
    )


def _words(spec: leyline.RunSpec) -> Iterator[Problem]:
    yield from _choice("spec.on_control_loss", spec.on_control_loss, ("", *CONTROL_LOSS))
    yield from _choice("spec.precision", spec.precision, ("", *PRECISIONS))
    yield from _unless(
        spec.device in ("", "cpu", "cuda") or (spec.device.startswith("cuda:") and spec.device[5:].isdigit()),
        "spec.device",
        f"Runs cannot use {spec.device!r}.",
        "cpu, cuda or cuda:n",
    )
    yield from _unless(
        len(spec.label) <= _LABEL_LENGTH,
        "spec.label",
        f"spec.label has {len(spec.label)} characters.",
        f"at most {_LABEL_LENGTH} characters",
    )
    if spec.start_from:
        folder = Path(spec.start_from)
        yield from _unless(
            folder.is_absolute() and folder.is_dir(),
            "spec.start_from",
            f"There is no checkpoint folder {spec.start_from!r}.",
            "the absolute path of one checkpoint's folder",
        )
    yield from _unless(
        bool(spec.start_from) or not spec.topology_only,
        "spec.topology_only",
        "spec.topology_only says to take a topology, but spec.start_from does not say from where.",
        "true only together with spec.start_from",
    )


def _optimizer(given: leyline.OptimizerSpec) -> Iterator[Problem]:
    yield from _choice("spec.optimizer.name", given.name, ("", *OPTIMIZERS))
    rate, decay, momentum = given.learning_rate, given.weight_decay, given.momentum
    yield from _unless(
        math.isfinite(rate) and rate >= 0,
        "spec.optimizer.learning_rate",
        f"A learning rate cannot be {rate}.",
        "a number above 0, 0 for the task's default",
    )
    yield from _unless(
        math.isfinite(decay) and decay >= 0,
        "spec.optimizer.weight_decay",
        f"A weight decay cannot be {decay}.",
        "a number of at least 0",
    )
    yield from _unless(
        0 <= momentum < 1,
        "spec.optimizer.momentum",
        f"A momentum cannot be {momentum}.",
        "a number from 0, below 1",
    )


def _learning_rate(given: leyline.LearningRateSpec) -> Iterator[Problem]:
    yield from _choice("spec.learning_rate.policy", given.policy, LR_POLICIES)
    yield from _unless(
        0 <= given.warmup_fraction <= 0.5,
        "spec.learning_rate.warmup_fraction",
        f"A warm-up cannot take {given.warmup_fraction} of the budget.",
        "a number from 0 to 0.5",
    )
    yield from _unless(
        0 <= given.floor <= 1,
        "spec.learning_rate.floor",
        f"A learning-rate floor cannot be {given.floor}.",
        "a number from 0 to 1",
    )
    yield from _unless(
        0 <= given.warmup_floor <= 1,
        "spec.learning_rate.warmup_floor",
        f"A warm-up cannot rise from {given.warmup_floor}.",
        "a number from 0 to 1",
    )
    yield from _unless(
        0 <= given.period <= 1,
        "spec.learning_rate.period",
        f"A cosine cannot take {given.period} of the budget.",
        "a number above 0, at most 1, 0 for all of it",
    )
    yield from _choice("spec.learning_rate.after_period", given.after_period, ("", *AFTER_PERIOD))
    for entry in given.groups:
        yield from _choice("spec.learning_rate.groups.group", entry.group, LR_GROUPS)
        yield from _choice("spec.learning_rate.groups.policy", entry.policy, LR_POLICIES)
    yield from _unless(
        len({entry.group for entry in given.groups}) == len(given.groups),
        "spec.learning_rate.groups",
        "A group has more than one learning-rate policy.",
        "each group once",
    )


def _growth(given: leyline.GrowthSpec) -> Iterator[Problem]:
    yield from _choice("spec.growth.policy", given.policy, GROWTH_POLICIES)
    yield from _unless(
        given.isolation in leyline.IsolationMode.values(),
        "spec.growth.isolation",
        f"Isolation mode {given.isolation} does not exist.",
        ", ".join(leyline.IsolationMode.keys()),
    )
    offered = [blueprint.blueprint_id for blueprint in load_catalogue() if not blueprint.quarantine_only]
    for name in given.blueprint_ids:
        yield from _choice("spec.growth.blueprint_ids", name, offered)


def _teacher(given: leyline.TeacherSpec) -> Iterator[Problem]:
    folder = Path(given.source)
    yield from _unless(
        bool(given.source) and folder.is_absolute() and folder.is_dir(),
        "spec.teacher.source",
        f"There is no teacher in {given.source!r}." if given.source else "The teacher has no source.",
        "the absolute path of the folder of a checkpoint or of an exported model",
    )
    yield from _unless(
        0 <= given.weight <= TEACHER_WEIGHT_LIMIT,
        "spec.teacher.weight",
        f"A teacher cannot have the weight {given.weight}.",
        f"a number from 0 to {TEACHER_WEIGHT_LIMIT:g}",
    )
    yield from _unless(
        not given.HasField("temperature") or 0 < given.temperature <= TEMPERATURE_LIMIT,
        "spec.teacher.temperature",
        f"Answers cannot be compared at the temperature {given.temperature}.",
        f"a number above 0, at most {TEMPERATURE_LIMIT:g}",
    )
    yield from _unless(
        given.memory_bytes < _MOST_COUNT,
        "spec.teacher.memory_bytes",
        f"A memory budget of {given.memory_bytes} bytes is no bound.",
        "0 for 1 GiB, or a whole number below 2^53",
    )


def _choice(field: str, value: str, allowed: Sequence[str]) -> Iterator[Problem]:
    if value in allowed:
        return
    names = [name for name in allowed if name]
    near = get_close_matches(value, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    yield Problem(field, f"{field} cannot be {value!r}; allowed: {', '.join(names)}.{hint}", ", ".join(names))


def _unless(holds: bool, field: str, sentence: str, allowed: str) -> Iterator[Problem]:
    if not holds:
        yield Problem(field, f"{sentence} {field} takes {allowed}.", allowed)
