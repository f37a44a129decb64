"""Tamiyo's parts put together without sockets or files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from esper_core import leyline
from esper_core.blueprints import SiteContract, load_catalogue
from esper_core.blueprints.messages import descriptor
from esper_core.breaker import CircuitBreaker
from esper_core.clocks import Clock, ManualClock
from esper_core.guard import DependencyViolation
from esper_core.security import Keyring, MessageSigner
from esper_core.telemetry import Instruments
from support.tamiyo_run import HOST_PARAMETERS, STEPS_PER_EPOCH, TOTAL_STEPS
from tamiyo.catalogue import BlueprintCard, Catalogue
from tamiyo.controller import Controller
from tamiyo.convert.blueprints import card_of
from tamiyo.evaluation import Rulebook
from tamiyo.memory import RunMemory
from tamiyo.observation import Figures, Observation, RunPlan, SeedView, SiteView, Validation
from tamiyo.risk import RiskThresholds
from tamiyo.runs import RunTable
from tamiyo.telemetry import Telemetry

RUN = "01JD0000000000000000000000"
PROBATIONARY = leyline.SEED_STAGE_PROBATIONARY


def cards() -> dict[str, BlueprintCard]:
    """Return the catalogue that ships with Esper."""
    return {blueprint.blueprint_id: card_of(descriptor(blueprint)) for blueprint in load_catalogue()}


def full_catalogue(clock: Clock) -> Catalogue:
    """Return a catalogue that has just been heard."""
    catalogue = Catalogue(clock)
    for card in cards().values():
        catalogue.put(card)
    return catalogue


def plan(**changes: object) -> RunPlan:
    """Return the plan of a small Letter run."""
    sites = (
        SiteView("stem", SiteContract("features", 16), 0),
        SiteView("hidden1", SiteContract("features", 24), 1),
    )
    fields: dict[str, object] = {
        "task": "letter",
        "policy": "schedule",
        "total_steps": TOTAL_STEPS,
        "flops_budget": 0,
        "parameters_budget": 0,
        "seeds_budget": 2,
        "sites": sites,
        "blueprint_ids": ("mlp_residual.v1", "low_rank_linear.v1", "norm.v1"),
        "host_parameters": HOST_PARAMETERS,
        "steps_per_epoch": STEPS_PER_EPOCH,
        "random_seed": 0,
    }
    return RunPlan(**{**fields, **changes})  # type: ignore[arg-type]


def seen(step: int, **changes: object) -> Observation:
    """Return an observation at a step; keyword arguments are its fields, or figures."""
    names = Figures.__dataclass_fields__
    figures = {name: changes.pop(name) for name in list(changes) if name in names}
    fields: dict[str, object] = {
        "packet_id": f"p{step}",
        "run_id": RUN,
        "epoch": step // STEPS_PER_EPOCH,
        "step": step,
        "generation": 0,
        "figures": Figures(**{"loss_ewma": 1.0, **figures}),  # type: ignore[arg-type]
        "parameters": HOST_PARAMETERS,
    }
    return Observation(**{**fields, **changes})  # type: ignore[arg-type]


def seed(stage: int = PROBATIONARY, site: str = "stem", n: int = 1, **changes: object) -> SeedView:
    """Return a seed."""
    fields: dict[str, object] = {
        "seed_id": f"{RUN}/{site}/{n}",
        "site": site,
        "stage": stage,
        "blueprint_id": "mlp_residual.v1",
        "age_steps": 50,
        "parameter_count": 544,
    }
    return SeedView(**{**fields, **changes})  # type: ignore[arg-type]


def validation(step: int, loss: float) -> Validation:
    """Return a validation pass."""
    return Validation(loss, step, 0.9)


def memory_of(*observations: Observation, of: RunPlan | None = None, at_s: float = 0.0) -> RunMemory:
    """Return the memory of a run that was seen like this."""
    memory = RunMemory(RUN, plan=of or plan())
    for observation in observations:
        memory.take(observation, at_s)
    return memory


@dataclass(slots=True)
class Sink:
    """Keeps events and points."""

    events: list[tuple[str, int, str]] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    violations: list[DependencyViolation] = field(default_factory=list)

    def event(
        self, name: str, level: leyline.TelemetryLevel.ValueType, description: str, *, run_id: str = "", **more: object
    ) -> None:
        """Take an event."""
        self.events.append((name, level, description))

    def gauge(self, name: str, value: float, *, run_id: str = "", **more: object) -> None:
        """Take a value."""
        self.values[name] = value

    def names(self) -> list[str]:
        """Return the names of all events."""
        return [name for name, _, _ in self.events]


class StepClock(ManualClock):
    """A manual clock on which every look costs `cost_s`."""

    __slots__ = ("cost_s",)

    def __init__(self, cost_s: float = 0.0) -> None:
        super().__init__()
        self.cost_s = cost_s

    def monotonic(self) -> float:
        """Return the time and let it pass."""
        if self.cost_s:
            self.advance(self.cost_s)
        return super().monotonic()


@dataclass(slots=True)
class Bench:
    """A controller on a clock of its own."""

    clock: StepClock = field(default_factory=StepClock)
    rules: Rulebook = field(default_factory=lambda: Rulebook(risk=RiskThresholds(step_budget_ms=5.0)))
    keyring: Keyring = field(default_factory=Keyring.generate)
    sink: Sink = field(default_factory=Sink)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.telemetry = Telemetry(Instruments(self.registry), self.sink)
        self.catalogue = full_catalogue(self.clock)
        self.runs = RunTable()
        self.breaker = CircuitBreaker("tamiyo.evaluation", open_s=5.0, clock=self.clock)
        signer = MessageSigner(self.keyring, "command", clock=self.clock)
        self.controller = Controller(
            self.runs,
            self.catalogue,
            self.rules,
            signer.sign,
            self.breaker,
            violated=self.sink.violations.append,
            clock=self.clock,
        )

    telemetry: Telemetry = field(init=False)
    catalogue: Catalogue = field(init=False)
    runs: RunTable = field(init=False)
    breaker: CircuitBreaker = field(init=False)
    controller: Controller = field(init=False)

    def value(self, name: str, labels: Mapping[str, str] | None = None) -> float | None:
        """Return what Prometheus would show."""
        return self.registry.get_sample_value(name, dict(labels or {}))
