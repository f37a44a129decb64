"""The fence: the moment between two optimizer steps at which orders are obeyed and the topology may change."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from esper_core import leyline
from esper_core.errors import EsperError
from tolaria.growth.executor import DirectiveExecutor
from tolaria.reporting.reporter import Reporter
from tolaria.reporting.seeds import attached_states
from tolaria.safety.emergencies import RunEmergencies
from tolaria.safety.signals import SignalReader
from tolaria.state.keeper import StateKeeper
from tolaria.state.rollback import Rollback
from tolaria.training.links import Greeting, GreetingWanted, Incoming, Links, TeacherDismissed
from tolaria.training.orders import Ending, Order, OrderOutcome, RateChange
from tolaria.training.session import Session
from tolaria.training.teacher import dismiss_teacher

_ANSWERS: Final = 256
_LOOK_S: Final = 0.5


class Fence:
    """Works off everything that came in since the last fence; at nearly all of them that is nothing.

    Parameters
    ----------
    session : Session
        The run.
    links : Links
        What came in, and where answers go.
    executor : DirectiveExecutor
        Carries out directives.
    rollback : Rollback
        Carries out rollback orders.
    keeper : StateKeeper
        Makes a rollback last.
    reporter : Reporter
        Is told.
    emergencies : RunEmergencies
        Keeps the emergency level.
    signals : SignalReader
        Emergencies through shared memory.
    """

    def __init__(
        self,
        session: Session,
        links: Links,
        executor: DirectiveExecutor,
        rollback: Rollback,
        keeper: StateKeeper,
        reporter: Reporter,
        emergencies: RunEmergencies,
        signals: SignalReader,
    ) -> None:
        self._session = session
        self._links = links
        self._executor = executor
        self._operations = executor.operations
        self._rollback = rollback
        self._keeper = keeper
        self._reporter = reporter
        self._ending: Ending | None = None
        self._paused = ""
        self._conservative = ""
        self._emergencies = emergencies
        self._signals = signals
        self._answers: OrderedDict[str, OrderOutcome] = OrderedDict()
        self.heard = 0

    def cross(self) -> Ending | None:
        """Obey what came in; waits here while the run is paused. Returns why the run must end, or None.

        Raises
        ------
        IsolationViolationError
            In strict mode, if a seed has touched its host.
        """
        self._session.isolation.check()
        self._work_off()
        if self._links.control.lost or self._conservative or self._emergencies.active:
            self._look_at_control()
        while self._paused and self._ending is None:
            self._links.inbox.wait(_LOOK_S)
            self._work_off()
        if self._session.book.unsettled():
            self._session.host.advance(self._session.counters.step)
        return self._ending

    def halt(self, reason: str) -> Ending:
        """End the run at this fence."""
        self._ending = Ending("halted", reason)
        return self._ending

    def halt_for_emergency(self, reason: str) -> None:
        """Raise an emergency of level four: the run ends at the next fence with a checkpoint."""
        self._emergencies.trigger(leyline.EMERGENCY_LEVEL_HALT, reason)
        self.halt(self._emergencies.halt)

    def close(self) -> None:
        """Tell what is still to be told before the run ends."""
        self._emergencies.tell_waiting(last=True)

    def _work_off(self) -> None:
        if self._signals.waiting:
            for order in self._signals.take():
                self._obey(order)
        for item in self._links.inbox.drain():
            self._take(item)

    def _take(self, item: Incoming) -> None:
        if isinstance(item, leyline.Directive):
            self.heard += 1
            self._direct(item)
        elif isinstance(item, leyline.SeedTransition):
            self.heard += 1
            self._note_stage(item)
        elif isinstance(item, GreetingWanted):
            self._greet()
        elif isinstance(item, RateChange):
            self._session.learning_rate.rescale(item.factor, item.group)
        elif isinstance(item, TeacherDismissed):
            self._dismiss(item)
        else:
            self._obey(item)

    def _direct(self, directive: leyline.Directive) -> None:
        result = self._executor.apply(directive)
        self._reporter.apply_ms = result.apply_ms
        self._links.to_kasmina.put(result)
        self._reporter.tell(result)
        self._reporter.refresh()

    def _greet(self) -> None:
        """Begin the outbox anew with the inventory: it says everything that waited there, and says it as it is now."""
        session = self._session
        greeting = Greeting(
            session.counters.step,
            session.host.generation,
            session.total_steps,
            attached_states(session),
            session.teacher_id,
        )
        self._links.to_kasmina.clear()
        self._links.to_kasmina.put(greeting)

    def _dismiss(self, order: TeacherDismissed) -> None:
        """Let the teacher go; one that is not there any more is no error."""
        change = dismiss_teacher(self._session, order.teacher_id, order.reason)
        if change is not None:
            self._reporter.tell(change)
            # A worker that takes the run up again reads here that the teacher must not come back.
            self._reporter.sync()

    def _note_stage(self, transition: leyline.SeedTransition) -> None:
        """Take over the stages that Kasmina alone knows about: a culled seed waits and becomes dormant."""
        book = self._session.book
        entry = book.entries.get(transition.seed_id)
        if entry is not None and not entry.unsettled and entry.stage != leyline.SEED_STAGE_FOSSILIZED:
            book.enter_stage(entry.seed_id, transition.to_stage, self._session.counters.step, self._session.epoch)

    def _obey(self, order: Order) -> None:
        answer = self._answers.get(order.order_id)
        if answer is None:
            try:
                answer = self._carry_out(order)
            except EsperError as error:
                answer = OrderOutcome(order.order_id, False, error.code, error.message)
            self._answers[order.order_id] = answer
            while len(self._answers) > _ANSWERS:
                self._answers.popitem(last=False)
        self._links.to_tolaria.put(answer)

    def _carry_out(self, order: Order) -> OrderOutcome:
        if order.kind == leyline.ORDER_KIND_PAUSE:
            self._pause(order.reason or "Paused by order.")
        elif order.kind == leyline.ORDER_KIND_RESUME:
            self._resume()
        elif order.kind == leyline.ORDER_KIND_HALT:
            self.halt(order.reason or "Halted by order.")
        elif order.kind == leyline.ORDER_KIND_ROLLBACK:
            return self._go_back(order)
        elif order.kind == leyline.ORDER_KIND_EMERGENCY:
            self._raise(order)
        elif order.kind == leyline.ORDER_KIND_CLEAR_EMERGENCY:
            self._emergencies.relax(order)
        else:
            return OrderOutcome(order.order_id, False, "ESP-1004", f"Order kind {order.kind} is not known.")
        return OrderOutcome(order.order_id, True)

    def _pause(self, reason: str) -> None:
        if not self._paused:
            self._paused = reason
            self._reporter.change_state(leyline.RUN_STATE_PAUSED, reason)

    def _resume(self) -> None:
        if self._paused:
            self._paused = ""
            self._reporter.change_state(*self._training_state("Resumed by order."))

    def _go_back(self, order: Order) -> OrderOutcome:
        before = self._session.host.generation
        self._reporter.change_state(leyline.RUN_STATE_ROLLING_BACK, order.reason or "Rollback by order.")
        done = self._rollback.go_back("operator", to_step=order.to_step, full=order.full)
        if done.restored:
            self._keeper.went_back()
        self._reporter.rolled_back(done)
        state = (leyline.RUN_STATE_PAUSED, self._paused) if self._paused else self._training_state(done.message)
        self._reporter.change_state(*state)
        if before != self._session.host.generation:
            self._links.greet_again.set()
        if done.full_deadline_missed:
            self.halt_for_emergency(f"A full rollback missed its deadline: {done.message}")
        code = "" if done.restored else "ESP-1013"
        return OrderOutcome(order.order_id, done.restored, code, done.message, done)

    def _raise(self, order: Order) -> None:
        self._emergencies.hear(order)
        if self._emergencies.halt:
            self.halt(self._emergencies.halt)

    def _look_at_control(self) -> None:
        """Enter CONSERVATIVE while the control plane is lost or an emergency says so, and leave it afterwards."""
        self._emergencies.tell_waiting()
        control = self._links.control
        reason = self._emergencies.conservative or (control.reason if control.lost else "")
        if reason and control.lost and self._session.plan.on_control_loss == "halt":
            self.halt(reason)
            return
        if bool(reason) == bool(self._conservative):
            self._operations.hold_alphas(bool(reason))
            return
        self._conservative = reason
        self._executor.structural_changes_refused = reason
        self._operations.hold_alphas(bool(reason))
        if not self._paused:
            self._reporter.change_state(*self._training_state("The control plane is back."))

    def _training_state(self, otherwise: str) -> tuple[int, str]:
        if self._conservative:
            return leyline.RUN_STATE_CONSERVATIVE, self._conservative
        return leyline.RUN_STATE_RUNNING, otherwise
