"""Whether a command makes sense: one reusable validator with a structured answer. It decides nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from esper_core import leyline
from esper_core.blueprints import Blueprint
from esper_core.errors import ValidationError
from kasmina.blend import check_blend
from kasmina.catalogue import Catalogue, CatalogueItem
from kasmina.commands import Command, OptimizerAdjustment, SeedOperation
from kasmina.kernels import KernelKey
from kasmina.ledger import RunLedger
from kasmina.lifecycle import BLENDING, DORMANT, GERMINATED, PROBATIONARY, SHADOWING, stage_name
from kasmina.rules import Rules
from kasmina.seeds import Seed
from kasmina.sites import Site

MAX_LEARNING_RATE_FACTOR = 2.0


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: the field, a sentence, and what would be allowed."""

    field: str
    message: str
    allowed: str = ""


@dataclass(frozen=True, slots=True)
class Validation:
    """The answer: no problems, or a reason (a value of `leyline.RejectReason`) with all that was found."""

    reason: int = leyline.REJECT_REASON_UNSPECIFIED
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the command may be carried out."""
        return not self.problems

    @property
    def explanation(self) -> str:
        """All problems as sentences."""
        return " ".join(
            f"{problem.field}: {problem.message}" + (f" Allowed: {problem.allowed}." if problem.allowed else "")
            for problem in self.problems
        )


ACCEPTABLE = Validation()


def wrong(problem: Problem, reason: int = leyline.REJECT_REASON_VALIDATION_FAILED) -> Validation:
    """Return the answer for a single problem."""
    return Validation(reason, (problem,))


class CommandValidator:
    """Validates commands against the state of a run and the catalogue."""

    def __init__(self, catalogue: Catalogue, rules: Rules) -> None:
        self._catalogue = catalogue
        self._rules = rules

    def validate(self, command: Command, ledger: RunLedger, now: datetime) -> Validation:
        """Check a verified command; the cheap and general checks come first."""
        general = _general(command, ledger, now)
        if not general.ok:
            return general
        problems = tuple(self._problems(command, ledger, now))
        return Validation(leyline.REJECT_REASON_VALIDATION_FAILED, problems) if problems else ACCEPTABLE

    def kernel_key(self, command: Command, ledger: RunLedger) -> KernelKey | None:
        """Return the kernel that a valid GERMINATE needs; None for every other command."""
        payload, site = command.payload, ledger.site(command.site)
        if not isinstance(payload, SeedOperation) or payload.operation != leyline.SEED_OPERATION_GERMINATE:
            return None
        item = self._catalogue.get(payload.blueprint_id)
        if site is None or item is None:
            return None
        parameters = item.blueprint.complete(payload.parameters or {})
        return KernelKey.of(payload.blueprint_id, parameters, site.contract)

    def _problems(self, command: Command, ledger: RunLedger, now: datetime) -> Iterator[Problem]:
        payload = command.payload
        if isinstance(payload, OptimizerAdjustment):
            yield from _optimizer(payload)
        elif isinstance(payload, SeedOperation):
            if payload.resume:
                yield Problem("seed_operation.resume", "A move that was interrupted goes on by itself.", "false")
            if payload.operation == leyline.SEED_OPERATION_GERMINATE:
                yield from self._germinate(command, payload, ledger, now)
            else:
                yield from self._seed_command(command, payload, ledger)

    def _germinate(
        self, command: Command, payload: SeedOperation, ledger: RunLedger, now: datetime
    ) -> Iterator[Problem]:
        site = ledger.site(command.site)
        if site is None:
            names = [known.name for known in ledger.opened.sites] if ledger.opened else []
            yield Problem("target_site", f"The host has no site {command.site!r}.", ", ".join(names))
            return
        item = self._catalogue.get(payload.blueprint_id)
        yield from self._blueprint(payload.blueprint_id, item, ledger)
        if item is not None:
            yield from _fit(payload, item, site)
        yield from self._room(site, payload.blueprint_id, ledger, now)

    def _blueprint(self, blueprint_id: str, item: CatalogueItem | None, ledger: RunLedger) -> Iterator[Problem]:
        allowed = ledger.opened.blueprint_ids if ledger.opened else ()
        restricted = ledger.opened is not None and ledger.opened.allow_restricted
        field = "seed_operation.blueprint_id"
        if not self._catalogue.heard:
            yield Problem(field, "Urza has not told its blueprints yet; try again in a moment.")
        elif item is None:
            known = ", ".join(name for name in self._catalogue.ids() if name in allowed)
            yield Problem(field, f"There is no blueprint {blueprint_id!r}.", known)
        elif blueprint_id not in allowed:
            yield Problem(field, f"This run may not use {blueprint_id}.", ", ".join(allowed))
        elif item.ineligible(restricted):
            yield Problem(field, item.ineligible(restricted))

    def _room(self, site: Site, blueprint_id: str, ledger: RunLedger, now: datetime) -> Iterator[Problem]:
        live = ledger.live_seeds()
        taken = next((seed for seed in live if seed.site == site.name), None)
        embargo = ledger.embargoes.get((site.name, blueprint_id))
        if taken is not None:
            yield Problem("target_site", f"Site {site.name} holds {taken.seed_id} in {stage_name(taken.stage)}.")
        elif len(live) >= self._rules.live_seeds:
            names = ", ".join(seed.seed_id for seed in live)
            yield Problem("target_site", f"{names} is still under way.", f"{self._rules.live_seeds} seed at a time")
        if embargo is not None and not embargo.over(now, ledger.epoch):
            sentence = f"{blueprint_id} was culled at {site.name} and waits: {embargo.reason}"
            until = f"from {embargo.until:%Y-%m-%d %H:%M:%S} UTC or epoch {embargo.until_epoch}"
            yield Problem("seed_operation.blueprint_id", sentence, until)

    def _seed_command(self, command: Command, payload: SeedOperation, ledger: RunLedger) -> Iterator[Problem]:
        seed = ledger.seeds.get(command.seed_id)
        if seed is None:
            live = ", ".join(known.seed_id for known in ledger.live_seeds())
            yield Problem("target_seed_id", f"The run has no seed {command.seed_id!r}.", live or "no seed is under way")
            return
        problem = _stage_problem(payload.operation, seed)
        if problem is not None:
            yield problem
        elif payload.operation == leyline.SEED_OPERATION_SET_BLEND:
            yield from self._new_blend(payload, seed, ledger)

    def _new_blend(self, payload: SeedOperation, seed: Seed, ledger: RunLedger) -> Iterator[Problem]:
        site, item = ledger.site(seed.site), self._catalogue.get(seed.blueprint_id)
        if payload.blend is None or site is None:
            yield Problem("seed_operation.blend", "SET_BLEND needs a blend configuration.", "a BlendConfig")
            return
        try:
            check_blend(payload.blend, site.contract.channels, item.blend_modes if item is not None else ())
        except ValidationError as error:
            yield Problem(f"seed_operation.{error.field}", error.message, error.allowed)


def _general(command: Command, ledger: RunLedger, now: datetime) -> Validation:
    if ledger.opened is None:
        return wrong(Problem("training_run_id", f"No runtime of run {command.run_id} has said hello."))
    if ledger.ended is not None:
        return wrong(Problem("training_run_id", f"Run {command.run_id} is over: {ledger.ended.reason}."))
    if command.deadline is not None and now > command.deadline:
        sentence = f"The command was to be executed by {command.deadline:%H:%M:%S.%f} UTC."
        return wrong(Problem("execution_deadline", sentence), leyline.REJECT_REASON_STALE_COMMAND)
    if command.generation != ledger.generation:
        sentence = f"It was decided on generation {command.generation}; the topology is at {ledger.generation}."
        problem = Problem("based_on_generation", sentence, str(ledger.generation))
        return wrong(problem, leyline.REJECT_REASON_STALE_GENERATION)
    return _payload_fits(command)


_PAYLOADS = {
    leyline.COMMAND_TYPE_SEED: "seed_operation",
    leyline.COMMAND_TYPE_ROLLBACK: "rollback",
    leyline.COMMAND_TYPE_OPTIMIZER: "optimizer",
    leyline.COMMAND_TYPE_CIRCUIT_BREAKER: "breaker",
    leyline.COMMAND_TYPE_PAUSE: "pause",
    leyline.COMMAND_TYPE_EMERGENCY: "emergency",
}


def _payload_fits(command: Command) -> Validation:
    wanted = _PAYLOADS.get(leyline.CommandType.ValueType(command.kind), "")
    payload = command.payload
    if isinstance(payload, SeedOperation):
        given = "seed_operation"
    elif isinstance(payload, OptimizerAdjustment):
        given = "optimizer"
    else:
        given = payload.name if payload else ""
    if given == wanted and wanted:
        return ACCEPTABLE
    return wrong(Problem("payload", f"The command carries {given or 'no payload'}.", wanted or "a known command type"))


def _optimizer(payload: OptimizerAdjustment) -> Iterator[Problem]:
    factor = payload.learning_rate_factor
    if not (math.isfinite(factor) and 0.0 < factor <= MAX_LEARNING_RATE_FACTOR):
        allowed = f"above 0 and at most {MAX_LEARNING_RATE_FACTOR:g}"
        yield Problem("optimizer.learning_rate_factor", f"A factor of {factor} is out of bounds.", allowed)


def _fit(payload: SeedOperation, item: CatalogueItem, site: Site) -> Iterator[Problem]:
    checks: tuple[Callable[[], object], ...] = (
        lambda: site.admit(item.blueprint),
        lambda: _check_parameters(item.blueprint, payload, site),
        lambda: _check_blend(payload, item, site),
    )
    for check in checks:
        try:
            check()
        except ValidationError as error:
            yield Problem(f"seed_operation.{error.field}", error.message, error.allowed)


def _check_blend(payload: SeedOperation, item: CatalogueItem, site: Site) -> None:
    if payload.blend is not None:
        check_blend(payload.blend, site.contract.channels, item.blend_modes)


def _check_parameters(blueprint: Blueprint, payload: SeedOperation, site: Site) -> None:
    blueprint.complete_for(site.contract, payload.parameters or {})


_POSSIBLE_IN = {
    leyline.SEED_OPERATION_ADVANCE: (GERMINATED, PROBATIONARY),
    leyline.SEED_OPERATION_FOSSILIZE: (SHADOWING, PROBATIONARY),
    leyline.SEED_OPERATION_CULL: (GERMINATED, PROBATIONARY),
    leyline.SEED_OPERATION_CANCEL: (DORMANT, DORMANT),
    leyline.SEED_OPERATION_SET_BLEND: (GERMINATED, BLENDING),
}


def _stage_problem(operation: int, seed: Seed) -> Problem | None:
    named = leyline.SeedOperation.ValueType(operation)
    first, last = _POSSIBLE_IN[named]
    if not seed.closed and first <= seed.stage <= last:
        return None
    name = leyline.SeedOperation.Name(named).removeprefix("SEED_OPERATION_")
    sentence = f"{name} is not possible while the seed is {stage_name(seed.stage)}."
    return Problem("seed_operation.operation", sentence, f"from {stage_name(first)} to {stage_name(last)}")
