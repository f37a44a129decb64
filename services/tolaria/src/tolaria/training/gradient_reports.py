"""Reports about gradients: what each owner and each layer had of them, told at the end of an epoch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from google.protobuf.message import Message

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import ConfigurationError
from esper_runtime.ownership import HOST, seed_owner
from tolaria.aggregation.attribution import APPROX, PROBE, Attributed, FirstOrder, GoingBack
from tolaria.aggregation.meters import GradientMeters, Place, Reading
from tolaria.aggregation.pool import Met
from tolaria.growth.probing import Prober
from tolaria.training.session import Session
from tolaria.training.step import StepResult


@dataclass(frozen=True, slots=True)
class GradientRules:
    """How closely gradients are looked at.

    Attributes
    ----------
    interval_steps : int
        Steps between two looks; 0 for none, and no reports.
    layers : int
        Layers that a report names.
    spacing_s : float
        Shortest wall time between two reports; epochs that are shorter share one.
    """

    interval_steps: int
    layers: int
    spacing_s: float


class GradientReports:
    """Looks at some steps, adds up on the device, and tells once per epoch.

    What a resumed run or a rollback has forgotten is in no report: `steps` says how many were looked at.

    Parameters
    ----------
    session : Session
        The run.
    tell : callable
        Where reports go.
    rules : GradientRules
        How closely to look.
    prober : Prober
        Measures held-out losses where the run asks for attribution by probe.

    Raises
    ------
    ConfigurationError
        If the run asks for an attribution that no report would carry.
    """

    def __init__(
        self,
        session: Session,
        tell: Callable[[Message], None],
        rules: GradientRules,
        prober: Prober,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._session = session
        self._tell = tell
        self._rules = rules
        self._clock = clock
        self._meters = GradientMeters(session.host)
        self._attribution = _attribution(session, rules, prober)
        self._prober = prober
        self._epoch_steps = session.sampler.batches_per_epoch
        self._told_at = -math.inf
        self._begin()

    def stepped(self, result: StepResult) -> None:
        """Take note of a healthy step whose gradients are still there; a few comparisons where nothing is due."""
        interval = self._rules.interval_steps
        if not interval:
            return
        if result.met:
            self._note(result.met)
        if result.step % interval == 0:
            self._observe()
        if result.step % self._epoch_steps == 0 and self._clock.monotonic() - self._told_at >= self._rules.spacing_s:
            self._report()

    def finish(self) -> None:
        """Tell what has not been told yet; called once the budget is spent."""
        if self._rules.interval_steps:
            self._report()

    def _begin(self) -> None:
        self._conflicts: dict[str, list[int]] = {}
        self._after_step = self._session.counters.step
        self._rollbacks = self._session.counters.rollbacks

    def _note(self, met: Mapping[str, Met]) -> None:
        for group, found in met.items():
            entry = self._session.book.entries.get(group)
            counted = self._conflicts.setdefault(group if entry and entry.unsettled else HOST, [0, 0])
            counted[0] += found.conflicts
            counted[1] += found.pairs

    def _observe(self) -> None:
        if self._rollbacks != self._session.counters.rollbacks:
            self._meters.forget()
            if isinstance(self._attribution, GoingBack):
                self._attribution.forget()
            self._begin()
        self._meters.observe()

    def _report(self) -> None:
        if not self._meters.steps:
            return
        self._told_at = self._clock.monotonic()
        reading = self._meters.read()
        attributed = self._attributed()
        self._tell(
            leyline.GradientReport(
                after_step=self._after_step,
                last_step=self._session.counters.step,
                steps=reading.steps,
                owners=_owners(reading, self._session, self._conflicts, attributed.owners),
                layers=_layers(reading, self._rules.layers),
                attribution=self._session.plan.attribution if attributed.owners else "",
                loss_movement=attributed.movement,
            )
        )
        self._begin()

    def _attributed(self) -> Attributed:
        attribution = self._attribution
        if attribution is None or (isinstance(attribution, GoingBack) and not self._prober.affords(attribution.passes)):
            return Attributed({})
        return attribution.read()


def _owners(
    reading: Reading, session: Session, conflicts: Mapping[str, list[int]], attributed: Mapping[str, float]
) -> Iterator[leyline.OwnerGradients]:
    squares, weights = (_summed(of, lambda place: place.owner) for of in (reading.squares, reading.weights))
    whole = sum(squares.values())
    names = {seed_owner(entry.seed_id): entry for entry in session.book}
    alphas = {record.seed_id: record.alpha for record in session.host.seeds()}
    for owner, square in squares.items():
        entry = names.get(owner)
        name = entry.seed_id if entry else HOST
        conflicting, pairs = conflicts.get(name, (0, 0))
        yield leyline.OwnerGradients(
            owner=name,
            site=entry.site if entry else "",
            gradient_norm=math.sqrt(square / reading.steps),
            share=square / whole if whole else 0.0,
            scale=session.gradient_scale(name),
            weight_norm=math.sqrt(weights[owner]) if owner in weights else None,
            alpha=alphas.get(name),
            conflict_rate=conflicting / pairs if pairs else None,
            attributed_loss=attributed.get(owner),
        )


def _attribution(session: Session, rules: GradientRules, prober: Prober) -> FirstOrder | GoingBack | None:
    asked = session.plan.attribution
    if asked and not rules.interval_steps:
        raise ConfigurationError(
            f"The run asks for attribution by {asked}, but the worker reports no gradients. "
            f"Set TOLARIA_GRADIENT_INTERVAL_STEPS above 0."
        )
    if asked == PROBE:
        return GoingBack(session.host, prober.loss)
    session.first_order = FirstOrder(session.host) if asked == APPROX else None
    return session.first_order


def _layers(reading: Reading, count: int) -> Iterator[leyline.LayerGradients]:
    squares, weights = (_summed(of, _layer) for of in (reading.squares, reading.weights))
    for name in sorted(squares, key=lambda layer: -squares[layer])[:count]:
        yield leyline.LayerGradients(
            name=name,
            gradient_norm=math.sqrt(squares[name] / reading.steps),
            weight_norm=math.sqrt(weights[name]) if name in weights else None,
        )


def _layer(place: Place) -> str:
    return place.name.rpartition(".")[0]


def _summed(squares: Mapping[Place, float], key: Callable[[Place], str]) -> dict[str, float]:
    sums: defaultdict[str, float] = defaultdict(float)
    for place, square in squares.items():
        sums[key(place)] += square
    return dict(sums)
