"""Who decides: Tamiyo's policies through its controller, or a die that shares everything but the choice."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import count
from typing import Final, Protocol

from benchmarks.growth.clock import StepClock
from esper_core import leyline
from esper_core.blueprints import load_catalogue
from esper_core.blueprints.messages import descriptor
from esper_core.breaker import CircuitBreaker
from esper_core.errors import from_code
from kasmina.commands import Command, SeedOperation
from kasmina.convert.commands import blend_from_message, command_from_message
from tamiyo.actions import Action, Candidate
from tamiyo.catalogue import Catalogue
from tamiyo.controller import Controller
from tamiyo.convert.blueprints import card_of
from tamiyo.convert.packets import observation_of
from tamiyo.evaluation import Rulebook, ramp_steps
from tamiyo.memory import RunMemory
from tamiyo.observation import Observation
from tamiyo.policies.candidates import candidates
from tamiyo.policies.growing import differing_parameters, hindrance
from tamiyo.policies.settling import settle
from tamiyo.runs import RunTable

_OPERATIONS: Final = {
    "GERMINATE": leyline.SEED_OPERATION_GERMINATE,
    "FOSSILIZE": leyline.SEED_OPERATION_FOSSILIZE,
    "CULL": leyline.SEED_OPERATION_CULL,
}


class Director(Protocol):
    """Decides on what a packet says."""

    def decide(self, packet: leyline.SystemStatePacket) -> Command | None:
        """Return a command, or None to wait."""
        ...


def library(clock: StepClock) -> Catalogue:
    """Return Tamiyo's catalogue of everything that ships with Esper."""
    catalogue = Catalogue(clock)
    for blueprint in load_catalogue():
        catalogue.put(card_of(descriptor(blueprint)))
    return catalogue


class TamiyoDirector:
    """Tamiyo's controller with the policy that the run names; commands are not signed, because they stay here.

    Parameters
    ----------
    clock : StepClock
        Time.
    rules : Rulebook
        Bounds of policies and risk engine.
    """

    def __init__(self, clock: StepClock, rules: Rulebook) -> None:
        self._catalogue = library(clock)
        breaker = CircuitBreaker("tamiyo.evaluation", open_s=5.0, clock=clock)
        self._controller = Controller(RunTable(), self._catalogue, rules, lambda command: command, breaker, clock=clock)

    def decide(self, packet: leyline.SystemStatePacket) -> Command | None:
        """Judge a packet.

        Raises
        ------
        EsperError
            If the evaluation failed: in a measurement that is a defect.
        """
        self._catalogue.contact()
        outcome = self._controller.decide(packet)
        failure = outcome.decision.failure
        if outcome.decision.WhichOneof("outcome") == "failure":
            raise from_code(failure.code, failure.message, {})
        return None if outcome.command is None else command_from_message(outcome.command)


@dataclass(frozen=True, slots=True)
class Plant:
    """One germination that was decided beforehand."""

    at: float
    site: str = ""
    blueprint_id: str = ""


class PlantingDirector:
    """Germinates at given fractions of the budget; where a plant names no pair, a die chooses among the candidates.

    What becomes of a seed is decided as by Tamiyo's own policies, gates included.

    Parameters
    ----------
    clock : StepClock
        Time.
    rules : Rulebook
        Tamiyo's bounds.
    plants : sequence of Plant
        When, and with what.
    seed : int
        Of the die.
    """

    def __init__(self, clock: StepClock, rules: Rulebook, plants: tuple[Plant, ...], seed: int) -> None:
        self._catalogue = library(clock)
        self._clock = clock
        self._rules = rules
        self._plants = plants
        self._die = random.Random(seed)
        self._memory: RunMemory | None = None
        self._planted = 0
        self._ids = count(1)

    def decide(self, packet: leyline.SystemStatePacket) -> Command | None:
        """Settle what is open, else plant what is due."""
        self._catalogue.contact()
        seen, now_s = observation_of(packet), self._clock.monotonic()
        memory = self._memory = self._memory or RunMemory(seen.run_id)
        memory.take(seen, now_s)
        action = settle(memory, seen, self._rules.growth, now_s) or self._plant(memory, seen, now_s)
        if action is None or action.waits:
            return None
        self._planted += action.grows
        command = self._command(action, memory, seen)
        memory.note(action, command.command_id, now_s, seen.step, memory.fraction)
        return command

    def _plant(self, memory: RunMemory, seen: Observation, now_s: float) -> Action | None:
        if seen.final or self._planted >= len(self._plants) or memory.fraction < self._plants[self._planted].at:
            return None
        if hindrance(memory, replace(self._rules.growth, window_end=1.0), now_s) is not None:
            return None
        found = candidates(memory, seen, self._catalogue.snapshot(), self._rules.growth, now_s)
        plant = self._plants[self._planted]
        fitting = [one for one in found if plant.site in ("", one.site)]
        fitting = [one for one in fitting if plant.blueprint_id in ("", one.blueprint_id)]
        return self._germinate(self._die.choice(fitting), memory) if fitting else None

    def _germinate(self, chosen: Candidate, memory: RunMemory) -> Action:
        action = Action(
            "GERMINATE",
            "",
            "Planted by the benchmark.",
            site=chosen.site,
            blueprint_id=chosen.blueprint_id,
            parameters=differing_parameters(chosen, self._catalogue.snapshot()),
            candidates=(chosen,),
        )
        return replace(action, blend=replace(action.blend, ramp_steps=ramp_steps(memory, action)))

    def _command(self, action: Action, memory: RunMemory, seen: Observation) -> Command:
        grows = action.grows
        blend = leyline.BlendConfig(
            mode=leyline.BlendMode.ValueType(action.blend.mode),
            target_alpha=action.blend.target_alpha,
            schedule=leyline.AlphaSchedule.ValueType(action.blend.schedule),
            end_steps=action.blend.ramp_steps,
        )
        payload = SeedOperation(
            _OPERATIONS[action.kind],
            action.blueprint_id if grows else "",
            dict(action.parameters),
            blend_from_message(blend) if grows else None,
        )
        return Command(
            command_id=f"benchmark-{next(self._ids)}",
            run_id=memory.run_id,
            kind=leyline.COMMAND_TYPE_SEED,
            generation=seen.generation,
            seed_id=action.seed_id,
            site=action.site if grows else "",
            deadline=None,
            payload=payload,
            decided_at_step=seen.step,
        )
