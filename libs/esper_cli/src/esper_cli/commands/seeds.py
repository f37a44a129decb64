"""Commands about seeds: which there are, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from esper_cli.options import DEFAULT_STATE_DIR, Json, StateDir
from esper_cli.output import OUT, as_dict, print_json, print_table
from esper_cli.run_views import seed_summary, stage_word
from esper_cli.stack_client import StackClient
from esper_core import leyline
from esper_core.errors import EsperError, NotFoundError
from esper_core.pb.esper.kasmina.v1 import kasmina_pb2, kasmina_pb2_grpc
from esper_core.pb.esper.nissa.v1 import nissa_pb2, nissa_pb2_grpc
from esper_core.pb.esper.tamiyo.v1 import tamiyo_pb2, tamiyo_pb2_grpc


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (seeds, explain):
        app.command()(command)


def seeds(
    run_id: Annotated[str, typer.Option("--run", help="Only seeds of this run.")] = "",
    settled: Annotated[bool, typer.Option("--settled/--live", help="Also seeds that are settled.")] = True,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: Json = False,
) -> None:
    """List seeds with their stage, blend and contribution."""
    with StackClient.of(state_dir).channel("kasmina") as channel:
        stub: Any = kasmina_pb2_grpc.ExecutorStub(channel)
        answer = stub.ListSeeds(kasmina_pb2.ListSeedsRequest(training_run_id=run_id, include_settled=settled))
    if as_json:
        print_json({"seeds": [seed_summary(record.state) for record in answer.seeds]})
        return
    print_table("", ("seed", "blueprint", "stage", "alpha", "contribution", "parameters"), map(_row, answer.seeds))


def explain(
    seed_id: Annotated[str, typer.Argument(help="Id of the seed, as `esper seeds` shows it.")],
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: Json = False,
) -> None:
    """Tell why a seed exists: the decision, its way through the gates, what it is worth, what came of it."""
    explanation = gather(StackClient.of(state_dir), seed_id)
    if as_json:
        print_json(explanation.as_json())
        return
    _print_decisions(explanation)
    _print_way(explanation)
    _print_worth(explanation)
    if explanation.missing:
        OUT.print("\nNot told, since a service did not answer: " + "; ".join(explanation.missing))


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything the services know about a seed; what one of them did not tell is named in `missing`."""

    seed_id: str
    decisions: list[tamiyo_pb2.ExplainedDecision]
    record: kasmina_pb2.SeedRecord | None
    history: list[nissa_pb2.HistoryEvent]
    missing: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "seed_id": self.seed_id,
            "decisions": [as_dict(decision) for decision in self.decisions],
            "seed": as_dict(self.record) if self.record is not None else None,
            "history": [as_dict(event) for event in self.history],
            "missing": self.missing,
        }


def gather(stack: StackClient, seed_id: str) -> Explanation:
    """Ask Tamiyo, Kasmina and Nissa about a seed.

    Raises
    ------
    NotFoundError
        If none of them knows it.
    """
    missing: list[str] = []
    record = _asked(missing, "gates and stages (kasmina)", lambda: _record(stack, seed_id))
    decisions = _asked(missing, "decisions (tamiyo)", lambda: _decisions(stack, seed_id)) or []
    history = _asked(missing, "history (nissa)", lambda: _history(stack, seed_id)) or []
    if record is None and not decisions and not history:
        raise NotFoundError(
            f"Nobody knows a seed {seed_id!r}. `esper seeds` lists all; asked in vain: {'; '.join(missing) or 'all'}."
        )
    return Explanation(seed_id, decisions, record, history, missing)


def _asked(missing: list[str], what: str, ask: Any) -> Any:
    try:
        return ask()
    except EsperError as error:
        missing.append(f"{what}: {error.message}")
        return None


def _record(stack: StackClient, seed_id: str) -> kasmina_pb2.SeedRecord:
    with stack.channel("kasmina") as channel:
        stub: Any = kasmina_pb2_grpc.ExecutorStub(channel)
        record: kasmina_pb2.SeedRecord = stub.GetSeed(kasmina_pb2.GetSeedRequest(seed_id=seed_id))
        return record


def _decisions(stack: StackClient, seed_id: str) -> list[tamiyo_pb2.ExplainedDecision]:
    with stack.channel("tamiyo") as channel:
        stub: Any = tamiyo_pb2_grpc.ControllerStub(channel)
        return list(stub.Explain(tamiyo_pb2.ExplainRequest(seed_id=seed_id)).decisions)


def _history(stack: StackClient, seed_id: str) -> list[nissa_pb2.HistoryEvent]:
    with stack.channel("nissa") as channel:
        stub: Any = nissa_pb2_grpc.ObservatoryStub(channel)
        return list(stub.QueryEvents(nissa_pb2.QueryEventsRequest(seed_id=seed_id, limit=500)).events)


def _print_decisions(explanation: Explanation) -> None:
    OUT.print(f"[bold]{explanation.seed_id}[/]")
    OUT.print("\n[bold]Why[/]")
    for decision in explanation.decisions:
        OUT.print(f"  {decision.summary}", markup=False)
    if not explanation.decisions:
        OUT.print("  Tamiyo has no decision about it.")


def _print_way(explanation: Explanation) -> None:
    if explanation.record is None:
        return
    OUT.print("\n[bold]Its way[/]")
    for moved in explanation.record.transitions:
        OUT.print(
            f"  step {moved.global_step:>6}  {stage_word(moved.from_stage)} to {stage_word(moved.to_stage)}: "
            f"{moved.reason}"
        )
    OUT.print("\n[bold]Its gates[/]")
    for gate in explanation.record.gates:
        OUT.print(f"  step {gate.global_step:>6}  {_gate_line(gate)}", markup=False)


def _gate_line(gate: leyline.GateResult) -> str:
    name = leyline.SeedGate.Name(gate.gate).removeprefix("SEED_GATE_")
    numbers = ", ".join(f"{row.name} {row.observed:.4g} (limit {row.limit:.4g})" for row in gate.thresholds)
    verdict = "passed" if gate.passed else f"failed ({gate.reason})"
    return f"{name} {verdict}: {gate.explanation} {numbers}".rstrip()


def _print_worth(explanation: Explanation) -> None:
    OUT.print("\n[bold]Its worth[/]")
    state = explanation.record.state if explanation.record is not None else leyline.SeedState()
    if state.HasField("contribution"):
        interval = f" (95 % between {state.contribution_low:+.4f} and {state.contribution_high:+.4f})"
        OUT.print(f"  held-out loss is {state.contribution:+.4f} lower with it than without it{interval}")
    else:
        OUT.print("  No counterfactual was measured.")
    for report in (decision.report for decision in explanation.decisions if decision.HasField("report")):
        outcome = leyline.FieldReportOutcome.Name(report.outcome).removeprefix("FIELD_REPORT_OUTCOME_")
        OUT.print(f"  field report {report.report_id}: {outcome}. {report.notes}", markup=False)


def _row(record: kasmina_pb2.SeedRecord) -> tuple[object, ...]:
    state = record.state
    contribution = f"{state.contribution:+.4f}" if state.HasField("contribution") else ""
    stage = stage_word(state.stage)
    return state.seed_id, state.blueprint_id, stage, f"{state.alpha:.2f}", contribution, state.parameter_count
