"""The reporter: all that the training thread has to tell, at the price of a look at two flags per step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from google.protobuf.message import Message

from esper_core import leyline
from esper_core.breaker import Transition
from esper_core.clocks import SYSTEM_CLOCK, Clock, to_timestamp
from esper_core.logs import get_logger
from tolaria.reporting.board import StatusBoard
from tolaria.reporting.events import EventLog
from tolaria.reporting.layers import layer_records, topology_digest
from tolaria.reporting.records import StepRecord
from tolaria.reporting.seeds import seed_states, settled_states
from tolaria.state.checkpoints import CheckpointRecord
from tolaria.training.optimizer import HOST_GROUP, group_view
from tolaria.training.orders import RollbackDone
from tolaria.training.queues import LatestSlot
from tolaria.training.session import Session
from tolaria.training.step import StepResult
from tolaria.training.validation import Scores

_log = get_logger("reporter")


class Reporter:
    """Tells what happens in a run.

    Parameters
    ----------
    session : Session
        The run.
    board : StatusBoard
        Where the status is put together.
    events : EventLog
        Where events go.
    slot : LatestSlot
        Where the mediator takes step records from.
    save_status : callable
        Writes status.json; called at every change of state.
    """

    def __init__(
        self,
        session: Session,
        board: StatusBoard,
        events: EventLog,
        slot: LatestSlot[StepRecord],
        save_status: Callable[[], None],
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._session = session
        self._board = board
        self._events = events
        self._slot = slot
        self._save_status = save_status
        self._clock = clock
        self._validation: leyline.ValidationMetrics | None = None
        self._last: StepResult | None = None
        self._last_ewma: float | None = None
        self._layers_at = -1
        self._parameters = (-1, 0)
        self._digest = ""
        self.layers_wanted = False
        self.apply_ms: float | None = None
        self.hook_ms: float | None = None

    @property
    def state(self) -> int:
        """State of the run."""
        return self._board.state

    @property
    def elapsed_s(self) -> float:
        """Wall time of the run over all its starts."""
        return self._board.elapsed_s

    def tell(self, payload: Message) -> None:
        """Write an event."""
        self._events.append(payload, self._session.counters.step)

    def change_state(self, state: int, reason: str, error_code: str = "") -> None:
        """Change the run's state: on the board, as an event, and in status.json."""
        self.refresh()
        self.tell(self._board.set_state(state, reason, error_code))
        self._save_status()

    def stepped(self, result: StepResult) -> None:
        """Take note of a step; costs nothing unless the mediator or the board wants to know."""
        self._last = result
        if self._board.wanted:
            self.refresh()
        if self._slot.wanted:
            self._slot.put(self.record())

    def final_record(self) -> None:
        """Put a record of the last fence."""
        self._slot.put(self.record(final=True))

    def last_record(self) -> None:
        """Put the last record of this start of the run, in the state in which it ended."""
        self._slot.put_last(self.record(final=True))

    def refresh(self) -> None:
        """Bring progress and seeds on the board up to date."""
        session = self._session
        self._board.set_progress(
            step=session.counters.step,
            total_steps=session.total_steps,
            epoch=session.epoch,
            fraction=session.fraction,
            loss=session.statistics.loss_ewma,
            distillation_loss=self._last.distillation_loss if self._last else None,
            flops_used=session.counters.flops,
            parameters=self._parameter_count(),
            generation=session.host.generation,
        )
        self._board.set_seeds({state.seed_id: state for state in settled_states(session)})

    def validated(self, scores: Scores) -> None:
        """Tell about a validation pass; the next record carries it."""
        metrics = leyline.ValidationMetrics(
            loss=scores.loss, accuracy=scores.accuracy, step=self._session.counters.step, examples=scores.examples
        )
        self._validation = metrics
        self._board.set_progress(
            validation_loss=scores.loss,
            validation_accuracy=scores.accuracy,
            bits_per_character=scores.bits_per_character,
        )
        self.tell(metrics)

    def progressed(self) -> None:
        """Write a progress event."""
        self.refresh()
        self.tell(self._board.progress())

    def checkpointed(self, record: CheckpointRecord, epoch: int, generation: int) -> None:
        """Tell about a checkpoint that holds the state of an epoch and a generation."""
        self.tell(
            leyline.CheckpointInfo(
                checkpoint_id=record.path.name,
                step=record.step,
                epoch=epoch,
                generation=generation,
                size_bytes=record.size_bytes,
                created_at=to_timestamp(record.created_at),
                good=True,
                reason=record.reason,
            )
        )

    def sync(self) -> None:
        """Make the events up to now durable; any thread may ask for it."""
        self._events.sync()

    def checkpoint_damaged(self, name: str, problem: str) -> None:
        """Tell about a checkpoint that could not be used."""
        self.tell(leyline.CheckpointInfo(checkpoint_id=name, good=False, problem=problem))

    def rolled_back(self, done: RollbackDone) -> None:
        """Tell about a rollback."""
        self.tell(rollback_message(done))

    def breaker_moved(self, moved: Transition) -> None:
        """Tell about a breaker of the training thread; hand this method to it as `on_transition`."""
        state = leyline.CircuitState.Name(moved.to_state).removeprefix("CIRCUIT_STATE_")
        _log.warning("breaker moved", breaker=moved.breaker, state=state, reason=moved.reason)
        self.tell(
            leyline.BreakerMove(
                breaker=moved.breaker, from_state=moved.from_state, to_state=moved.to_state, reason=moved.reason
            )
        )

    def record(self, *, final: bool = False) -> StepRecord:
        """Make a record of the run as it is now."""
        session = self._session
        with_layers = self.layers_wanted or self._layers_at != session.host.generation
        if self._layers_at != session.host.generation:
            self._digest = topology_digest(session.host)
        self._layers_at, self.layers_wanted = session.host.generation, False
        validation, self._validation = self._validation, None
        return StepRecord(
            step=session.counters.step,
            epoch=session.epoch,
            generation=session.host.generation,
            total_steps=session.total_steps,
            fraction=session.fraction,
            flops_used=session.counters.flops,
            parameters=self._parameter_count(),
            run_state=self.state,
            host_digest=self._digest,
            metrics=self._metrics(),
            validation=validation,
            seeds=seed_states(session),
            layers=layer_records(session.host) if with_layers else (),
            final=final,
        )

    def _parameter_count(self) -> int:
        host = self._session.host
        if self._parameters[0] != host.generation:
            self._parameters = (host.generation, host.parameter_count())
        return self._parameters[1]

    def _metrics(self) -> dict[str, float | int | None]:
        session, last, statistics = self._session, self._last, self._session.statistics
        group = group_view(session.optimizer, HOST_GROUP)
        before, self._last_ewma = self._last_ewma, statistics.loss_ewma
        known = before is not None and statistics.loss_ewma is not None
        return {
            "loss": last.loss if last else None,
            "gradient_norm": last.gradient_norm if last else None,
            "grad_conflict_rate": last.conflict_rate if last else None,
            "samples_per_s": session.sampler.batch_size / last.seconds if last and last.seconds > 0 else None,
            "step_latency_ms": last.seconds * 1000 if last else None,
            "input_wait_ms": last.input_seconds * 1000 if last else None,
            "optimizer_lr": float(group["lr"]),
            "optimizer_momentum": _momentum(group),
            "loss_ewma": statistics.loss_ewma,
            "loss_delta": (statistics.loss_ewma or 0.0) - (before or 0.0) if known else None,
            "loss_volatility": statistics.volatility,
            "grad_norm_ewma": statistics.gradient_norm_ewma,
            "grad_var": statistics.gradient_variance,
            "kasmina_apply_ms": self.apply_ms,
            "hook_latency_ms": self.hook_ms,
            "epochs_total": session.epoch,
        }


def rollback_message(done: RollbackDone) -> leyline.RollbackReport:
    """Convert the result of a rollback."""
    report = leyline.RollbackReport(
        outcome=leyline.RollbackOutcome.ValueType(done.outcome),
        latency_ms=done.latency_s * 1000,
        restored_step=done.restored_step,
        trigger=done.trigger,
        message=done.message,
        deadline_missed=done.deadline_missed,
        deadline_share=done.latency_s / done.deadline_s,
    )
    report.deadline_at.FromMilliseconds(math.floor(done.deadline_at_s * 1000))
    return report


def _momentum(group: Mapping[str, object]) -> float | None:
    betas = group.get("betas")
    if isinstance(betas, tuple):
        return float(betas[0])
    momentum = group.get("momentum")
    return float(momentum) if isinstance(momentum, int | float) else None
