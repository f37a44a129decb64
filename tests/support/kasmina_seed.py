"""The first seed of a scripted run: planted, brought to a stage, decided on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from esper_core import leyline
from kasmina.commands import Command, Outcome
from kasmina.lifecycle import CULLED, DORMANT, EMBARGOED, FOSSILIZED, PROBATIONARY, RESETTING, TERMINATED
from kasmina.operations import Supply
from kasmina.rules import Rules
from support.kasmina_life import BLUEPRINT, RUN, TOTAL_STEPS, ScriptedRuntime, germinate, kernel_for, seed_command

SEED = f"{RUN}/hidden/1"


def running(rules: Rules | None = None) -> ScriptedRuntime:
    """A connected run without seeds."""
    run = ScriptedRuntime(rules=rules or Rules())
    run.connect()
    return run


def grown(stage: int, rules: Rules | None = None) -> ScriptedRuntime:
    """A run with a seed in a stage up to PROBATIONARY, at the first step that it is there."""
    run = running(rules)
    run.command(germinate())
    while run.stage(SEED) < stage:
        run.train(5)
        assert run.step_now < TOTAL_STEPS
    return run


def decide(run: ScriptedRuntime, operation: int, **more: Any) -> Outcome:
    """Command something about the seed."""
    return run.command(seed_command(operation, SEED, run.generation, **more)).outcome


def supplied(run: ScriptedRuntime) -> tuple[Command, Supply]:
    """A GERMINATE and the kernel for it."""
    command = germinate()
    key = run.validator.kernel_key(command, run.executor.ledger)
    assert key is not None
    return command, Supply(run.catalogue.get(BLUEPRINT), key, kernel_for(key))


def preparing(rules: Rules | None = None) -> ScriptedRuntime:
    """A run that has not answered the PREPARE yet: the seed is DORMANT with its kernel on the way."""
    run = running(rules)
    run.facts.extend(run.executor.command(*supplied(run)))
    return run


def at(stage: int) -> ScriptedRuntime:
    """A run whose seed stands in any of the eleven stages, with an embargo that only time ends."""
    rules = Rules(embargo_epochs=10**6)
    if stage == DORMANT:
        return preparing(rules)
    run = grown(min(stage, PROBATIONARY), rules)
    if stage in _LATER:
        _LATER[stage](run)
    assert run.stage(SEED) == stage
    return run


def _keep(run: ScriptedRuntime) -> None:
    run.train(35)
    assert decide(run, leyline.SEED_OPERATION_FOSSILIZE, number=7).accepted
    run.train(5)


def _terminate(run: ScriptedRuntime) -> None:
    _keep(run)
    run.take(run.executor.ended("completed", False))
    run.connect(inventory=())


def _cull(run: ScriptedRuntime) -> None:
    decide(run, leyline.SEED_OPERATION_CULL, number=7)


def _cull_in_vain(run: ScriptedRuntime) -> None:
    run.refuse = {leyline.DIRECTIVE_KIND_DETACH: "ESP-1000"}
    _cull(run)


def _leave_something(run: ScriptedRuntime) -> None:
    """Cull a seed whose optimizer group the runtime cannot get rid of, and let its embargo expire by time."""
    run.leaves = ("optimizer_group", "cache")
    _cull(run)
    run.clock.advance(run.rules.embargo_s)
    run.report()
    run.leaves = ()


_LATER: dict[int, Callable[[ScriptedRuntime], None]] = {
    FOSSILIZED: _keep,
    TERMINATED: _terminate,
    CULLED: _cull_in_vain,
    EMBARGOED: _cull,
    RESETTING: _leave_something,
}
