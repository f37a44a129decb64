"""Evidence about unsettled seeds, as Kasmina's gates need it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from torch import Tensor, nn

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock, to_timestamp
from esper_runtime.blend_summary import summarise_blend
from esper_runtime.graft import Graft
from esper_runtime.host import Host
from esper_runtime.improvement import CurvePoint, measure_improvement
from esper_runtime.leaks import Leak
from esper_runtime.naming import parent_of
from esper_runtime.topology import GraftRecord
from tolaria.growth.book import Contribution, SeedEntry
from tolaria.growth.observation import Observed
from tolaria.growth.probing import Prober
from tolaria.training.optimizer import gradient_norm, host_parameters
from tolaria.training.session import Session

_PROBED: Final = frozenset({leyline.SEED_STAGE_SHADOWING, leyline.SEED_STAGE_PROBATIONARY})
_SLACK: Final = 1e-9


class EvidenceCollector:
    """Puts together what was measured of each unsettled seed.

    Parameters
    ----------
    session : Session
        The run.
    prober : Prober
        Makes the counterfactuals.
    probe_fraction : float
        Share of the run's steps between two counterfactuals of a seed.
    """

    def __init__(self, session: Session, prober: Prober, probe_fraction: float, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._session = session
        self._prober = prober
        self._probe_fraction = probe_fraction
        self._clock = clock
        self._layers = bare_layers(session.host)
        self._found: list[str] = []
        self._bare: list[nn.Parameter] = []
        self._looked_at = -1

    @property
    def host_layers(self) -> list[str]:
        """Module paths of the bare host."""
        return self._layers

    def collect(
        self, seen: Mapping[str, Observed], *, boundary: bool, final: bool = False
    ) -> list[leyline.SeedEvidence]:
        """Return evidence about every unsettled seed, with a counterfactual where one is due.

        Parameters
        ----------
        seen : Mapping[str, Observed]
            What was observed in the last step, by seed.
        boundary : bool
            Whether this is the end of an epoch.
        final : bool
            Whether the run waits at its last fence, where a missing counterfactual is made at once.
        """
        records = {record.seed_id: record for record in self._session.host.seeds()}
        return [
            self._about(records[entry.seed_id], seen.get(entry.seed_id, Observed()), boundary, final)
            for entry in self._session.book.unsettled()
            if entry.seed_id in records
        ]

    def _about(self, record: GraftRecord, observed: Observed, boundary: bool, final: bool) -> leyline.SeedEvidence:
        session = self._session
        leak = self._leak(observed)
        entry = self._note(record, observed, leak)
        fresh = self._probe(entry, record, final)
        entry = session.book.entries[record.seed_id]
        message = leyline.SeedEvidence(
            training_run_id=session.plan.run_id,
            seed_id=entry.seed_id,
            generation=session.host.generation,
            global_step=session.counters.step,
            epoch=session.epoch,
            stage=leyline.SeedStage.ValueType(record.stage),
            alpha=record.alpha,
            dwell_steps=max(0, session.counters.step - entry.stage_step),
            dwell_epochs=max(0, session.epoch - entry.stage_epoch),
            gradient_norm=entry.gradient_norm,
            host_gradient_norm=self._host_norm(),
            isolation_cosine=None if leak is None else leak.cosine,
            isolation_violations=entry.isolation_violations,
            latency_ms=observed.latency_ms,
            output_norm=_number(observed.output_norm),
            host_output_norm=_number(observed.host_output_norm),
            finite=entry.finite,
            loss=session.statistics.loss_ewma,
            loss_at_germination=entry.loss_at_germination,
            alpha_monotone=entry.alpha_monotone,
            boundary=boundary,
            measured_at=to_timestamp(self._clock.wall()),
            steps_remaining=max(0, session.total_steps - session.counters.step),
            host_layers_present=self._present(),
            compiled=session.compiles(entry.seed_id),
        )
        self._add_blend(message, record.seed_id)
        if fresh is not None:
            self._add_probe(message, fresh, entry)
        return message

    def _note(self, record: GraftRecord, observed: Observed, leak: Leak | None) -> SeedEntry:
        """Carry over into the book what holds from now on: norms, finiteness, the course of alpha."""
        book, entry = self._session.book, self._session.book.entries[record.seed_id]
        norm = self._seed_norm(record.seed_id)
        numbers = [number for number in (norm, _number(observed.output_norm)) if number is not None]
        blending = record.stage == leyline.SEED_STAGE_BLENDING
        rises = record.ramp is None or record.ramp.target >= record.ramp.initial
        against = blending and rises and record.alpha < entry.alpha - _SLACK
        return book.update(
            record.seed_id,
            gradient_norm=norm,
            finite=entry.finite and all(math.isfinite(number) for number in numbers),
            alpha=record.alpha,
            alpha_monotone=entry.alpha_monotone and not against,
            isolation_violations=entry.isolation_violations + self._violated(record.seed_id, leak),
        )

    @staticmethod
    def _leak(observed: Observed) -> Leak | None:
        """Read what leaked in the step that was watched; a report without such a step has nothing to say about it."""
        meter, observed.leak = observed.leak, None
        return None if meter is None else meter.read()

    def _violated(self, seed_id: str, leak: Leak | None) -> int:
        return 0 if leak is None else int(self._session.isolation.judge(seed_id, leak))

    def _seed_norm(self, seed_id: str) -> float | None:
        return gradient_norm(self._session.host.graft(seed_id).seed.parameters())

    def _host_norm(self) -> float | None:
        self._look()
        return gradient_norm(self._bare)

    def _probe(self, entry: SeedEntry, record: GraftRecord, final: bool) -> Contribution | None:
        session = self._session
        if not (record.stage in _PROBED or _blended(record)):
            return None
        spacing = max(1, round(self._probe_fraction * session.total_steps))
        due = entry.probed_step < 0 or session.counters.step - entry.probed_step >= spacing
        if not due and not (final and entry.probed_step != session.counters.step):
            return None
        found = self._prober.contribution(entry.seed_id)
        finite = entry.finite and math.isfinite(found.loss_with)
        session.book.update(entry.seed_id, contribution=found, probed_step=session.counters.step, finite=finite)
        return found

    def _add_blend(self, message: leyline.SeedEvidence, seed_id: str) -> None:
        summary = summarise_blend(self._session.host.graft(seed_id))
        if summary is not None:
            message.alpha_mean, message.alpha_p95 = summary.alpha_mean, summary.alpha_p95
            message.sparsity = summary.sparsity
            if summary.gate_mean is not None:
                message.gate_mean = summary.gate_mean

    def _add_probe(self, message: leyline.SeedEvidence, found: Contribution, entry: SeedEntry) -> None:
        message.seed_loss = found.loss_with
        message.contribution.CopyFrom(
            leyline.ContributionProbe(
                mean_loss_with=found.loss_with,
                mean_loss_without=found.loss_without,
                contribution=found.mean,
                ci_low=found.low,
                ci_high=found.high,
                examples=found.examples,
            )
        )
        before = self._session.book.curve_before(entry.germinated_step)
        improvement = measure_improvement(before, CurvePoint(found.step, found.loss_with))
        if improvement is not None:
            message.improvement.expected_loss = improvement.expected_loss
            message.improvement.observed_loss = improvement.observed_loss
            message.improvement.improvement = improvement.improvement
            message.improvement.standard_error = improvement.standard_error

    def _present(self) -> list[str]:
        self._look()
        return self._found

    def _look(self) -> None:
        """Walk the model once in a generation; what it has changes in no other way."""
        host = self._session.host
        if self._looked_at != host.generation:
            self._looked_at = host.generation
            self._found = [name for name in self._layers if _exists(host.model, name)]
            self._bare = host_parameters(host)


def bare_layers(host: Host) -> list[str]:
    """Return the module paths of the host as they are without any graft."""
    grafts = [name for name, module in host.model.named_modules() if isinstance(module, Graft)]
    paths: list[str] = []
    for name, module in host.model.named_modules():
        inside = next((graft for graft in grafts if name.startswith(f"{graft}.seed")), None)
        if name and inside is None and not isinstance(module, Graft):
            paths.append(_without_grafts(name, grafts))
    return paths


def _without_grafts(name: str, grafts: list[str]) -> str:
    for graft in sorted(grafts, key=len, reverse=True):
        if name.startswith(f"{graft}.host"):
            name = graft + name.removeprefix(f"{graft}.host")
    return name


def _number(scalar: Tensor | None) -> float | None:
    return None if scalar is None else float(scalar)


def _blended(record: GraftRecord) -> bool:
    """Say whether the ramp of a blending seed has arrived."""
    blending = record.stage == leyline.SEED_STAGE_BLENDING
    return blending and record.ramp is not None and record.alpha >= record.ramp.target


def _exists(model: nn.Module, path: str) -> bool:
    try:
        parent_of(model, path)
    except AttributeError:
        return False
    return True
