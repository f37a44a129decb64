"""The breaker: three failures open it, one probe decides, every transition is told."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from esper_core import leyline
from esper_core.breaker import CircuitBreaker, Permit, Transition
from esper_core.clocks import ManualClock
from esper_core.errors import CircuitOpenError, NotFoundError

pytestmark = pytest.mark.req("COR-6")

CLOSED, OPEN, HALF_OPEN = leyline.CIRCUIT_STATE_CLOSED, leyline.CIRCUIT_STATE_OPEN, leyline.CIRCUIT_STATE_HALF_OPEN


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def told() -> list[Transition]:
    return []


@pytest.fixture
def breaker(clock: ManualClock, told: list[Transition]) -> CircuitBreaker:
    return CircuitBreaker("urza", failure_threshold=3, open_s=30, on_transition=told.append, clock=clock)


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(ConnectionError), breaker.guard():
            raise ConnectionError("refused")


def moves(told: list[Transition]) -> list[tuple[int, int]]:
    return [(transition.from_state, transition.to_state) for transition in told]


def test_failures_in_a_row_open_it(breaker: CircuitBreaker, told: list[Transition]) -> None:
    fail(breaker, 2)
    with breaker.guard():
        pass
    fail(breaker, 2)
    assert breaker.state == CLOSED
    fail(breaker)
    assert breaker.state == OPEN and moves(told) == [(CLOSED, OPEN)]
    assert told[0].reason == "ConnectionError: refused"
    with pytest.raises(CircuitOpenError) as caught:
        breaker.acquire()
    assert caught.value.retry_after_s == 30


def test_a_single_probe_passes_and_its_success_closes(
    breaker: CircuitBreaker, clock: ManualClock, told: list[Transition]
) -> None:
    fail(breaker, 3)
    clock.advance(30)
    probe = breaker.acquire()
    assert breaker.state == HALF_OPEN
    assert breaker.try_acquire() is None
    probe.success()
    assert moves(told) == [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, CLOSED)]


def test_one_failed_probe_opens_it_again(breaker: CircuitBreaker, clock: ManualClock, told: list[Transition]) -> None:
    fail(breaker, 3)
    clock.advance(30)
    fail(breaker)
    assert breaker.state == OPEN
    assert breaker.try_acquire() is None
    assert moves(told)[-2:] == [(OPEN, HALF_OPEN), (HALF_OPEN, OPEN)]


async def test_a_cancelled_probe_gives_its_place_back(breaker: CircuitBreaker, clock: ManualClock) -> None:
    fail(breaker, 3)
    clock.advance(30)

    async def call() -> None:
        with breaker.guard():
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    assert breaker.try_acquire() is None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert breaker.state == HALF_OPEN and breaker.try_acquire() is not None


def test_calls_from_before_a_transition_have_no_say(breaker: CircuitBreaker, clock: ManualClock) -> None:
    old = breaker.acquire()
    fail(breaker, 3)
    old.success()
    assert breaker.state == OPEN
    clock.advance(30)
    probe = breaker.acquire()
    old.failure()
    assert breaker.state == HALF_OPEN
    probe.success()
    assert breaker.state == CLOSED


def test_an_answer_that_is_an_error_is_still_an_answer(breaker: CircuitBreaker) -> None:
    for _ in range(5):
        with pytest.raises(NotFoundError), breaker.guard(counts=lambda error: not isinstance(error, NotFoundError)):
            raise NotFoundError("no such kernel")
    assert breaker.state == CLOSED


def test_orders(breaker: CircuitBreaker, told: list[Transition]) -> None:
    breaker.trip("operator")
    assert breaker.try_acquire() is None
    breaker.reset()
    assert breaker.try_acquire() is not None
    assert [transition.reason for transition in told] == ["operator", "reset by order"]
    assert breaker.snapshot().opened_total == 1


def test_it_may_ask_for_more_than_one_good_probe(clock: ManualClock) -> None:
    breaker = CircuitBreaker("x", failure_threshold=1, open_s=10, success_threshold=2, clock=clock)
    for good in (False, True):
        breaker.trip("drill")
        clock.advance(10)
        with breaker.guard():
            assert breaker.try_acquire() is None
        assert breaker.state == HALF_OPEN
        if good:
            with breaker.guard():
                pass
        else:
            fail(breaker)
        assert breaker.state == (CLOSED if good else OPEN)


class BreakerMachine(RuleBasedStateMachine):
    """Whatever happens: never two probes, and what is told is a connected path from CLOSED to the present state."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.told: list[Transition] = []
        self.breaker = CircuitBreaker(
            "x", failure_threshold=2, open_s=10, on_transition=self.told.append, clock=self.clock
        )
        self.permits: list[tuple[Permit, int]] = []

    @rule()
    def acquire(self) -> None:
        permit = self.breaker.try_acquire()
        if permit is not None:
            assert self.breaker.state != OPEN
            self.permits.append((permit, len(self.told)))

    @precondition(lambda self: self.permits)
    @rule(data=st.data(), how=st.sampled_from(["success", "failure", "abandon"]))
    def settle(self, data: st.DataObject, how: str) -> None:
        permit, _ = self.permits.pop(data.draw(st.integers(0, len(self.permits) - 1)))
        getattr(permit, how)()

    @rule(seconds=st.floats(0, 15))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def path_is_connected(self) -> None:
        states: list[int] = [CLOSED]
        for transition in self.told:
            assert transition.from_state == states[-1]
            states.append(transition.to_state)
        assert states[-1] == self.breaker.state

    @invariant()
    def at_most_one_probe(self) -> None:
        if self.breaker.state == HALF_OPEN:
            assert sum(1 for _, term in self.permits if term == len(self.told)) <= 1


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = hypothesis_settings(max_examples=60, stateful_step_count=30, deadline=None)
