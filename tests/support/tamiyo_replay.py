"""Recorded scenarios of the controller: packets in, what was decided out. Played on a clock of their own.

A scenario is a JSON file: `run` (the id), optional `rules` (bounds of the policies where they differ from those of
today), `frames` with `after_s` (time since the frame before), optional `urza`
("heard" or "silent", what the library did since), `packet` (SystemStatePacket as proto JSON, without bulk) and
`decided` (outcome, reason or operation, target, risk reason, findings, ramp).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from esper_core import leyline
from support.tamiyo_parts import Bench

SCENARIOS = Path(__file__).resolve().parents[1] / "replay" / "tamiyo" / "scenarios"


@dataclass(frozen=True, slots=True)
class Frame:
    """One packet and what was decided on it."""

    after_s: float
    urza: str
    packet: leyline.SystemStatePacket
    decided: dict[str, Any]


def load(path: Path) -> list[Frame]:
    """Read a scenario."""
    document = json.loads(path.read_text())
    return [
        Frame(
            after_s=row.get("after_s", 0.0),
            urza=row.get("urza", "heard"),
            packet=json_format.ParseDict(row["packet"], leyline.SystemStatePacket()),
            decided=row["decided"],
        )
        for row in document["frames"]
    ]


def bench_of(path: Path) -> Bench:
    """Return a bench with the rules under which a scenario was recorded."""
    changes = json.loads(path.read_text()).get("rules", {})
    bench = Bench()
    return Bench(rules=replace(bench.rules, growth=replace(bench.rules.growth, **changes)))


def play(frames: list[Frame], bench: Bench) -> Iterator[dict[str, Any]]:
    """Decide every frame and yield what was decided, in the form of the file."""
    named: dict[str, str] = {}
    for frame in frames:
        bench.clock.advance(frame.after_s)
        if frame.urza == "heard":
            bench.catalogue.contact()
        packet = leyline.SystemStatePacket()
        packet.CopyFrom(frame.packet)
        for seed in packet.seeds:
            # A seed names its command by the frame's name for it, because ids are minted anew in each playing.
            seed.germinate_command_id = named.get(seed.germinate_command_id, seed.germinate_command_id)
        outcome = bench.controller.decide(packet)
        if outcome.command is not None:
            named[f"command@{packet.global_step}"] = outcome.command.command_id
        yield told(outcome.decision)


def told(decision: leyline.Decision) -> dict[str, Any]:
    """Return what counts about a decision."""
    kind = decision.WhichOneof("outcome")
    if kind == "failure":
        return {"outcome": "failure", "code": decision.failure.code}
    if kind == "no_action":
        metadata = decision.no_action.metadata
        return {"outcome": "no_action", "reason": decision.no_action.reason, **_risk(metadata)}
    command = decision.command
    payload = command.seed_operation
    answer: dict[str, Any] = {
        "outcome": "command",
        "operation": leyline.SeedOperation.Name(payload.operation).removeprefix("SEED_OPERATION_"),
        "target": command.target_site or command.target_seed_id.partition("/")[2],
        **_risk(command.metadata),
    }
    if payload.blueprint_id:
        answer |= {"blueprint": payload.blueprint_id, "ramp_steps": payload.blend.end_steps}
    return answer


def _risk(metadata: leyline.DecisionMetadata) -> dict[str, Any]:
    def name(reason: leyline.RiskReason.ValueType) -> str:
        return leyline.RiskReason.Name(reason).removeprefix("RISK_REASON_")

    findings = [f"{one.evaluator}: {name(one.reason)}" for one in metadata.risk.findings]
    return {
        "risk": name(metadata.risk.reason),
        "findings": findings,
        "conservative": metadata.risk.conservative_mode,
    }
