"""Emergencies and deadlines between two processes through shared memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.journal import read_journal
from esper_core.pb.esper.tolaria.v1 import tolaria_pb2
from esper_core.shared_ring import SLOTS
from support.tolaria_runs import SmallRun
from support.waiting import wait_until
from tolaria.rundir import RunDirectory
from tolaria.safety.deadlines import DeadlineBoard, announced_deadline
from tolaria.safety.signals import SignalReader, order_of, send_signal
from tolaria.training.loop import TrainingLoop

SENDER = """
import sys
from pathlib import Path
from esper_core import leyline
from esper_core.pb.esper.tolaria.v1 import tolaria_pb2
from tolaria.rundir import RunDirectory
from tolaria.safety.deadlines import announced_deadline
from tolaria.safety.signals import send_signal
run = RunDirectory(Path(sys.argv[1]))
while not (found := announced_deadline(run)).running:
    pass
order = tolaria_pb2.WorkerOrder(order_id="emergency-s1", kind=leyline.ORDER_KIND_EMERGENCY, signal_id="s1",
                                level=leyline.EMERGENCY_LEVEL_HALT, reason=f"late at {found.at_monotonic_s}")
send_signal(run, order)
"""


def order(name: str, level: int = leyline.EMERGENCY_LEVEL_NOTICE) -> tolaria_pb2.WorkerOrder:
    return tolaria_pb2.WorkerOrder(
        order_id=f"emergency-{name}",
        kind=leyline.ORDER_KIND_EMERGENCY,
        reason="smoke",
        level=leyline.EmergencyLevel.ValueType(level),
        signal_id=name,
    )


def told(run: SmallRun) -> list[str]:
    events = [leyline.RunEvent.FromString(payload) for payload in read_journal(run.folder.events_path).payloads]
    return [event.emergency.signal_id for event in events if event.HasField("emergency")]


@pytest.mark.req("TOL-34")
def test_another_process_sees_our_deadline_and_halts_us_at_the_next_fence(tmp_path: Path) -> None:
    folder = RunDirectory(tmp_path)
    board, reader = DeadlineBoard(folder), SignalReader(folder)
    process = subprocess.Popen([sys.executable, "-c", SENDER, str(tmp_path)], env=dict(os.environ))
    try:
        board.begin(12.5, 1_700_000_000.0)
        wait_until(lambda: reader.waiting, 20.0)
        (received,) = reader.take()
        assert process.wait(10.0) == 0
    finally:
        process.kill()
        process.wait(10.0)
    assert (received.order_id, received.level) == ("emergency-s1", leyline.EMERGENCY_LEVEL_HALT)
    assert received.reason == "late at 12.5" and not reader.waiting


@pytest.mark.req("TOL-34")
def test_a_signal_that_comes_both_ways_is_obeyed_and_told_once(run: SmallRun) -> None:
    send_signal(run.folder, order("s1"))
    run.links.inbox.post(order_of(order("s1")))
    run.parts.fence.cross()
    assert told(run) == ["s1"]
    assert [answer.applied for answer in run.links.to_tolaria.take()] == [True, True]


@pytest.mark.req("TOL-34", "TOL-35")
def test_a_halt_through_shared_memory_ends_the_run_at_the_next_fence(run: SmallRun) -> None:
    send_signal(run.folder, order("s1", leyline.EMERGENCY_LEVEL_HALT))
    assert TrainingLoop(run.parts).run().reason == "Emergency: smoke"
    assert run.session.counters.step == 0


@pytest.mark.req("TOL-24", "TOL-34")
def test_signals_that_were_overwritten_are_an_emergency_themselves(run: SmallRun) -> None:
    for number in range(SLOTS + 3):
        send_signal(run.folder, order(f"s{number}"))
    run.parts.fence.cross()
    run.parts.fence.close()
    assert [name for name in told(run) if name.startswith("s")] == [f"s{number}" for number in range(3, SLOTS + 3)]
    assert "3 signals in shared memory were overwritten" in str(read_journal(run.folder.events_path).payloads)


@pytest.mark.req("TOL-34")
def test_a_rollback_announces_its_deadline_only_while_it_runs(run: SmallRun) -> None:
    run.parts.keeper.start()
    before = announced_deadline(run.folder)
    assert before is not None and not before.running and before.pid == os.getpid()
    with run.parts.recovery._rollback._announced(1000.0):
        seen = announced_deadline(run.folder)
    assert seen is not None and seen.running and seen.at_s == 1012.0
    assert time.monotonic() < seen.at_monotonic_s < time.monotonic() + 12.1
    assert run.parts.recovery._rollback.go_back("test").restored
    after = announced_deadline(run.folder)
    assert after is not None and not after.running and after.number == before.number + 4
