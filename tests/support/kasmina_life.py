"""A scripted runtime for Kasmina's state machine: it applies what it is told and measures what a test wants it to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from esper_core import leyline
from esper_core.blueprints import SiteContract, get_blueprint
from esper_core.clocks import ManualClock
from kasmina import facts as f
from kasmina.catalogue import Catalogue, CatalogueItem
from kasmina.commands import Command, SeedOperation
from kasmina.directives import Directive, DirectiveResult
from kasmina.evidence import Evidence, Improvement, Probe
from kasmina.kernels import Kernel, KernelKey
from kasmina.lifecycle import BLENDING, DORMANT, FOSSILIZED, GERMINATED, SHADOWING
from kasmina.operations import Supply
from kasmina.reconcile import Held
from kasmina.rules import Rules
from kasmina.run import Boundary, Greeting, RunExecutor
from kasmina.sites import Site
from kasmina.validator import CommandValidator

RUN = "01J00000000000000000000000"
BLUEPRINT = "mlp_residual.v1"
SITE = Site("hidden", "body.1", SiteContract("features", 64), 1)
LAYERS = ("body", "body.0", "body.1", "head")
TOTAL_STEPS = 1000


def catalogue_item(blueprint_id: str = BLUEPRINT, **changes: Any) -> CatalogueItem:
    """Return a blueprint of the shipped catalogue as Urza would tell it."""
    blueprint = get_blueprint(blueprint_id)
    modes = (leyline.BLEND_MODE_CONVEX, leyline.BLEND_MODE_RESIDUAL, leyline.BLEND_MODE_CHANNEL)
    item = CatalogueItem(blueprint, not blueprint.approval_required, "", False, blueprint.risk, modes)
    return replace(item, **changes)


def full_catalogue() -> Catalogue:
    """Return the shipped catalogue."""
    from esper_core.blueprints import load_catalogue

    catalogue = Catalogue()
    catalogue.replace_all(catalogue_item(blueprint.blueprint_id) for blueprint in load_catalogue())
    return catalogue


def kernel_for(key: KernelKey) -> Kernel:
    """Return a kernel with made-up digests."""
    return Kernel(key, "a" * 64, "b" * 64, 4096, 8256)


def germinate(number: int = 1, generation: int = 0, site: str = SITE.name, **operation: Any) -> Command:
    """Return a GERMINATE."""
    payload = SeedOperation(leyline.SEED_OPERATION_GERMINATE, operation.pop("blueprint_id", BLUEPRINT), **operation)
    return Command(f"germinate-{number}", RUN, leyline.COMMAND_TYPE_SEED, generation, "", site, None, payload)


def seed_command(operation: int, seed_id: str, generation: int, number: int = 1, **more: Any) -> Command:
    """Return a command about a seed."""
    payload = SeedOperation(operation, **more)
    name = f"command-{operation}-{number}"
    return Command(name, RUN, leyline.COMMAND_TYPE_SEED, generation, seed_id, "", None, payload)


@dataclass
class Grown:
    """A seed as this runtime holds it."""

    seed_id: str
    site: str
    stage: int
    stage_step: int
    alpha: float = 0.0
    ramp: int = 1


@dataclass
class ScriptedRuntime:
    """Executor and runtime together; `step` trains on and reports, like a run would."""

    rules: Rules = field(default_factory=Rules)
    clock: ManualClock = field(default_factory=ManualClock)
    contribution: float = 0.05
    half_width: float = 0.01
    improvement: float | None = 0.02
    measured: dict[str, Any] = field(default_factory=dict)
    refuse: dict[int, str] = field(default_factory=dict)
    leaves: tuple[str, ...] = ()
    step_now: int = 0
    generation: int = 0
    held: dict[str, Grown] = field(default_factory=dict)
    facts: list[f.Fact] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.catalogue = full_catalogue()
        self.validator = CommandValidator(self.catalogue, self.rules)
        self.ids = count(1)
        self.executor = self.fresh()

    def fresh(self) -> RunExecutor:
        """Return an executor that knows nothing."""
        return RunExecutor(RUN, self.rules, self.validator, self.clock, lambda: f"d{next(self.ids)}")

    def greeting(self, **changes: Any) -> Greeting:
        """Return what this runtime says about itself."""
        inventory = tuple(
            Held(seed.seed_id, seed.site, seed.stage, BLUEPRINT, "a" * 64, seed.alpha, 8256)
            for seed in self.held.values()
        )
        greeting = Greeting(
            RUN, self.generation, inventory, (SITE,), (BLUEPRINT, "norm.v1"), TOTAL_STEPS, self.step_now, 50, 0, LAYERS
        )
        return replace(greeting, **changes)

    def connect(self, **changes: Any) -> tuple[Any, ...]:
        """Say hello, work off what follows, and return the notes."""
        reception = self.executor.hello(self.greeting(**changes))
        self.take(reception.facts)
        return reception.notes

    def command(self, command: Command) -> f.CommandDecided:
        """Send a command with its kernel ready and return what became of it."""
        key = None
        if self.executor.ledger.opened is not None:
            key = self.validator.kernel_key(command, self.executor.ledger)
        payload = command.payload
        name = payload.blueprint_id if isinstance(payload, SeedOperation) else ""
        supply = Supply(self.catalogue.get(name), key, kernel_for(key) if key else None)
        facts = self.executor.command(command, supply)
        self.take(facts)
        return next(fact for fact in facts if isinstance(fact, f.CommandDecided))

    def take(self, facts: Iterable[f.Fact]) -> None:
        """Keep facts and apply their directives."""
        facts = tuple(facts)
        self.facts.extend(facts)
        for fact in facts:
            if isinstance(fact, f.DirectiveIssued):
                self.take(self.executor.result(self.apply(fact.directive)))

    def apply(self, directive: Directive) -> DirectiveResult:
        """Do what a directive says."""
        code = self.refuse.get(directive.kind, "")
        if not code:
            self._obey(directive)
        return DirectiveResult(
            directive_id=directive.directive_id,
            run_id=RUN,
            seed_id=directive.seed_id,
            kind=directive.kind,
            applied=not code,
            error_code=code,
            message="refused by the script" if code else "",
            generation=self.generation,
            step=self.step_now,
            apply_ms=0.1,
            parameter_count=8256,
            removed_cleanly=not code and not self.leaves,
            left_behind=self.leaves,
        )

    def _obey(self, directive: Directive) -> None:
        kind, details = directive.kind, directive.details
        if kind == leyline.DIRECTIVE_KIND_ATTACH:
            self.generation += 1
            self.held[directive.seed_id] = Grown(directive.seed_id, directive.site, GERMINATED, self.step_now)
        elif kind == leyline.DIRECTIVE_KIND_SET_BLEND and details.blend:
            self.held[directive.seed_id].ramp = details.blend.end_steps
        elif kind == leyline.DIRECTIVE_KIND_SET_STAGE:
            grown = self.held[directive.seed_id]
            grown.stage, grown.stage_step = details.stage, self.step_now
            self.generation += details.stage == FOSSILIZED
        elif kind == leyline.DIRECTIVE_KIND_DETACH:
            self.generation += 1
            self.held.pop(directive.seed_id, None)

    def train(self, steps: int, every: int = 5, final: bool = False) -> None:
        """Train some steps, reporting every few."""
        for _ in range(0, steps, every):
            self.step_now += every
            self.clock.advance(0.1)
            self.report(final)

    def report(self, final: bool = False) -> None:
        """Send a boundary and evidence of every held seed."""
        epoch = self.step_now // 50
        end = self.step_now % 50 == 0
        self.take(self.executor.boundary(Boundary(self.step_now, epoch, self.generation, end, final)))
        for grown in tuple(self.held.values()):
            if grown.stage != FOSSILIZED:
                self.take(self.executor.evidence(self.evidence(grown)))

    def evidence(self, grown: Grown) -> Evidence:
        """Measure a seed; `measured` overrides any field."""
        dwell = self.step_now - grown.stage_step
        if grown.stage == BLENDING:
            grown.alpha = min(1.0, dwell / grown.ramp)
        plain = Evidence(
            run_id=RUN,
            seed_id=grown.seed_id,
            generation=self.generation,
            step=self.step_now,
            epoch=self.step_now // 50,
            stage=grown.stage,
            alpha=grown.alpha,
            finite=True,
            gradient_norm=0.5,
            latency_ms=0.2,
            output_norm=0.3,
            host_output_norm=1.0,
            loss=0.9,
            loss_at_germination=1.0,
            contribution=self.probe() if grown.stage >= SHADOWING else None,
            improvement=self._improvement(),
            host_layers_present=LAYERS,
        )
        return replace(plain, **self.measured)

    def probe(self) -> Probe:
        """Make a counterfactual."""
        low, high = self.contribution - self.half_width, self.contribution + self.half_width
        return Probe(0.9, 0.9 + self.contribution, self.contribution, low, high, 1024, self.step_now)

    def _improvement(self) -> Improvement | None:
        if self.improvement is None:
            return None
        return Improvement(0.9, 0.9 - self.improvement, self.improvement, 0.01)

    def stage(self, seed_id: str) -> int:
        """Return a seed's stage by the journal; DORMANT when it is not on record."""
        seed = self.executor.ledger.seeds.get(seed_id)
        return seed.stage if seed else DORMANT

    def of(self, kind: type[Any]) -> list[Any]:
        """Return the facts of one kind so far."""
        return [fact for fact in self.facts if isinstance(fact, kind)]
