"""What training feels when Tamiyo stops in the middle of it: held still by SIGSTOP, then let go again."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.harness.figures import Figure, Measured, Steps, step_figures
from benchmarks.harness.worker import TASK, drive, letter_spec, steps_for, steps_until
from esper_core.errors import EsperError
from esper_core.ids import new_ulid
from esper_core.rpc.probe import probe
from esper_core.stack import StackPaths, StackRecord, with_ports
from tolaria.rundir import RunDirectory
from tolaria.settings import WorkerSettings
from tolaria.training.loop import TrainingLoop
from weatherlight.launch import start

PEERS: Final = ("urza", "kasmina", "tamiyo")
SERVING_WITHIN_S: Final = 60.0
_ADVICE_S: Final = WorkerSettings.model_fields["advise_timeout_s"].default


def tamiyo_timeout(quick: bool) -> Measured:
    """Measure the steps before, while evaluations time out, after the loss was told, and after Tamiyo came back."""
    phase_s, timeout_s = (0.5, 0.2) if quick else (10.0, _ADVICE_S)
    phases: dict[str, Steps] = {}
    waits: dict[str, float] = {}
    with _peers() as (settings, tamiyo):

        def script(loop: TrainingLoop, run: RunDirectory) -> None:
            control = loop.links.control
            steps_until(loop, lambda: _connected(run), "the control plane")
            steps_for(loop, phase_s / 4)
            phases["alive"] = steps_for(loop, phase_s)
            with _held_still(tamiyo):
                began = time.monotonic()
                phases["timing out"] = steps_until(loop, lambda: "tamiyo" in control.reason, "the loss of Tamiyo")
                waits["told_lost_after"] = time.monotonic() - began
                phases["lost"] = steps_for(loop, phase_s)
            began = time.monotonic()
            phases["coming back"] = steps_until(loop, lambda: not control.lost, "Tamiyo's return")
            waits["told_back_after"] = time.monotonic() - began
            phases["back"] = steps_for(loop, phase_s)

        drive(letter_spec("schedule"), script, {**settings, "advise_timeout_s": timeout_s})
    figures = [figure for phase, steps in phases.items() for figure in step_figures(phase, steps)]
    figures += [Figure("all", name, "s", value, 1) for name, value in waits.items()]
    method = (
        f"{TASK}; a worker with policy schedule, connected to Urza, Kasmina and Tamiyo in processes of their own. "
        f"Tamiyo is stopped by SIGSTOP, so that its connection stays and no answer comes; one evaluation may take "
        f"{timeout_s:g} s, three that take longer make it lost. Then SIGCONT. Each turn of the loop is timed by itself."
    )
    return Measured(method, figures)


def _connected(run: RunDirectory) -> bool:
    status = run.read_status()
    return status is not None and status.control_plane_connected


@contextmanager
def _peers() -> Iterator[tuple[Mapping[str, Any], subprocess.Popen[bytes]]]:
    """Start the peers of a growing run; yields a worker's settings and Tamiyo's process."""
    with tempfile.TemporaryDirectory(prefix="esper-bench-peers-") as folder:
        paths = StackPaths(Path(folder))
        paths.prepare()
        record = with_ports(StackRecord(new_ulid(), datetime.now(UTC).isoformat()))
        processes = {name: start(name, record, paths)[0] for name in PEERS}
        try:
            _await_serving([record.address(name) for name in PEERS])
            addresses = {f"{name}_address": record.address(name) for name in PEERS}
            yield {**addresses, "keyring_file": paths.keyring}, processes["tamiyo"]
        finally:
            for process in processes.values():
                process.kill()
                process.wait(10.0)


def _await_serving(addresses: Sequence[str]) -> None:
    deadline = time.monotonic() + SERVING_WITHIN_S
    waiting = list(addresses)
    while waiting:
        waiting = [address for address in waiting if not _serves(address)]
        if waiting and time.monotonic() > deadline:
            raise RuntimeError(f"Not serving after {SERVING_WITHIN_S:.0f} s: {', '.join(waiting)}.")


def _serves(address: str) -> bool:
    try:
        probe(address, "", timeout_s=0.5)
    except EsperError:
        time.sleep(0.1)
        return False
    return True


@contextmanager
def _held_still(process: subprocess.Popen[bytes]) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)
