"""A real training worker whose turns are interleaved with a bare loop on a copy of its model.

    python -m benchmarks.paired_worker --run-dir DIR --plan plan.json --out measured.json [--state-dir STACK]

Everything is the worker's own: session, fence, pulse, keeper, mediator thread, journal. Only the loop over the turns is
this one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.bare_loop import BareLoop
from benchmarks.local_stack import outage
from benchmarks.paired import Block, Pairs, timed_block
from esper_core import leyline
from esper_core.errors import RunHaltedError, to_exit_code
from esper_core.logs import configure_logging
from esper_core.settings import load
from esper_core.stack import StackPaths
from tolaria.rundir import RunDirectory
from tolaria.settings import WorkerSettings
from tolaria.training.costs import topology_key
from tolaria.training.loop import TrainingLoop
from tolaria.training.orders import Ending
from tolaria.training.session import Session
from tolaria.worker.run import work
from tolaria.worker.start import let_the_mediator_in, use_one_interop_thread

WARM_STEPS: Final = 20
SETTLE_S: Final = 3.0
DORMANT: Final = "dormant"
CONTROL_PLANE: Final = ("tamiyo", "kasmina")
_PATIENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a worker measures.

    Attributes
    ----------
    steps_per_block : int
        Steps of each side in a pair.
    pairs : int
        Pairs per state of the control plane; 0 goes on until the budget is spent and names states after the seed.
    alive, dead : bool
        Whether to measure with the control plane alive, and after Tamiyo and Kasmina were killed.
    """

    steps_per_block: int
    pairs: int
    alive: bool = False
    dead: bool = False


class PairedRun:
    """Drives a training loop and measures it.

    Parameters
    ----------
    plan : Plan
        What to measure.
    run_dir : RunDirectory
        The run, for a look at its status.
    stack : StackPaths, optional
        Where the control plane lives; only needed to kill it.
    """

    def __init__(self, plan: Plan, run_dir: RunDirectory, stack: StackPaths | None) -> None:
        self._plan = plan
        self._run_dir = run_dir
        self._stack = stack
        self.measured: dict[str, Pairs] = {}
        self._bare: BareLoop | None = None
        self._bare_of = ""
        self._count = 0

    def __call__(self, loop: TrainingLoop) -> Ending:
        """Train and measure; the run is halted when everything was measured."""
        plan = self._plan
        if not plan.pairs:
            return self._whole_run(loop)
        if plan.alive:
            self._turn_until(loop, self._connected, "a connected control plane")
        self._settle(loop)
        self._measure(loop, "dormant, controller alive" if plan.alive else "dormant, static run")
        if plan.dead:
            self._measure_dead(loop)
        return Ending("halted", "Everything was measured.")

    def _whole_run(self, loop: TrainingLoop) -> Ending:
        while True:
            ending = self._pair(loop, lambda: _state_of(loop.session))
            if ending is not None:
                return ending

    def _measure_dead(self, loop: TrainingLoop) -> None:
        if self._stack is None:
            raise ValueError("the control plane can only be killed where its state folder is known")
        with outage(self._stack, CONTROL_PLANE):
            lost = loop.links.control
            self._turn_until(loop, lambda: all(peer in lost.reason for peer in CONTROL_PLANE), "a lost control plane")
            self._settle(loop)
            self._measure(loop, "dormant, controller dead")

    def _measure(self, loop: TrainingLoop, label: str) -> None:
        for _ in range(self._plan.pairs):
            ending = self._pair(loop, lambda: label)
            if ending is not None:
                raise RuntimeError(f"the run ended while it was measured: {ending.reason}")

    def _pair(self, loop: TrainingLoop, label: Callable[[], str]) -> Ending | None:
        """Measure a pair of blocks; a pair in which the topology changed is not counted."""
        ending: list[Ending] = []

        def turn() -> Ending | None:
            answer = loop.turn()
            if answer is not None:
                ending.append(answer)
            return answer

        bare, count = self._bare_loop(loop.session), self._plan.steps_per_block
        before = self._bare_of
        self._count += 1
        blocks: dict[str, Block] = {}
        order = ("bare", "managed") if self._count % 2 else ("managed", "bare")
        for side in order:
            blocks[side] = timed_block(bare.step if side == "bare" else turn, count)
        if not ending and topology_key(loop.session.host) == before:
            self.measured.setdefault(label(), Pairs()).add(blocks["bare"], blocks["managed"])
        return ending[0] if ending else None

    def _bare_loop(self, session: Session) -> BareLoop:
        key = topology_key(session.host)
        if self._bare is None or key != self._bare_of:
            self._bare, self._bare_of = BareLoop(session), key
            timed_block(self._bare.step, WARM_STEPS)
        return self._bare

    def _turn_until(self, loop: TrainingLoop, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"waited {_PATIENCE_S:.0f} s in vain for {what}")
            timed_block(loop.turn, WARM_STEPS)

    def _settle(self, loop: TrainingLoop) -> None:
        until = time.monotonic() + SETTLE_S
        while time.monotonic() < until:
            timed_block(loop.turn, WARM_STEPS)

    def _connected(self) -> bool:
        status = self._run_dir.read_status()
        return status is not None and status.control_plane_connected


def _state_of(session: Session) -> str:
    """Name the state after the seed that is under way, or the last one that was kept."""
    unsettled = session.book.unsettled()
    stages = [entry.stage for entry in unsettled] or [
        entry.stage for entry in session.book if entry.stage == leyline.SEED_STAGE_FOSSILIZED
    ]
    return (
        leyline.SeedStage.Name(leyline.SeedStage.ValueType(stages[-1])).removeprefix("SEED_STAGE_").lower()
        if stages
        else DORMANT
    )


@contextmanager
def _written(path: Path, run: PairedRun) -> Iterator[None]:
    try:
        yield
    finally:
        document: dict[str, Any] = {state: pairs.as_json() for state, pairs in run.measured.items()}
        path.write_text(json.dumps(document))


def main() -> int:
    """Measure, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder of the run, with its spec.json")
    parser.add_argument("--plan", type=Path, required=True, help="JSON file with the fields of Plan")
    parser.add_argument("--out", type=Path, required=True, help="where to write the block timings")
    parser.add_argument("--state-dir", type=Path, help="state folder of the stack whose control plane is to be killed")
    arguments = parser.parse_args()
    run_dir = RunDirectory(arguments.run_dir.resolve())
    settings = load(WorkerSettings)
    configure_logging("tolaria.worker", level=settings.log_level, file=run_dir.log_path)
    use_one_interop_thread()
    let_the_mediator_in()
    stack = StackPaths(arguments.state_dir) if arguments.state_dir else None
    run = PairedRun(Plan(**json.loads(arguments.plan.read_text())), run_dir, stack)
    with _written(arguments.out, run):
        code = work(run_dir, settings, run)
    # A measured run ends as halted by us, which is what was wanted.
    return 0 if code == to_exit_code(RunHaltedError("")) else code


if __name__ == "__main__":
    sys.exit(main())
