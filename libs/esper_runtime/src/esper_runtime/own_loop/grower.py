"""The course of growth: one seed after the other through its stages, each judged on held-out data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.optim import Optimizer

from esper_runtime import stages
from esper_runtime.blending import BlendSpec
from esper_runtime.blueprints.registry import build
from esper_runtime.counterfactual import Contribution, probe
from esper_runtime.host import Host
from esper_runtime.improvement import CurvePoint, Improvement, measure_improvement
from esper_runtime.isolation_guard import IsolationGuard
from esper_runtime.leaks import frozen_leak
from esper_runtime.optim import add_seed_group, remove_seed_group
from esper_runtime.own_loop.checks import obstacle
from esper_runtime.own_loop.held_out import HeldOut
from esper_runtime.own_loop.history import History
from esper_runtime.own_loop.judge import Finding, judge_loss, judge_merit, judge_safety
from esper_runtime.own_loop.plan import GrowthStep, kernel_of
from esper_runtime.own_loop.rules import Rules
from esper_runtime.own_loop.safekeeping import finite, go_back
from esper_runtime.own_loop.schedulers import follow_groups
from esper_runtime.own_loop.seed_life import NEXT, TOLD, SeedLife, numbers_of
from esper_runtime.snapshot import Snapshot, capture, restore


class Grower:
    """Grows a host along a plan; every method belongs at a fence.

    Parameters
    ----------
    host, optimizer, schedulers
        What is grown, and what must know of it.
    held_out : HeldOut
        What seeds are judged on.
    plan : Sequence[GrowthStep]
        What to germinate and when; one seed after the other, a late one as soon as its predecessor is settled.
    steps : int
        The budget.
    rules, history
        How long stages last, the bounds of the judge, and where to tell what happened.
    """

    def __init__(
        self,
        host: Host,
        optimizer: Optimizer,
        schedulers: Sequence[Any],
        held_out: HeldOut,
        plan: Sequence[GrowthStep],
        steps: int,
        rules: Rules,
        history: History,
    ) -> None:
        self.host, self.optimizer, self.history = host, optimizer, history
        self.life: SeedLife | None = None
        self._schedulers, self._held_out = schedulers, held_out
        self._plan, self._steps, self._pace, self._limits = list(plan), steps, rules.pace, rules.limits
        self._whole, self._curve = tuple(plan), list[CurvePoint]()
        self._count = 0
        self._isolation = IsolationGuard()

    @property
    def idle(self) -> bool:
        """Whether nothing is under way and nothing is planned."""
        return self.life is None and not self._plan

    def turn(self, step: int) -> None:
        """Do what is due after an optimizer step."""
        if self.idle:
            return
        if self.life is not None and not self.host.stands(self.life.seed_id):
            self._let_go(step)
        self.host.advance(step)
        if step % self._pace.pulse == 0:
            self._look(step)
        if self.life is None:
            self._germinate_if_due(step)
        elif step - self.life.stage_step >= self._pace.dwell(self.life.stage):
            self._leave_stage(self.life, step)

    def isolation_broken(self, step: int) -> bool:
        """Look, at a pulse before the optimizer's step, whether a host that was to be still got gradients all the same.

        Then its seed is culled, and its gradients are dropped; after three such in a row none is attached for now.
        """
        life = self.life
        if life is None or life.stage != stages.TRAINING or step % self._pace.pulse:
            return False
        broken = self._isolation.judge(life.seed_id, frozen_leak(self.host))
        if broken:
            self.cull(step, "The host was to be still while the seed learned, and got gradients from other code.")
        return broken

    def cull(self, step: int, sentence: str, numbers: Mapping[str, float] | None = None) -> None:
        """Take the seed out and put the host back as it was when the seed germinated, moments included."""
        life = self._settle()
        remove_seed_group(self.optimizer, life.seed_id)
        self.host.cull(life.seed_id)
        self.go_back(life.before)
        self.history.tell(
            step, "culled", life.seed_id, f"{sentence} The host is as it was at step {life.before.step}.", numbers or {}
        )

    def _let_go(self, step: int) -> None:
        """Settle a seed that other code has taken out; what that code has made of the model is not ours to undo."""
        life = self._settle()
        remove_seed_group(self.optimizer, life.seed_id)
        self.host.cull(life.seed_id)
        follow_groups(self._schedulers, self.optimizer)
        sentence = "Other code has taken the seed out of the model, which stays as that code has left it."
        self.history.tell(step, "culled", life.seed_id, sentence, {})

    def finish(self, step: int) -> None:
        """Settle what is under way: judged where it has been measured enough, else culled."""
        for planned in self._plan:
            self.history.tell(step, "skipped", "", f"{planned.blueprint_id} at {planned.site}: the loop has ended.", {})
        self._plan.clear()
        if self.life is None:
            return
        if self.life.stage == stages.PROBATIONARY:
            self._leave_stage(self.life, step)
        else:
            self.cull(step, f"The loop ended while the seed was {stages.stage_name(self.life.stage)}.")

    def go_back(self, snapshot: Snapshot) -> None:
        """Put a state back and let the schedulers follow the groups."""
        go_back(self.host, self.optimizer, snapshot)
        follow_groups(self._schedulers, self.optimizer)

    def to_save(self, step: int) -> Snapshot:
        """Return a state to go on from in another process; while a seed is under way, that before it germinated."""
        live = self.life
        snapshot = capture(self.host, step=step, optimizer=self.optimizer) if live is None else live.before
        begun, count = len(self._whole) - len(self._plan), self._count
        cursor = {
            "live": live is not None,
            "begun": begun if live is None else begun - 1,
            "count": count if live is None else count - 1,
            "curve": [[point.step, point.loss] for point in self._curve if point.step <= snapshot.step],
            "events": self.history.without("" if live is None else live.seed_id),
        }
        return replace(snapshot, cursor=cursor)

    def go_on(self, snapshot: Snapshot) -> None:
        """Go on from a state that `to_save` returned."""
        restore(self.host, snapshot, optimizer=self.optimizer)
        follow_groups(self._schedulers, self.optimizer)
        self.life, self._plan = None, list(self._whole[snapshot.cursor["begun"] :])
        self._count = snapshot.cursor["count"]
        self._curve = [CurvePoint(*point) for point in snapshot.cursor["curve"]]
        self.history.replace(snapshot.cursor["events"])
        if snapshot.cursor["live"]:
            self._germinate_if_due(snapshot.step)

    def _look(self, step: int) -> None:
        loss = self._held_out.mean(self.host.model)
        self._curve.append(CurvePoint(step, loss))
        if self.life is not None:
            finding = judge_loss(loss, self.life.loss_before, self._limits)
            if not finding.passed:
                self.cull(
                    step, finding.sentence, {"held_out_loss": loss, "held_out_loss_before": self.life.loss_before}
                )

    def _germinate_if_due(self, step: int) -> None:
        due = self._plan and step >= round(self._plan[0].at * self._steps)
        # A model that a step has just spoiled must not become the state to which a cull returns.
        if not due or not finite(self.host):
            return
        planned = self._plan.pop(0)
        if step + self._pace.life > self._steps:
            against = f"too late to be judged before step {self._steps}."
        else:
            against = obstacle(self.host, planned.site, self._held_out, self._isolation)
        if against:
            self.history.tell(step, "skipped", "", f"{planned.blueprint_id} at {planned.site}: {against}", {})
        else:
            self._germinate(planned, step)

    def _germinate(self, planned: GrowthStep, step: int) -> None:
        self._count += 1
        seed_id, kernel = f"{planned.site}/{self._count}", kernel_of(self.host, planned)
        before = capture(self.host, step=step, optimizer=self.optimizer)
        loss = self._held_out.mean(self.host.model)
        generator = torch.Generator().manual_seed(self._count)
        seed = build(kernel.blueprint_id, kernel.parameters, kernel.contract, generator)
        self.host.germinate(planned.site, seed, seed_id=seed_id, kernel=kernel)
        add_seed_group(self.host, self.optimizer, seed_id)
        follow_groups(self._schedulers, self.optimizer)
        added = sum(parameter.numel() for parameter in seed.parameters())
        sentence = f"{planned.blueprint_id} with {added} parameters at {planned.site}; held-out loss {loss:.4f}."
        self.history.tell(step, "germinated", seed_id, sentence, {"parameters": added, "held_out_loss": loss})
        self._enter(SeedLife(seed_id, stages.GERMINATED, step, before, loss), stages.TRAINING, step)

    def _enter(self, life: SeedLife, stage: int, step: int) -> None:
        self.host.set_stage(life.seed_id, stage)
        if stage == stages.BLENDING:
            self.host.set_blend(life.seed_id, BlendSpec(), start_step=step, end_step=step + self._pace.blending)
        self.life = replace(life, stage=stage, stage_step=step)
        what, sentence = TOLD[stage]
        self.history.tell(step, what, life.seed_id, sentence, {"alpha": self.host.seed(life.seed_id).alpha})

    def _leave_stage(self, life: SeedLife, step: int) -> None:
        measured = probe(self.host, life.seed_id, self._held_out.batches, self._held_out.loss)
        finding = judge_safety(measured, life.loss_before, self._limits)
        if not finding.passed:
            self.cull(step, finding.sentence, numbers_of(measured))
            return
        if life.stage in stages.FULL_ALPHA:
            life = replace(life, probes=(*life.probes, measured))
        if life.stage in NEXT:
            self._enter(life, NEXT[life.stage], step)
        else:
            self._decide(life, measured, step)

    def _decide(self, life: SeedLife, measured: Contribution, step: int) -> None:
        finding = judge_merit(life.probes, self._improvement(life, measured, step), self._limits)
        if finding.passed:
            self._keep(finding, measured, step)
        else:
            self.cull(step, finding.sentence, numbers_of(measured))

    def _improvement(self, life: SeedLife, measured: Contribution, step: int) -> Improvement:
        """Compare with the extrapolated curve; where it has too few points, with the loss at germination."""
        earlier = [point for point in self._curve if point.step <= life.before.step]
        found = measure_improvement(earlier, CurvePoint(step, measured.loss_with))
        return found or Improvement(life.loss_before, measured.loss_with, 0.0)

    def _keep(self, finding: Finding, measured: Contribution, step: int) -> None:
        life = self._settle()
        self.host.fossilise(life.seed_id)
        sentence = f"{finding.sentence} It is part of the model now."
        self.history.tell(step, "fossilised", life.seed_id, sentence, numbers_of(measured))

    def _settle(self) -> SeedLife:
        life, self.life = self.life, None
        assert life is not None
        # The next seed is compared with what comes from here on: a graft's own drop would promise too much.
        self._curve.clear()
        return life
