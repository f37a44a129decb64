"""A real worker process trains Letter; killed in the middle and started again it ends where an undisturbed one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.blueprints import sha256_hex
from esper_core.ids import new_run_id
from esper_core.journal import read_journal
from support.tolaria_runs import letter_spec
from support.waiting import wait_until
from tolaria.rundir import RunDirectory, RunRequest

STEPS = 2500


def new_run(folder: Path, **spec: object) -> RunDirectory:
    run = RunDirectory(folder)
    chosen = letter_spec(**{"max_steps": STEPS, **spec})
    run.write_request(RunRequest(new_run_id(), chosen, datetime.now(UTC)))
    return run


def start(run: RunDirectory, **settings: str) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ESPER_", "TOLARIA_"))}
    environment |= {"OMP_NUM_THREADS": "1", **settings}
    command = [sys.executable, "-m", "tolaria.worker", "--run-dir", str(run.path)]
    with (run.path / "stderr.txt").open("ab") as stderr:
        return subprocess.Popen(command, env=environment, stderr=stderr)


def status(run: RunDirectory) -> leyline.RunStatus:
    found = run.read_status()
    assert found is not None
    return found


def checkpoints(run: RunDirectory) -> list[str]:
    folder = run.checkpoints_path
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if folder.exists() else []


def weights_digest(run: RunDirectory) -> str:
    (final,) = [name for name in checkpoints(run) if name.endswith("-final")]
    return sha256_hex((run.checkpoints_path / final / "tensors.safetensors").read_bytes())


def sequences(run: RunDirectory) -> list[int]:
    return [leyline.RunEvent.FromString(payload).sequence for payload in read_journal(run.events_path).payloads]


def test_a_killed_worker_ends_with_the_same_weights(tmp_path: Path) -> None:
    undisturbed, killed = new_run(tmp_path / "a"), new_run(tmp_path / "b")
    assert start(undisturbed).wait(60) == 0
    process = start(killed, TOLARIA_CHECKPOINT_INTERVAL_S="0.1")
    wait_until(lambda: len(checkpoints(killed)) >= 2, 40, what="two checkpoints")
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    before = sequences(killed)[-1]
    assert start(killed).wait(60) == 0
    ended = status(killed)
    assert ended.state == leyline.RUN_STATE_COMPLETED and ended.result.resumes == 1
    assert weights_digest(killed) == weights_digest(undisturbed)
    assert ended.result.accuracy == status(undisturbed).result.accuracy > 0.7
    assert ended.result.flops == status(undisturbed).result.flops
    assert sequences(killed) == list(range(1, sequences(killed)[-1] + 1)) and sequences(killed)[-1] > before
    mark = killed.read_mark()
    assert mark is not None and mark.attempt == 2


def test_sigterm_halts_with_a_checkpoint_and_the_run_can_be_taken_up(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", max_steps=20_000)
    process = start(run, TOLARIA_STATUS_INTERVAL_S="0.1")
    wait_until(lambda: (run.read_status() or leyline.RunStatus()).progress.step > 100, 40, what="some steps")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) != 0
    halted = status(run)
    assert halted.state == leyline.RUN_STATE_HALTED and "SIGTERM" in halted.reason and halted.worker_pid == 0
    assert checkpoints(run)[-1].endswith("-halt")
    again = start(run, TOLARIA_STATUS_INTERVAL_S="0.1")
    wait_until(lambda: status(run).state == leyline.RUN_STATE_RUNNING, 40, what="the run going on")
    assert status(run).progress.step >= halted.progress.step
    again.kill()
    again.wait(10)


@pytest.mark.parametrize(("spec", "code"), [({"task": "lettre"}, "ESP-1006"), ({"batch_size": 10**6}, "ESP-1003")])
def test_a_run_that_cannot_start_fails_with_its_code(tmp_path: Path, spec: dict[str, object], code: str) -> None:
    run = new_run(tmp_path / "run", **spec)
    assert start(run).wait(40) != 0
    assert status(run).state == leyline.RUN_STATE_FAILED and status(run).error_code == code


def test_a_second_worker_of_the_same_run_is_turned_away(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", max_steps=50_000)
    first = start(run, TOLARIA_STATUS_INTERVAL_S="0.1")
    wait_until(lambda: (run.read_status() or leyline.RunStatus()).progress.step > 0, 40, what="a first step")
    assert start(run).wait(40) != 0
    assert "in use by process" in (run.path / "stderr.txt").read_text()
    first.kill()
    first.wait(10)
