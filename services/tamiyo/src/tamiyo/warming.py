"""Evaluates a made-up packet at start, so that the first real one does not pay for imports and caches."""

from __future__ import annotations

from dataclasses import replace

from esper_core import leyline
from esper_core.blueprints import load_catalogue
from esper_core.blueprints.messages import descriptor
from esper_core.breaker import CircuitBreaker
from esper_core.clocks import SYSTEM_CLOCK
from esper_core.ids import new_id, new_run_id
from tamiyo.catalogue import Catalogue
from tamiyo.controller import Controller, Sign
from tamiyo.convert.blueprints import card_of
from tamiyo.evaluation import Rulebook
from tamiyo.runs import RunTable

ROUNDS = 20


def warm(rules: Rulebook, sign: Sign) -> None:
    """Evaluate a packet that leads to a command, a few times, with everything apart from what really serves."""
    patient = replace(rules, risk=replace(rules.risk, step_budget_ms=1e6))
    catalogue = Catalogue(SYSTEM_CLOCK)
    for blueprint in load_catalogue():
        catalogue.put(card_of(descriptor(blueprint)))
    for _ in range(ROUNDS):
        controller = Controller(RunTable(), catalogue, patient, sign, CircuitBreaker("warm-up"))
        controller.decide(_packet())


def _packet() -> leyline.SystemStatePacket:
    contract = leyline.SiteContract(kind=leyline.SITE_KIND_FEATURES, channels=16)
    return leyline.SystemStatePacket(
        version=leyline.LEYLINE_VERSION,
        packet_id=new_id("packet"),
        training_run_id=new_run_id(),
        global_step=100,
        run_state=leyline.RUN_STATE_RUNNING,
        parameters=10_000,
        context=leyline.RunContext(
            task="warm-up",
            policy="schedule",
            total_steps=1000,
            seeds_budget=1,
            sites=[leyline.Site(name="warm", contract=contract)],
            host_parameters=10_000,
        ),
        metrics_struct=leyline.TrainingMetrics(loss=1.0, loss_ewma=1.0),
    )
