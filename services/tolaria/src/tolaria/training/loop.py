"""The epoch loop: fence, step, look after what the step brought; until the budget is spent or somebody says halt."""

from __future__ import annotations

import time
from dataclasses import dataclass

from esper_core import leyline
from esper_core.logs import get_logger
from esper_runtime.errors import UnreachedSeedError
from esper_tasks import Cursor
from tolaria.growth.arrival import GradientArrival
from tolaria.growth.faults import seed_at_fault
from tolaria.growth.operations import GrowthOperations
from tolaria.growth.probing import Prober
from tolaria.growth.pulse import Pulse
from tolaria.growth.settling import LastFence, abort_seed, tell_aborted
from tolaria.growth.untouched import Untouched
from tolaria.reporting.reporter import Reporter
from tolaria.safety.profiler import StepProfiler
from tolaria.safety.streak import FailedEpochs
from tolaria.state.keeper import StateKeeper
from tolaria.state.recovery import Recovery
from tolaria.training.compilation import compiled_note
from tolaria.training.fence import Fence
from tolaria.training.gradient_reports import GradientReports
from tolaria.training.links import Links
from tolaria.training.orders import Ending
from tolaria.training.session import Session
from tolaria.training.step import StepResult, training_step
from tolaria.training.validation import validate

_log = get_logger("loop")


@dataclass(frozen=True, slots=True)
class LoopParts:
    """What the loop is put together from; each part is described at its class."""

    session: Session
    fence: Fence
    pulse: Pulse
    prober: Prober
    keeper: StateKeeper
    recovery: Recovery
    last_fence: LastFence
    operations: GrowthOperations
    reporter: Reporter
    gradients: GradientReports
    links: Links
    failed_epochs: FailedEpochs
    profiler: StepProfiler
    arrival: GradientArrival
    explosion_factor: float


class TrainingLoop:
    """Runs a session to its end.

    Parameters
    ----------
    parts : LoopParts
        The parts.
    """

    def __init__(self, parts: LoopParts) -> None:
        self._parts = parts
        self._session = parts.session
        plan, sampler = parts.session.plan, parts.session.sampler
        self._validation_interval = plan.validation_interval_steps or sampler.batches_per_epoch

    @property
    def session(self) -> Session:
        """What is trained."""
        return self._session

    @property
    def links(self) -> Links:
        """What lies between the training thread and the mediator."""
        return self._parts.links

    def run(self) -> Ending:
        """Train until the budget is spent or the run is halted.

        Raises
        ------
        Exception
            Whatever the host itself raises: no rollback can help there.
        """
        while True:
            ending = self.turn()
            if ending is not None:
                return ending

    def turn(self) -> Ending | None:
        """Cross the fence and make one step with all that belongs to it; returns why the run ended, or None.

        Raises
        ------
        Exception
            Whatever the host itself raises.
        """
        ending = self._parts.fence.cross()
        if ending is not None:
            return ending
        if not self._session.affords_step():
            return self._finish()
        self._parts.profiler.before_step(self._session.counters.step + 1)
        result = self._step()
        if result is not None:
            self._after(result)
        return None

    def _attempt(self) -> StepResult:
        if self._session.compiled is None and self._session.precision is None:
            return self._watched_step()
        return self._attempt_again()

    def _watched_step(self) -> StepResult:
        if not self._parts.pulse.watches():
            return training_step(self._session, self._parts.explosion_factor)
        with self._parts.pulse.watching():
            return training_step(self._session, self._parts.explosion_factor)

    def _attempt_again(self) -> StepResult:
        """Make a step that may have to be made anew: uncompiled, or at another loss scale in the next turn."""
        cursor, failure = self._session.sampler.cursor, None
        try:
            result = self._watched_step()
        except Exception as error:
            if self._session.compiled is None:
                raise
            # Made again outside of this handler, so that a second error does not drag the first along.
            failure = error
        if failure is not None:
            result = self._attempt_uncompiled(cursor, failure)
        if result.problem == "overflow":
            self._session.sampler.seek(cursor)
        return result

    def _attempt_uncompiled(self, cursor: Cursor, error: Exception) -> StepResult:
        """Make a failed step as it would be without compiling: if it works then, the compiled blocks are to blame.

        Compiling of a backward pass fails where no block can be named, so all of them give way.
        """
        compiled = self._session.compiled
        assert compiled is not None
        self._session.sampler.seek(cursor)
        with compiled.paused():
            result = self._watched_step()
        compiled.give_way(f"{type(error).__name__}: {error}")
        return result

    def _step(self) -> StepResult | None:
        """Make one step; None where a seed's exception spoiled it, and the same batch comes again without that seed.

        Raises
        ------
        UnknownSiteError
            If the step fails because a declared site is no longer in the model.
        """
        # Without a seed there is none that could spoil the step.
        before = Untouched.hold(self._session) if self._session.book.unsettled() else None
        try:
            return self._attempt()
        except Exception as error:
            self._settle_fault(error)
            if before is not None:
                before.give_back(self._session)
            return None

    def _settle_fault(self, error: Exception) -> None:
        """Take out the seed from which an exception came; raise it again where it was no seed's."""
        if self._throw_out_what_is_gone():
            return
        seed_id = seed_at_fault(self._session, error)
        if seed_id is None:
            self._session.host.check_sites()
            raise error
        _log.error("a seed raised", seed_id=seed_id, exc_info=error)
        self._throw_out(seed_id, "raised", f"The seed raised {type(error).__name__}: {error}")

    def _throw_out(self, seed_id: str, cause: str, reason: str) -> None:
        entry = self._session.book.update(seed_id, finite=False)
        abort_seed(self._session, self._parts.operations, self._parts.reporter, entry, cause, reason)
        self._parts.links.greet_again.set()

    def _throw_out_what_is_gone(self) -> bool:
        """Settle seeds whose grafts other code has taken out of the model; say whether there were any."""
        host = self._session.host
        gone = [entry for entry in self._session.book.unsettled() if not host.stands(entry.seed_id)]
        for entry in gone:
            sentence = f"Other code has taken the seed out of the model at site {entry.site}."
            self._throw_out(entry.seed_id, "removed", sentence)
        return bool(gone)

    def _after(self, result: StepResult) -> None:
        if result.problem:
            self._not_made(result.problem)
            return
        if self._session.book.unsettled():
            # Before anything is measured or kept of a model that no longer has its seed.
            self._throw_out_what_is_gone()
        if self._session.compiled is not None:
            self._see_gradients_arrive()
            result = self._without_compiling(result)
        began = time.perf_counter()
        try:
            self._measure()
            began = time.perf_counter()
            self._parts.pulse.beat()
            self._parts.gradients.stepped(result)
        except Exception as error:
            self._settle_fault(error)
        self._parts.reporter.stepped(result)
        self._parts.reporter.hook_ms = (time.perf_counter() - began) * 1000
        self._parts.keeper.keep()

    def _without_compiling(self, result: StepResult) -> StepResult:
        """Tell what was compiled, and take its time off that of the step, which a policy would take for a slow one."""
        note = compiled_note(self._session)
        if note is None:
            return result
        self._parts.reporter.tell(note)
        return result._replace(seconds=max(0.0, result.seconds - note.compile_ms / 1000))

    def _see_gradients_arrive(self) -> None:
        try:
            self._parts.arrival.check()
        except UnreachedSeedError as error:
            _log.error("a seed gets no gradient", seed_id=error.details["seed_id"], code=error.code)
            self._throw_out(str(error.details["seed_id"]), "unreached", error.message)

    def _tell_overflow(self) -> None:
        precision = self._session.precision
        assert precision is not None
        reason = f"Gradients overflowed; the batch comes again at a loss scale of {precision.scale:g}."
        self._parts.reporter.tell(leyline.SpeedNote(what="overflow", reason=reason))

    def _not_made(self, problem: str) -> None:
        if problem == "overflow":
            self._tell_overflow()
        else:
            self._recover(problem)

    def _recover(self, problem: str) -> None:
        before, epoch = self._session.host.generation, self._session.epoch
        recovered = self._parts.recovery.recover(problem)
        if recovered.done.restored:
            self._parts.keeper.went_back()
        self._parts.reporter.rolled_back(recovered.done)
        too_many = self._parts.failed_epochs.failed(epoch)
        for entry in recovered.detached:
            reason = f"Taken out after {problem} came again."
            tell_aborted(self._session, self._parts.reporter, entry, "trouble", reason)
        if before != self._session.host.generation:
            self._parts.links.greet_again.set()
        if recovered.done.full_deadline_missed:
            self._parts.fence.halt_for_emergency(f"A full rollback missed its deadline: {recovered.done.message}")
        elif too_many:
            self._parts.fence.halt_for_emergency(
                f"{self._parts.failed_epochs.length} epochs in a row failed: {problem}."
            )
        elif recovered.give_up:
            self._parts.fence.halt(recovered.give_up)

    def _measure(self) -> None:
        session = self._session
        if session.counters.step % self._validation_interval:
            return
        scores = validate(session)
        session.learning_rate.observe(scores.loss)
        if session.plan.growth.enabled:
            session.book.curve.append(self._parts.prober.point())
        self._parts.reporter.validated(scores)

    def _finish(self) -> Ending | None:
        try:
            self._parts.gradients.finish()
            halted = self._parts.last_fence.settle()
        except Exception as error:
            self._settle_fault(error)
            return None
        return halted or Ending("completed", "The budget is spent.")
