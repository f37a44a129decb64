"""Esper in a loop of your own: no service, no network, a handful of added lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper_core.errors import RunFailedError
from esper_runtime.contracts import Site
from esper_runtime.errors import UnknownSeedError
from esper_runtime.export import export_model
from esper_runtime.host import Host
from esper_runtime.own_loop.checks import check_model, finite_loss
from esper_runtime.own_loop.grower import Grower
from esper_runtime.own_loop.held_out import HeldOut
from esper_runtime.own_loop.history import Event, History, explain
from esper_runtime.own_loop.plan import GrowthStep, check_plan
from esper_runtime.own_loop.rules import Rules
from esper_runtime.own_loop.safekeeping import finite
from esper_runtime.own_loop.seed_life import SeedLife
from esper_runtime.snapshot import Snapshot, capture
from esper_runtime.snapshot_store import read_snapshot, write_snapshot

MAX_ROLLBACKS: Final = 3
"""Rollbacks in a row, without a good state between them, after which the session gives up."""


class Session:
    """Grows a user's model inside the user's own loop, and keeps it safe.

    Until the first seed germinates the model is untouched: training with a session is bit for bit training without
    it. Call `step(loss)` in place of `optimizer.step()`; a trainer that makes that call itself calls `check` before it
    and `advance` after it.

    Parameters
    ----------
    model : nn.Module
        The user's network; this very object grows.
    sites : Sequence[Site]
        Where it may grow.
    optimizer : Optimizer
        The one optimizer of the loop.
    held_out : HeldOut
        What seeds are judged on; never train on it.
    steps : int
        The budget in optimizer steps.
    plan : Sequence[GrowthStep]
        What to grow and when.
    schedulers : Sequence
        The learning rate schedulers on this optimizer, so that seeds follow them.
    rules : Rules, optional
        Steps per stage and bounds of the judge; by default shares of the budget, 5 % for the blend.

    Raises
    ------
    ValidationError, NotFoundError, QuarantinedError
        If the plan or the model cannot work; nothing has been changed then.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        optimizer: Optimizer,
        *,
        held_out: HeldOut,
        steps: int,
        plan: Sequence[GrowthStep],
        schedulers: Sequence[Any] = (),
        rules: Rules | None = None,
    ) -> None:
        check_model(model, steps)
        rules = rules or Rules.of_budget(steps)
        self.host, self.optimizer = Host(model, sites), optimizer
        self.host.measure(held_out.first(), held_out.loss)
        check_plan(self.host, plan, steps, rules)
        self._history = History()
        self._grower = Grower(self.host, optimizer, tuple(schedulers), held_out, plan, steps, rules, self._history)
        self._pulse, self._made, self._in_a_row = rules.pace.pulse, 0, 0
        self._went_back = False
        self._good: tuple[Snapshot, SeedLife | None] = (capture(self.host, step=0, optimizer=optimizer), None)

    def step(self, loss: Tensor | float) -> bool:
        """Make the optimizer's step where the loss is finite, else roll back; then do what growth has due.

        Returns
        -------
        bool
            Whether the optimizer made its step.

        Raises
        ------
        RunFailedError
            If rolling back again and again did not help.
        """
        healthy = self.check(loss)
        if healthy:
            self.optimizer.step()
        self.advance()
        return healthy

    def check(self, loss: Tensor | float | None) -> bool:
        """Say whether the optimizer may step; otherwise roll back and drop the gradients.

        After a rollback no parameter has a gradient, so that a trainer's own call of `optimizer.step()` changes
        nothing. Where the trainer does not tell the loss, None has the gradients looked at instead.
        """
        if loss is None:
            healthy, problem = self._gradients_finite(), "A gradient is not finite."
        else:
            healthy, problem = finite_loss(loss), "The loss is not finite."
        if not healthy:
            self._roll_back(problem)
        elif self._grower.isolation_broken(self._made):
            self._keep_good()
        return healthy

    def advance(self) -> None:
        """Count an optimizer step and do what growth has due at this fence."""
        self._made += 1
        life = self._grower.life
        self._grower.turn(self._made)
        changed = (life is None) != (self._grower.life is None)
        # Right after a rollback there is nothing new to keep, and keeping it would look like progress.
        due = self._made % self._pulse == 0 and not self._went_back
        self._went_back = False
        if changed or due:
            self._keep_good()

    def finish(self) -> None:
        """Settle what is still under way; a context manager does this at its end."""
        self._grower.finish(self._made)

    @property
    def history(self) -> tuple[Event, ...]:
        """Everything that the session did, in order."""
        return tuple(self._history)

    @property
    def steps_made(self) -> int:
        """Optimizer steps counted so far, those that were refused included."""
        return self._made

    def explain(self, seed_id: str | None = None) -> str:
        """Return what the session did in sentences, of one seed or of all."""
        if seed_id is not None:
            self._check_known(seed_id)
            return explain(event for event in self._history if event.seed_id == seed_id)
        kept, culled = len(self._history.seeds("fossilised")), len(self._history.seeds("culled"))
        back = len(self._history.seeds("rolled_back"))
        head = (
            f"steps: {self._made}, seeds kept: {kept}, culled: {culled}, rollbacks: {back}, "
            f"parameters: {self.host.parameter_count()}"
        )
        return "\n".join([head, explain(self._history)]).rstrip()

    def export(self, folder: Path | str, *, factory: str, kwargs: Mapping[str, Any] | None = None) -> None:
        """Write the grown model to a folder; see `export_model` for the arguments and errors."""
        export_model(self.host, Path(folder), factory=factory, kwargs=kwargs)

    def save(self, folder: Path | str) -> None:
        """Write what a new process needs to go on: topology, weights, moments, random state, plan and history.

        While a seed is under way, the state from before it germinated is written, from which it will germinate again.
        The caller saves data position and schedulers, and reads `steps_made` after `resume`.

        Raises
        ------
        AlreadyExistsError, StorageError
            If the folder exists or cannot be written.
        """
        write_snapshot(self._grower.to_save(self._made), Path(folder))

    def resume(self, folder: Path | str) -> int:
        """Go on from a folder that `save` wrote, in a new session with the same arguments; return the steps made.

        Load the states of the schedulers first, so that they can follow the groups.

        Raises
        ------
        SnapshotIntegrityError, TopologyMismatchError
            If the folder is damaged, or belongs to another model; nothing has been changed then.
        """
        snapshot = read_snapshot(Path(folder))
        self._grower.go_on(snapshot)
        self._made, self._in_a_row = snapshot.step, 0
        self._keep_good()
        return self._made

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()

    def _check_known(self, seed_id: str) -> None:
        known = self._history.seeds("germinated")
        if seed_id not in known:
            raise UnknownSeedError(f"This session grew no seed {seed_id!r}; it grew {', '.join(known) or 'none'}.")

    def _gradients_finite(self) -> bool:
        gradients = (found.tensor.grad for found in self.host.named_parameters())
        return all(bool(torch.isfinite(gradient).all()) for gradient in gradients if gradient is not None)

    def _keep_good(self) -> None:
        """Keep the present state to fall back on, unless a step has already spoiled it."""
        if not finite(self.host):
            self._roll_back("A parameter is not finite.")
            return
        self._good = (capture(self.host, step=self._made, optimizer=self.optimizer), self._grower.life)
        self._in_a_row = 0

    def _roll_back(self, problem: str) -> None:
        life = self._grower.life
        if life is not None and life.rollbacks:
            self._grower.cull(self._made, f"{problem} That came again with the seed.")
            self._keep_good()
            return
        snapshot, kept = self._good
        self._in_a_row, self._went_back = self._in_a_row + 1, True
        self._grower.go_back(snapshot)
        self._grower.life = None if kept is None else replace(kept, rollbacks=kept.rollbacks + 1)
        self._history.tell(
            self._made,
            "rolled_back",
            "" if kept is None else kept.seed_id,
            f"{problem} Weights, moments and topology are those of step {snapshot.step} again.",
            {},
        )
        if self._in_a_row > MAX_ROLLBACKS:
            raise RunFailedError(
                f"{problem} Going back to step {snapshot.step} did not help {MAX_ROLLBACKS} times; "
                "the model is in that good state now. Look at the data, or lower the learning rate."
            )
