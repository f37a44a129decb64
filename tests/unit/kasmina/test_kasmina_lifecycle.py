"""The lifecycle table, and that nothing whatever leads past it."""

from __future__ import annotations

from itertools import pairwise, product

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from esper_core import leyline
from esper_core.errors import InternalError, StateConflictError
from kasmina import facts as f
from kasmina.journal import decode_facts, encode_facts
from kasmina.lifecycle import (
    ALL_STAGES,
    ATTACHED,
    CULLED,
    DORMANT,
    EMBARGOED,
    FOSSILIZED,
    RESETTING,
    TERMINATED,
    TRANSITIONS,
    check_table,
    is_legal,
    require_legal,
)
from kasmina.rules import Rules
from support.kasmina_life import RUN, Grown, ScriptedRuntime, germinate, seed_command

OPERATIONS = [value for value in leyline.SeedOperation.values() if value > leyline.SEED_OPERATION_GERMINATE]


@pytest.mark.req("KAS-6")
def test_the_table_covers_the_enum_and_nothing_else() -> None:
    assert set(TRANSITIONS) == {value for value in leyline.SeedStage.values() if value != 0}
    for before, after in product(ALL_STAGES, ALL_STAGES):
        forward = before < FOSSILIZED and after == before + 1
        culling = before in ATTACHED and after == CULLED
        way_back = (before, after) in {(CULLED, EMBARGOED), (EMBARGOED, RESETTING), (RESETTING, DORMANT)}
        closing = after == TERMINATED and before in (FOSSILIZED, DORMANT)
        assert is_legal(before, after) == (forward or culling or way_back or closing)


@pytest.mark.req("KAS-6")
@pytest.mark.parametrize("broken", ["missing", "unknown", "unreachable"])
def test_a_table_that_differs_from_the_enum_is_refused_at_import(broken: str) -> None:
    table = {stage: set(after) for stage, after in TRANSITIONS.items()}
    if broken == "missing":
        del table[EMBARGOED]
    elif broken == "unknown":
        table[DORMANT] = {99}
    else:
        table[CULLED] = set()
    with pytest.raises(InternalError, match="lifecycle"):
        check_table(table, ALL_STAGES)


def test_an_illegal_move_names_what_would_be_possible() -> None:
    with pytest.raises(StateConflictError, match="from DORMANT to FOSSILIZED; possible is GERMINATED, TERMINATED"):
        require_legal(DORMANT, FOSSILIZED)


class AnyInput(RuleBasedStateMachine):
    """Throws everything a runtime and a controller can say at one run, in any order."""

    @initialize(live=st.integers(1, 2), patience=st.sampled_from([1.0, 5.0]))
    def start(self, live: int, patience: float) -> None:
        rules = Rules(live_seeds=live, embargo_s=3.0, embargo_epochs=1)
        self.run = ScriptedRuntime(rules=rules)
        self.run.connect()
        self.count = 0

    @rule()
    def germinates(self) -> None:
        self.count += 1
        before = self.run.executor.ledger.live_seeds()
        outcome = self.run.command(germinate(self.count, self.run.generation)).outcome
        assert not (outcome.accepted and before), "a site holds at most one seed that is under way"

    @rule(operation=st.sampled_from(OPERATIONS), which=st.integers(1, 3), stale=st.booleans())
    def commands(self, operation: int, which: int, stale: bool) -> None:
        self.count += 1
        generation = self.run.generation + stale
        self.run.command(seed_command(operation, f"{RUN}/hidden/{which}", generation, self.count))

    @rule(steps=st.sampled_from([5, 25, 100]), final=st.booleans())
    def trains(self, steps: int, final: bool) -> None:
        self.run.train(steps, final=final)

    @rule(
        field=st.sampled_from(["finite", "gradient_norm", "loss", "output_norm", "isolation_violations", "alpha"]),
        value=st.sampled_from([0.0, 1e9, 3.0]),
    )
    def goes_wrong(self, field: str, value: float) -> None:
        typed = {"finite": value == 0.0, "isolation_violations": int(value)}
        self.run.measured = {field: typed.get(field, value)}

    @rule(contribution=st.floats(-0.1, 0.1), improvement=st.one_of(st.none(), st.floats(-0.5, 0.5)))
    def is_worth(self, contribution: float, improvement: float | None) -> None:
        self.run.contribution, self.run.improvement = contribution, improvement

    @rule(
        kind=st.sampled_from([v for v in leyline.DirectiveKind.values() if v]),
        code=st.sampled_from(["", "ESP-1016", "ESP-1006", "ESP-1000"]),
    )
    def refuses(self, kind: int, code: str) -> None:
        self.run.refuse = {kind: code} if code else {}

    @rule()
    def is_well_again(self) -> None:
        self.run.measured, self.run.refuse = {}, {}

    @rule(lose=st.booleans(), stage=st.integers(2, 7))
    def reconnects(self, lose: bool, stage: int) -> None:
        if lose:
            self.run.held.clear()
            self.run.generation += 1
        for grown in self.run.held.values():
            grown.stage = stage
        self.run.connect()

    @rule(number=st.integers(1, 4))
    def holds_a_stranger(self, number: int) -> None:
        seed_id = f"{RUN}/hidden/{number}"
        self.run.held.setdefault(seed_id, Grown(seed_id, "hidden", 3, self.run.step_now))
        self.run.connect()

    @rule()
    def restarts(self) -> None:
        before = self.run.executor.ledger
        facts = decode_facts(encode_facts(self.run.facts))
        self.run.executor = self.run.fresh()
        self.run.executor.replay(facts)
        after = self.run.executor.ledger
        assert after.seeds.keys() == before.seeds.keys()
        assert [seed.stage for seed in after.seeds.values()] == [seed.stage for seed in before.seeds.values()]
        self.run.connect()

    @rule(resumable=st.booleans())
    def ends(self, resumable: bool) -> None:
        self.run.take(self.run.executor.ended("completed", resumable))
        if not resumable:
            self.run.held = {name: grown for name, grown in self.run.held.items() if grown.stage == FOSSILIZED}
        self.run.connect()

    @invariant()
    def every_move_was_legal(self) -> None:
        if not hasattr(self, "run"):
            return
        where: dict[str, int] = {}
        for fact in self.run.facts:
            if isinstance(fact, f.SeedAdopted):
                where[fact.seed_id] = fact.stage
            elif isinstance(fact, f.StageMoved):
                assert fact.from_stage == where.get(fact.seed_id, DORMANT)
                assert is_legal(fact.from_stage, fact.to_stage)
                where[fact.seed_id] = fact.to_stage

    @invariant()
    def nothing_is_kept_without_merit(self) -> None:
        if not hasattr(self, "run"):
            return
        merit = leyline.SEED_GATE_G4_SYSTEM_IMPACT
        passed: set[str] = set()
        for fact in self.run.facts:
            if isinstance(fact, f.GateJudged) and fact.verdict.gate == merit and fact.verdict.passed:
                passed.add(fact.seed_id)
            elif isinstance(fact, f.StageMoved) and fact.to_stage == FOSSILIZED:
                assert fact.seed_id in passed and fact.command_id


AnyInput.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestAnyInput = pytest.mark.req("KAS-6")(AnyInput.TestCase)


def test_a_whole_life_goes_through_every_stage_in_order() -> None:
    run = ScriptedRuntime()
    run.connect()
    run.command(germinate())
    run.train(200)
    seed_id = f"{RUN}/hidden/1"
    run.command(seed_command(leyline.SEED_OPERATION_FOSSILIZE, seed_id, run.generation))
    run.train(10)
    stages = [fact.to_stage for fact in run.of(f.StageMoved)]
    assert stages == [2, 3, 4, 5, 6, 7]
    assert all(before.step < after.step for before, after in pairwise(run.of(f.StageMoved)[1:]))
