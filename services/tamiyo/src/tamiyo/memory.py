"""What Tamiyo remembers of one run between packets: plan, history of losses, seeds, commands. Bounded in every part."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Final

from esper_core import leyline
from tamiyo.actions import Action, Kind
from tamiyo.conservative import Mode
from tamiyo.observation import KEPT, Figures, Observation, RunPlan, SeedView, Validation

LOSS_POINTS: Final = 1024
VALIDATIONS: Final = 256
VOLATILITIES: Final = 64
VOLATILITIES_MIN: Final = 8
SEEDS: Final = 256
COMMANDS: Final = 256
NEARLY_SPENT: Final = 0.99


@dataclass(frozen=True, slots=True)
class LossPoint:
    """The smoothed training loss at a step and the fraction of the budget spent by then."""

    step: int
    fraction: float
    loss: float


@dataclass(frozen=True, slots=True)
class CulledPair:
    """A pair of site and blueprint that was removed, and the fraction of the budget at which that was seen."""

    site: str
    blueprint_id: str
    fraction: float


@dataclass(frozen=True, slots=True)
class SentCommand:
    """A command that left; `at_s` is monotonic time, None for one remembered from the journal."""

    command_id: str
    kind: Kind
    seed_id: str
    site: str
    blueprint_id: str
    step: int
    fraction: float
    at_s: float | None


@dataclass(slots=True)
class RunMemory:
    """The memory of one run.

    Attributes
    ----------
    plan : RunPlan or None
        From the last packet that carried a context; None until one did.
    before, now : Observation or None
        The last two packets, so that evaluators can tell fresh figures from repeated ones.
    sent : deque of SentCommand
        Commands, oldest first.
    """

    run_id: str
    plan: RunPlan | None = None
    before: Observation | None = None
    now: Observation | None = None
    losses: deque[LossPoint] = field(default_factory=lambda: deque(maxlen=LOSS_POINTS))
    volatilities: deque[float] = field(default_factory=lambda: deque(maxlen=VOLATILITIES))
    validations: deque[Validation] = field(default_factory=lambda: deque(maxlen=VALIDATIONS))
    seeds: dict[str, SeedView] = field(default_factory=dict)
    culled: list[CulledPair] = field(default_factory=list)
    sent: deque[SentCommand] = field(default_factory=lambda: deque(maxlen=COMMANDS))
    mode: Mode = field(default_factory=Mode)
    evaluations: int = 0
    final_since_s: float | None = None
    seen_at_s: float = 0.0

    @property
    def fraction(self) -> float:
        """Share of the budget that is spent, 0 to 1."""
        if self.plan is None or self.now is None:
            return 0.0
        return self.plan.fraction(self.now.step, self.now.flops_used)

    @property
    def at_its_end(self) -> bool:
        """Whether the run was at its last fence, or had spent its budget but for the last steps."""
        return self.final_since_s is not None or self.fraction >= NEARLY_SPENT

    @property
    def figures_before(self) -> Figures:
        """Figures of the packet before this one."""
        return self.before.figures if self.before is not None else Figures()

    @property
    def usual_volatility(self) -> float | None:
        """Median volatility of the loss in this run lately; None while too few are known."""
        return median(self.volatilities) if len(self.volatilities) >= VOLATILITIES_MIN else None

    @property
    def germinated(self) -> int:
        """Seeds that were ever attached in this run."""
        return len(self.seeds)

    @property
    def validation(self) -> Validation | None:
        """The last validation pass."""
        return self.validations[-1] if self.validations else None

    def take(self, observation: Observation, now_s: float) -> None:
        """Take up a packet.

        Parameters
        ----------
        observation : Observation
            The packet.
        now_s : float
            Monotonic time.
        """
        if self.now is not None and observation.step < self.now.step:
            self._rewind(observation.step)
        self.before, self.now = self.now, observation
        self.plan = observation.plan or self.plan
        self.seen_at_s = now_s
        self.evaluations += 1
        if observation.final and self.final_since_s is None:
            self.final_since_s = now_s
        elif not observation.final:
            self.final_since_s = None
        self._take_losses(observation)
        self._take_seeds(observation)

    def note(self, action: Action, command_id: str, now_s: float | None, step: int, fraction: float) -> None:
        """Remember a command that leaves."""
        self.sent.append(
            SentCommand(
                command_id, action.kind, action.seed_id, action.site, action.blueprint_id, step, fraction, now_s
            )
        )

    def withdraw(self, command_id: str) -> None:
        """Forget a command that could not leave after all."""
        kept = [one for one in self.sent if one.command_id != command_id]
        self.sent.clear()
        self.sent.extend(kept)

    def last_sent(self, kind: Kind, seed_id: str = "") -> SentCommand | None:
        """Return the last command of a kind, for one seed where a seed is named."""
        matching = (one for one in reversed(self.sent) if one.kind == kind and (not seed_id or one.seed_id == seed_id))
        return next(matching, None)

    def awaited(self, now_s: float, patience_s: float) -> SentCommand | None:
        """Return the germination whose seed has not appeared yet and may still appear, or None."""
        last = self.last_sent("GERMINATE")
        if last is None or last.at_s is None or now_s - last.at_s > patience_s:
            return None
        appeared = any(seed.germinate_command_id == last.command_id for seed in self.seeds.values())
        return None if appeared else last

    def fruitless(self, site: str, blueprint_id: str, now_s: float, patience_s: float) -> bool:
        """Tell whether a pair was to germinate, its patience is over and no seed ever appeared."""
        born = {seed.germinate_command_id for seed in self.seeds.values()}
        return any(
            one.kind == "GERMINATE"
            and (one.site, one.blueprint_id) == (site, blueprint_id)
            and one.command_id not in born
            and one.at_s is not None
            and now_s - one.at_s > patience_s
            for one in self.sent
        )

    def culled_lately(self, site: str, blueprint_id: str, rest: float) -> bool:
        """Tell whether a pair was culled within the last `rest` of the budget."""
        return any(
            (pair.site, pair.blueprint_id) == (site, blueprint_id) and self.fraction - pair.fraction < rest
            for pair in self.culled
        )

    def _rewind(self, step: int) -> None:
        """Forget losses of steps that a rollback undid."""
        while self.losses and self.losses[-1].step > step:
            self.losses.pop()
        while self.validations and self.validations[-1].step > step:
            self.validations.pop()

    def _take_losses(self, observation: Observation) -> None:
        if observation.validation is not None:
            self.validations.append(observation.validation)
        loss = observation.figures.loss_ewma
        spacing = max(1, (self.plan.total_steps if self.plan else 0) // LOSS_POINTS)
        if loss is not None and (not self.losses or observation.step >= self.losses[-1].step + spacing):
            self.losses.append(LossPoint(observation.step, self.fraction, loss))
            if observation.figures.loss_volatility is not None:
                self.volatilities.append(observation.figures.loss_volatility)

    def _take_seeds(self, observation: Observation) -> None:
        present = {seed.seed_id for seed in observation.seeds}
        for seed in observation.seeds:
            known = self.seeds.get(seed.seed_id)
            if known is not None and known.unsettled and not seed.unsettled and seed.stage not in KEPT:
                self._note_cull(known)
            if known is None and len(self.seeds) >= SEEDS:
                self.seeds.pop(next(iter(self.seeds)))
            self.seeds[seed.seed_id] = seed
        for seed_id in [one for one, seed in self.seeds.items() if seed.unsettled and one not in present]:
            self._note_cull(self.seeds[seed_id])
            self.seeds[seed_id] = _gone(self.seeds[seed_id])

    def _note_cull(self, seed: SeedView) -> None:
        self.culled.append(CulledPair(seed.site, seed.blueprint_id, self.fraction))
        del self.culled[:-SEEDS]


def _gone(seed: SeedView) -> SeedView:
    return replace(seed, stage=leyline.SEED_STAGE_CULLED)
