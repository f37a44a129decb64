"""One start of a worker, from reading the request to the last word."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import TypeAlias

import psutil

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, from_timestamp
from esper_core.errors import EsperError, RunHaltedError, to_exit_code
from esper_core.files import FileLock
from esper_core.ids import new_id
from esper_core.logs import get_logger
from esper_tasks import load_task
from tolaria.mediator.peer import Voices
from tolaria.mediator.thread import Mediator
from tolaria.reporting.board import StatusBoard
from tolaria.reporting.events import EventLog
from tolaria.rundir import RunDirectory, RunRequest, WorkerMark
from tolaria.safety.deadlines import DeadlineBoard
from tolaria.safety.signals import SignalReader
from tolaria.settings import WorkerSettings
from tolaria.state.checkpoints import CheckpointStore
from tolaria.training.links import Ended, Links, make_links
from tolaria.training.loop import LoopParts, TrainingLoop
from tolaria.training.opening import open_session
from tolaria.training.orders import Ending, Order
from tolaria.training.planning import resolve_plan
from tolaria.training.session import Session
from tolaria.worker.assembly import Surroundings, assemble
from tolaria.worker.ending import conclude
from tolaria.worker.facts import run_facts
from tolaria.worker.start import Begun, begin, begin_teaching, was_interrupted
from tolaria.worker.wiring import Wiring, open_bridge

Train: TypeAlias = Callable[[TrainingLoop], Ending]
_log = get_logger("worker")


def work(run_dir: RunDirectory, settings: WorkerSettings, train: Train = TrainingLoop.run) -> int:
    """Take a run as far as it goes; returns the exit status of the process.

    Parameters
    ----------
    run_dir : RunDirectory
        The run.
    settings : WorkerSettings
        How to train and whom to talk to.
    train : callable
        Drives the loop to its end; a measurement puts its own turns between those of the loop.

    Raises
    ------
    StateFolderInUseError
        If another worker has this run.
    """
    with FileLock(run_dir.lock_path):
        earlier = run_dir.read_status()
        if earlier is not None and earlier.state == leyline.RUN_STATE_COMPLETED:
            _log.info("the run is complete; there is nothing to do")
            return 0
        return _Start(run_dir, settings, earlier, train).take()


class _Start:
    """One start of a run: everything that lives as long as this process."""

    def __init__(
        self, run_dir: RunDirectory, settings: WorkerSettings, earlier: leyline.RunStatus | None, train: Train
    ) -> None:
        self._train = train
        self._run_dir = run_dir
        self._settings = settings
        self._earlier = earlier
        self._request: RunRequest = run_dir.read_request()
        self._mark = self._leave_mark()
        self._board = StatusBoard(self._request, os.getpid())
        self._events = EventLog(run_dir.events_path, self._request.run_id)
        self._links: Links = make_links(settings.outbox_limit)
        self._bridge = open_bridge(settings, self._request.run_id)

    def take(self) -> int:
        """Run, and say with which status the process ends; an error becomes the run's FAILED state."""
        try:
            return self._take()
        except Exception as error:
            _log.error("the run failed", exc_info=error)
            self._fail(error)
            return to_exit_code(error)
        finally:
            self._save_status()
            self._events.close()
            if self._bridge is not None:
                self._bridge.close()

    def _take(self) -> int:
        session, begun = self._open()
        teacher = begin_teaching(session, self._former_teacher(session))
        parts = assemble(session, self._surroundings())
        wiring = Wiring(
            run_facts(session),
            self._settings,
            self._links,
            parts.reporter,
            self._voices(session),
            self._mark,
            self._save_status,
        )
        mediator = Mediator(wiring.parts, self._settings.shutdown_s, wiring.part_crashed)
        mediator.start()
        self._tell_start(parts, begun, teacher)
        ending = Ending("halted", "The worker failed.")
        try:
            parts.keeper.start()
            with _halting_on_sigterm(self._links):
                ending = self._train(TrainingLoop(parts))
            conclude(parts, self._board, ending, self._mark.resumes)
        except Exception as error:
            self._fail(error)
            raise
        finally:
            self._save_status()
            parts.reporter.last_record()
            self._links.to_kasmina.put(Ended(ending.how, ending.how == "halted"))
            mediator.stop()
            parts.keeper.close()
        return 0 if ending.how == "completed" else to_exit_code(RunHaltedError(ending.reason))

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            self._settings,
            self._links,
            self._board,
            self._events,
            self._store(),
            self._save_status,
            SignalReader(self._run_dir),
            DeadlineBoard(self._run_dir, self._bridge),
            self._bridge,
        )

    def _voices(self, session: Session) -> Voices:
        return Voices(
            board=self._board,
            events=self._events,
            control=self._links.control,
            step=lambda: session.counters.step,
            generation=lambda: session.host.generation,
        )

    def _open(self) -> tuple[Session, Begun]:
        task = load_task(self._request.spec.task, allow=self._settings.allowed_tasks)
        plan = resolve_plan(self._request.run_id, self._request.spec, task)
        session = open_session(plan, task)
        return session, begin(session, self._store())

    def _store(self) -> CheckpointStore:
        return CheckpointStore(self._run_dir.checkpoints_path, self._settings.checkpoints_kept)

    def _former_teacher(self, session: Session) -> leyline.TeacherChange | None:
        if session.plan.teacher is None:
            return None
        told = self._events.last(leyline.RUN_EVENT_KIND_TEACHER)
        return None if told is None else told.teacher

    def _tell_start(self, parts: LoopParts, begun: Begun, teacher: leyline.TeacherChange | None) -> None:
        earlier = self._earlier
        started = SYSTEM_CLOCK.wall()
        if earlier is not None and earlier.HasField("started_at"):
            started = from_timestamp(earlier.started_at)
        counters = parts.session.counters
        self._board.started(started, counters.elapsed_s, counters.step)
        for bad in begun.bad:
            _log.warning("a checkpoint is damaged and was passed over", checkpoint=bad.path.name, problem=bad.problem)
            parts.reporter.checkpoint_damaged(bad.path.name, bad.problem)
        if self._events.repaired:
            _log.warning("the event journal was repaired", damage=self._events.repaired)
        parts.reporter.change_state(leyline.RUN_STATE_RUNNING, begun.reason)
        if teacher is not None:
            parts.reporter.tell(teacher)

    def _leave_mark(self) -> WorkerMark:
        former = self._run_dir.read_mark()
        attempt = former.attempt + 1 if former else 1
        resumes = former.resumes if former else 0
        if former is not None and was_interrupted(self._earlier):
            resumes += 1
        mark = WorkerMark(os.getpid(), psutil.Process().create_time(), attempt, resumes)
        self._run_dir.write_mark(mark)
        return mark

    def _save_status(self) -> None:
        self._run_dir.write_status(self._board.status())

    def _fail(self, error: Exception) -> None:
        if self._board.state == leyline.RUN_STATE_FAILED:
            return
        code = error.code if isinstance(error, EsperError) else EsperError.code
        change = self._board.set_state(leyline.RUN_STATE_FAILED, f"{type(error).__name__}: {error}", code)
        self._events.append(change, self._board.progress().step)


class _halting_on_sigterm:
    """Turn SIGTERM and SIGINT into an order to halt, so that the worker leaves a checkpoint behind."""

    def __init__(self, links: Links) -> None:
        self._links = links

    def __enter__(self) -> None:
        self._former = {number: signal.signal(number, self._halt) for number in (signal.SIGTERM, signal.SIGINT)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _halt(self, number: int, frame: FrameType | None) -> None:
        reason = f"The worker was told to stop by {signal.Signals(number).name}."
        self._links.inbox.post(Order(new_id("signal"), leyline.ORDER_KIND_HALT, reason), urgent=True)
