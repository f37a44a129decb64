"""The controller: packet in, decision out, within the step budget. It reads memory only; nothing here waits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from esper_core import leyline
from esper_core.breaker import CircuitBreaker, Permit
from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import EsperError
from esper_core.guard import ViolationSink
from esper_core.ids import new_command_id
from tamiyo.catalogue import Catalogue
from tamiyo.clockwork import Stopwatch
from tamiyo.convert.decisions import Occasion, command_of, decision_of, failure_of, metadata_of, no_action_of
from tamiyo.convert.packets import observation_of, without_bulk
from tamiyo.coverage import Coverage, coverage_of
from tamiyo.errors import TamiyoTimeoutError
from tamiyo.evaluation import Evaluation, Rulebook, evaluate
from tamiyo.memory import RunMemory
from tamiyo.observation import Observation
from tamiyo.runs import RunTable

Sign = Callable[[leyline.AdaptationCommand], leyline.AdaptationCommand]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one packet.

    Attributes
    ----------
    decision : Decision
        What is answered.
    inputs : SystemStatePacket
        The packet without layers, as it is journalled.
    seen : Observation or None
        The packet as plain data; None where it could not be read.
    evaluation : Evaluation or None
        None where there was a failure.
    elapsed_ms : float
        Time of the whole evaluation.
    error : EsperError or None
        The failure.
    """

    decision: leyline.Decision
    inputs: leyline.SystemStatePacket
    elapsed_ms: float
    seen: Observation | None = None
    memory: RunMemory | None = None
    evaluation: Evaluation | None = None
    coverage: Coverage | None = None
    error: EsperError | None = None

    @property
    def command(self) -> leyline.AdaptationCommand | None:
        """The command, where one leaves."""
        return self.decision.command if self.decision.WhichOneof("outcome") == "command" else None


class Controller:
    """Evaluates packets.

    Parameters
    ----------
    runs : RunTable
        Memories; shared with nobody who changes them between two awaits.
    catalogue : Catalogue
        The library as last heard.
    rules : Rulebook
        Policies' and risk engine's bounds.
    sign : callable
        Signs a finished command in place.
    breaker : CircuitBreaker
        Counts evaluations over budget; while it is open nothing is evaluated.
    violated : callable, optional
        Told of missing ids.
    command_deadline_s : float
        How long after the decision a command may be executed.
    """

    def __init__(
        self,
        runs: RunTable,
        catalogue: Catalogue,
        rules: Rulebook,
        sign: Sign,
        breaker: CircuitBreaker,
        *,
        violated: ViolationSink | None = None,
        command_deadline_s: float = 30.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.runs = runs
        self.rules = rules
        self._catalogue = catalogue
        self._sign = sign
        self._breaker = breaker
        self._violated = violated
        self._deadline_s = command_deadline_s
        self._clock = clock

    def decide(self, packet: leyline.SystemStatePacket) -> Outcome:
        """Judge one packet; a failure is an outcome too, with its code, never an exception or a made-up command."""
        watch = Stopwatch.start(self._clock)
        decision_id = new_command_id()
        try:
            return self._decide(packet, decision_id, watch)
        except EsperError as error:
            decision = failure_of(decision_id, packet, error, self._clock.wall())
            memory = self.runs.get(packet.training_run_id)
            return Outcome(decision, without_bulk(packet), watch.elapsed_ms(), memory=memory, error=error)

    def _decide(self, packet: leyline.SystemStatePacket, decision_id: str, watch: Stopwatch) -> Outcome:
        seen = observation_of(packet, self._violated)
        memory = self.runs.open(seen.run_id)
        memory.take(seen, self._clock.monotonic())
        permit = self._admitted(memory)
        try:
            inputs = without_bulk(packet)
            outcome = self._judged(seen, memory, inputs, decision_id, watch)
            self._check_budget(outcome.elapsed_ms)
        except TamiyoTimeoutError as error:
            permit.failure(error.message)
            self._enter_if_open(memory, error.message)
            raise
        except EsperError:
            permit.abandon()
            raise
        permit.success()
        self._remember(outcome, memory)
        return outcome

    def _admitted(self, memory: RunMemory) -> Permit:
        try:
            return self._breaker.acquire()
        except EsperError as error:
            self._enter_if_open(memory, error.message)
            raise

    def _enter_if_open(self, memory: RunMemory, reason: str) -> None:
        """Switch conservative mode on while evaluating is held back."""
        if self._breaker.state != leyline.CIRCUIT_STATE_CLOSED:
            memory.mode = memory.mode.entered(reason, self._clock.monotonic())

    def _judged(
        self,
        seen: Observation,
        memory: RunMemory,
        inputs: leyline.SystemStatePacket,
        decision_id: str,
        watch: Stopwatch,
    ) -> Outcome:
        now_s = self._clock.monotonic()
        evaluation = evaluate(memory, seen, self._catalogue.snapshot(), self.rules, now_s, watch)
        digest = hashlib.sha256(inputs.SerializeToString(deterministic=True)).hexdigest()
        occasion = Occasion(decision_id, seen, digest, self._clock.wall(), self._deadline_s)
        coverage = coverage_of(seen)
        decision, metadata = decision_of(occasion), metadata_of(evaluation, digest, coverage, watch.elapsed_ms())
        if evaluation.action.waits:
            decision.no_action.CopyFrom(no_action_of(evaluation, metadata))
        else:
            decision.command.CopyFrom(self._sign(command_of(occasion, evaluation, metadata)))
        return Outcome(decision, inputs, watch.elapsed_ms(), seen, memory, evaluation, coverage)

    def _check_budget(self, elapsed_ms: float) -> None:
        budget_ms = self.rules.risk.step_budget_ms
        if elapsed_ms > budget_ms:
            raise TamiyoTimeoutError(
                f"The evaluation took {elapsed_ms:.2f} ms, more than its budget of {budget_ms:g} ms. "
                "Its result was thrown away; training goes on.",
                details={"elapsed_ms": f"{elapsed_ms:.3f}", "budget_ms": f"{budget_ms:g}"},
            )

    def _remember(self, outcome: Outcome, memory: RunMemory) -> None:
        if outcome.command is not None and outcome.evaluation is not None:
            action, step = outcome.evaluation.action, outcome.command.decided_at_step
            memory.note(action, outcome.command.command_id, self._clock.monotonic(), step, memory.fraction)
