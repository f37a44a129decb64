"""Recorded runs, decided again: the same packets lead to the same decisions, reasons and findings."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper_core import leyline
from support.tamiyo_parts import Bench
from support.tamiyo_replay import SCENARIOS, bench_of, load, play
from tamiyo.risk import EVALUATORS

FILES = sorted(SCENARIOS.glob("*.json"))


@pytest.mark.req("TAM-21")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recorded_scenario_is_decided_as_it_was(path: Path) -> None:
    frames = load(path)
    for number, (frame, now) in enumerate(zip(frames, play(frames, bench_of(path)), strict=True)):
        assert now == frame.decided, f"frame {number} of {path.name}, step {frame.packet.global_step}"


@pytest.mark.req("TAM-21")
def test_the_scenarios_meet_every_evaluator_that_a_rule_policy_can_meet() -> None:
    met = {finding.partition(":")[0] for path in FILES for frame in load(path) for finding in frame.decided["findings"]}
    out_of_reach = {"policy_risk", "blueprint_risk", "bsds", "optimizer_hints"}
    assert met == {evaluator.__name__ for evaluator in EVALUATORS} - out_of_reach


@pytest.mark.req("TAM-11")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_scenario_holds_a_pause_or_an_invented_command(path: Path) -> None:
    bench = Bench()
    for frame in load(path):
        outcome = bench.controller.decide(frame.packet)
        assert outcome.command is None or outcome.command.type == leyline.COMMAND_TYPE_SEED
