"""Three of the scenarios; the fourth, `tamiyo_timeout`, has a file of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from benchmarks import prefetch, rollback
from benchmarks.harness.figures import Figure, Measured, Steps, step_figures
from benchmarks.harness.worker import TASK, drive, letter_spec, steps_for
from benchmarks.local_stack import local_stack, outage
from tolaria.rundir import RunDirectory
from tolaria.training.loop import TrainingLoop


def steady_train(quick: bool) -> Measured:
    """Measure a worker that has nothing to do but train."""
    seconds = 1.0 if quick else 20.0
    found: list[Steps] = []

    def script(loop: TrainingLoop, run: RunDirectory) -> None:
        steps_for(loop, seconds / 4)
        found.append(steps_for(loop, seconds))

    drive(letter_spec("none"), script, {})
    method = (
        f"{TASK}; a worker with mediator thread, journal, snapshots and checkpoints as they are set by default, "
        f"without peers. Each turn of its loop is timed for {seconds:g} s, after a quarter of that to warm up."
    )
    return Measured(method, list(step_figures("training", found[0])))


def rollback_deadline(quick: bool) -> Measured:
    """Measure both tiers of the rollback against their deadlines."""
    sizes = [rollback.QUICK] if quick else [size for size in rollback.SIZES if size.name != "100 M"]
    figures: list[Figure] = []
    for size in sizes:
        found = rollback.measure(size)
        for tier in ("fast", "full"):
            one, count = found[tier], int(found[tier]["repeats"])
            phase = f"{tier}, {found['parameters']:,} parameters"
            figures += [
                Figure(phase, "restore_median", "ms", one["median_ms"], count),
                Figure(phase, "restore_longest", "ms", one["longest_ms"], count),
                Figure(phase, "longest_share_of_deadline", "1", one["longest_share"], count),
            ]
    method = (
        "As in rollback.md: `Rollback.go_back` from memory (deadline 500 ms) and from disk (12 s), the file dropped "
        "from the page cache before; Adam, one thread on the CPU. Latencies as the rollback itself reports them."
    )
    return Measured(method, figures)


def kasmina_prefetch_burst(quick: bool) -> Measured:
    """Measure Kasmina's way to kernels while many are asked for at once."""
    requests = prefetch.BLOCK if quick else 300
    expansions = prefetch.EXPANSIONS[:1] if quick else prefetch.EXPANSIONS
    with local_stack() as paths, outage(paths, ["kasmina"]):
        found = asyncio.run(prefetch.measure(paths, requests, expansions))
    method = (
        f"As in prefetch.md: {requests} requests for each arm, {prefetch.CONCURRENCY} at a time, against the real "
        f"Oona, Urabrask and Urza of a local stack; Kasmina's loader runs in this process in Kasmina's place."
    )
    return Measured(method, [figure for name, arm in found["arms"].items() for figure in arm_figures(name, arm)])


def arm_figures(phase: str, arm: Mapping[str, float]) -> Iterator[Figure]:
    """Yield what one arm of the prefetch benchmark found."""
    count = int(arm["requests"])
    for share in (50, 95, 99):
        yield Figure(phase, f"request_p{share}", "ms", arm[f"p{share}_ms"], count)
    yield Figure(phase, "requests_per_s", "1/s", arm["per_s"], count)
