"""Runs the demo's trainings on a stack, two at a time, and gathers what happened in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from esper_cli.demo.plan import SIZES, Budget, Search, arm_runs, search_runs
from esper_cli.demo.results import ArmRun, CurvePoint, DemoResults, SeedStep, SpentBudget
from esper_cli.follow import told
from esper_cli.run_client import RunClient, raise_unless_completed
from esper_cli.run_spec import RunOptions, run_spec
from esper_cli.run_views import run_summary, stage_word
from esper_cli.stack_client import StackClient
from esper_cli.stopping import StopRequest
from esper_core import leyline

Tell = Callable[[str], None]
Progressed = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Watcher:
    """How a demo is shown while it runs.

    Parameters
    ----------
    tell : Tell
        Takes a line for people.
    progressed : Progressed
        Takes the label of a run and the fraction of its budget that is spent.
    stop : StopRequest
        Whether somebody wants it to end before.
    """

    tell: Tell
    progressed: Progressed
    stop: StopRequest


def run_demo(
    stack: StackClient, budget: Budget, seeds: int, parallel: int, machine: Mapping[str, Any], watcher: Watcher
) -> DemoResults:
    """Search the static networks' learning rates, then train all arms, and return what was measured.

    Raises
    ------
    RunFailedError, RunHaltedError
        If a run did not complete.
    KeyboardInterrupt
        If somebody asked to stop.
    """
    began = time.monotonic()
    runs = RunClient(stack)
    pool = ThreadPoolExecutor(parallel)
    try:
        search = _search(pool, runs, budget, watcher)
        pending = [
            (arm, seed, pool.submit(_finish, runs, options, watcher))
            for seed in range(seeds)
            for arm, options in arm_runs(budget, seed, search.chosen).items()
        ]
        finished = [_arm_run(arm, seed, *watcher.stop.result_of(done)) for arm, seed, done in pending]
    finally:
        runs.give_up()
        # Whoever interrupts a demo does not want to wait for the runs that are under way: they end with the stack.
        pool.shutdown(wait=False, cancel_futures=True)
    return DemoResults(finished, search, budget, time.monotonic() - began, machine)


def _search(pool: ThreadPoolExecutor, runs: RunClient, budget: Budget, watcher: Watcher) -> Search:
    if not budget.search_flops:
        return Search(chosen=dict.fromkeys(SIZES, budget.learning_rates[0]))
    pending = {key: pool.submit(_finish, runs, options, watcher) for key, options in search_runs(budget).items()}
    losses: dict[str, dict[float, float]] = {arm: {} for arm in SIZES}
    for (arm, rate), done in pending.items():
        losses[arm][rate] = _validation_loss(watcher.stop.result_of(done)[0])
    search = Search.judged(losses)
    for arm, rate in search.chosen.items():
        watcher.tell(f"learning rate of {arm}: {rate:g}, best of {len(losses[arm])} on validation data")
    return search


Finished = tuple[leyline.RunStatus, list[leyline.RunEvent]]


def _finish(runs: RunClient, options: RunOptions, watcher: Watcher) -> Finished:
    status = runs.submit(run_spec(options))
    kept = []
    for event in runs.events(status.training_run_id):
        kept.append(event)
        if event.HasField("progress"):
            watcher.progressed(options.label, event.progress.fraction)
        line = told(event) if event.WhichOneof("payload") != "state" else ""
        if line:
            watcher.tell(f"{options.label}: step {event.global_step}, {line}")
    status = runs.status(status.training_run_id)
    raise_unless_completed(status)
    watcher.progressed(options.label, 1.0)
    return status, kept


def _arm_run(arm: str, seed: int, status: leyline.RunStatus, events: list[leyline.RunEvent]) -> ArmRun:
    spent = SpentBudget.of(events)
    curve = [
        CurvePoint(event.global_step, spent.at(event.global_step), event.validation.loss, event.validation.accuracy)
        for event in events
        if event.HasField("validation")
    ]
    timeline = [_seed_step(event, spent) for event in events if event.HasField("seed")]
    return ArmRun(arm, seed, run_summary(status), curve, timeline)


def _seed_step(event: leyline.RunEvent, spent: SpentBudget) -> SeedStep:
    seed = event.seed
    return SeedStep(
        step=event.global_step,
        fraction=spent.at(event.global_step),
        seed_id=seed.seed_id,
        site=seed.site,
        blueprint_id=seed.blueprint_id,
        stage=stage_word(seed.to_stage),
        reason=seed.reason,
    )


def _validation_loss(status: leyline.RunStatus) -> float:
    return float(status.progress.validation_loss)
