"""Putting a worker's training side together from its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from esper_core import leyline
from esper_runtime.isolation_guard import IsolationGuard, isolation_breaker
from tolaria.growth.arrival import GradientArrival
from tolaria.growth.evidence import EvidenceCollector
from tolaria.growth.executor import DirectiveExecutor
from tolaria.growth.operations import GrowthOperations
from tolaria.growth.probing import Prober
from tolaria.growth.pulse import Pulse
from tolaria.growth.settling import LastFence
from tolaria.reporting.board import StatusBoard
from tolaria.reporting.events import EventLog
from tolaria.reporting.reporter import Reporter
from tolaria.safety.alarm import AlarmRules
from tolaria.safety.bridge import Bridge
from tolaria.safety.deadlines import DeadlineBoard
from tolaria.safety.emergencies import RunEmergencies
from tolaria.safety.profiler import StepProfiler, Window
from tolaria.safety.signals import SignalReader
from tolaria.safety.streak import FailedEpochs
from tolaria.settings import WorkerSettings
from tolaria.state.checkpoints import CheckpointStore
from tolaria.state.keeper import Rhythm, StateKeeper
from tolaria.state.recovery import Recovery
from tolaria.state.ring import SnapshotRing
from tolaria.state.rollback import Deadlines, Rollback
from tolaria.training.compilation import compile_blocks
from tolaria.training.feeding import PrefetchedBatches
from tolaria.training.fence import Fence
from tolaria.training.gradient_reports import GradientReports, GradientRules
from tolaria.training.graphs import capture_model
from tolaria.training.links import Links
from tolaria.training.loop import LoopParts
from tolaria.training.session import Session


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the training side stands in: settings, links to the mediator and to shared memory, where events go."""

    settings: WorkerSettings
    links: Links
    board: StatusBoard
    events: EventLog
    store: CheckpointStore
    save_status: Callable[[], None]
    signals: SignalReader
    deadlines: DeadlineBoard
    bridge: Bridge | None = None


def assemble(session: Session, around: Surroundings) -> LoopParts:
    """Build every part of the training loop of one session."""
    settings, links = around.settings, around.links
    reporter = Reporter(session, around.board, around.events, links.records, around.save_status)
    breaker = isolation_breaker(reporter.breaker_moved)
    session.isolation = IsolationGuard(strict=settings.strict_isolation, breaker=breaker)
    _speed_up(session, settings, reporter)
    ring = SnapshotRing(settings.snapshot_ring_size)
    rollback = Rollback(
        session,
        ring,
        around.store,
        Deadlines(settings.fast_rollback_deadline_ms / 1000, settings.full_rollback_deadline_s),
        lambda bad: reporter.checkpoint_damaged(bad.path.name, bad.problem),
        around.deadlines,
    )
    operations = GrowthOperations(session, links.prepared)
    executor = DirectiveExecutor(operations, lambda: session.counters.step)
    emergencies = _emergencies(around, reporter)
    keeper = StateKeeper(session, ring, around.store, _rhythm(session, settings), reporter)
    fence = Fence(session, links, executor, rollback, keeper, reporter, emergencies, around.signals)
    prober = Prober(session, settings.probe_examples)
    evidence = EvidenceCollector(session, prober, settings.probe_fraction)
    pulse = Pulse(session, links, evidence, settings.evidence_interval_steps, settings.evidence_spacing_ms / 1000)
    return LoopParts(
        session=session,
        fence=fence,
        pulse=pulse,
        prober=prober,
        keeper=keeper,
        recovery=Recovery(session, rollback, ring, operations, settings.rollback_limit),
        last_fence=LastFence(session, fence.cross, pulse, operations, links, reporter, settings.final_fence_s),
        operations=operations,
        reporter=reporter,
        gradients=GradientReports(session, reporter.tell, _gradient_rules(settings), prober),
        links=links,
        failed_epochs=FailedEpochs(settings.failed_epoch_limit),
        profiler=StepProfiler(
            Window.of(settings.profile_from_step, settings.profile_steps, settings.profile_dir),
            session.plan.run_id,
            lambda problem: emergencies.trigger(leyline.EMERGENCY_LEVEL_NOTICE, problem),
        ),
        arrival=GradientArrival(session),
        explosion_factor=settings.explosion_factor,
    )


def _speed_up(session: Session, settings: WorkerSettings, reporter: Reporter) -> None:
    if session.plan.compile:
        session.compiled = compile_blocks(session, settings.compile_backend, reporter.tell)
    if settings.cuda_graphs:
        session.captured = capture_model(session, reporter.tell)
    if settings.prefetch and not isinstance(session.sampler, PrefetchedBatches):
        session.sampler = PrefetchedBatches(session.sampler, session.device)


def _emergencies(around: Surroundings, reporter: Reporter) -> RunEmergencies:
    settings, bridge = around.settings, around.bridge
    rules = AlarmRules(
        per_minute=settings.emergency_signals_per_minute,
        bypass_per_minute=settings.emergency_bypass_per_minute,
        hold_s=settings.emergency_hold_s,
    )
    return RunEmergencies(rules, reporter.tell, bridge.emergency) if bridge else RunEmergencies(rules, reporter.tell)


def _gradient_rules(settings: WorkerSettings) -> GradientRules:
    return GradientRules(settings.gradient_interval_steps, settings.gradient_layers, settings.gradient_spacing_s)


def _rhythm(session: Session, settings: WorkerSettings) -> Rhythm:
    return Rhythm(
        snapshot_steps=settings.snapshot_interval_steps,
        checkpoint_steps=session.plan.checkpoint_interval_steps,
        longest_s=settings.checkpoint_interval_s,
        spacing_s=settings.checkpoint_spacing_s,
    )
