"""A session inside a Hugging Face Trainer, as a callback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from esper_core.errors import DependencyViolationError
from esper_runtime.contracts import Site
from esper_runtime.integrations import missing_extra
from esper_runtime.own_loop import GrowthStep, HeldOut, Rules, Session

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise missing_extra("transformers", error) from error


class GrowthTrainerCallback(TrainerCallback):
    """Grows the model of a Hugging Face Trainer.

    The Trainer does not tell its callbacks the loss, so that the gradients are looked at instead; where a gradient
    scaler is at work, whose gradients overflow by design, parameters are looked at whenever a good state is kept.

    Parameters
    ----------
    sites : Sequence[Site]
        Where the model may grow.
    held_out : HeldOut
        What seeds are judged on.
    plan : Sequence[GrowthStep]
        What to grow and when.
    rules : Rules, optional
        Steps per stage and bounds of the judge.
    """

    def __init__(
        self, sites: Sequence[Site], held_out: HeldOut, plan: Sequence[GrowthStep], *, rules: Rules | None = None
    ) -> None:
        self._sites, self._held_out, self._plan, self._rules = sites, held_out, plan, rules
        self._session: Session | None = None
        self._scaled = False

    @property
    def session(self) -> Session:
        """The session, once training has begun."""
        if self._session is None:
            raise DependencyViolationError("There is no session before training has begun.", dependency="session")
        return self._session

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any, lr_scheduler: Any, **rest: Any
    ) -> None:
        """Open the session with the Trainer's number of steps as its budget."""
        self._scaled = getattr(optimizer, "scaler", None) is not None
        self._session = Session(
            model,
            self._sites,
            _innermost(optimizer, "optimizer"),
            held_out=self._held_out,
            steps=state.max_steps,
            plan=self._plan,
            schedulers=[_innermost(lr_scheduler, "scheduler")],
            rules=self._rules,
        )

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Roll back where a gradient is not finite; without gradients the step that follows changes nothing."""
        if not self._scaled:
            self.session.check(None)

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Do what growth has due."""
        self.session.advance()

    def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Settle what is still under way."""
        self.session.finish()


def _innermost(wrapped: Any, name: str) -> Any:
    # Accelerate wraps what it prepares; groups must be added to torch's own objects. A torch scheduler has an
    # attribute `optimizer`, never `scheduler`, and a torch optimizer has neither.
    while hasattr(wrapped, name):
        wrapped = getattr(wrapped, name)
    return wrapped
