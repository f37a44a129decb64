"""What a runtime says about its run, and how it is received."""

from __future__ import annotations

from collections.abc import Iterable

from esper_core import leyline
from esper_core.blueprints.messages import contract_from_message
from esper_core.ids import parse_run_id, parse_seed_id, parse_site
from esper_core.pb.esper.kasmina.v1 import kasmina_pb2
from kasmina.convert.commands import outcome_to_message
from kasmina.convert.directives import directive_to_message
from kasmina.convert.seeds import gate_to_message, transition_to_message
from kasmina.facts import CommandDecided, DirectiveIssued, Fact, GateJudged, StageMoved, TeacherReset
from kasmina.reconcile import Held, Note
from kasmina.run import Boundary, Greeting
from kasmina.sites import Site


def greeting_from_message(message: kasmina_pb2.Hello) -> Greeting:
    """Convert a hello.

    Raises
    ------
    ValidationError
        If an id is malformed or a contract is impossible.
    """
    return Greeting(
        run_id=parse_run_id(message.training_run_id),
        generation=message.generation,
        inventory=tuple(_held(state) for state in message.inventory),
        sites=tuple(_site(site) for site in message.sites),
        blueprint_ids=tuple(message.blueprint_ids),
        total_steps=message.total_steps,
        step=message.global_step,
        steps_per_epoch=message.steps_per_epoch,
        isolation=message.isolation,
        host_layers=tuple(message.host_layers),
        allow_restricted=message.allow_restricted,
        teacher_id=message.teacher_id,
    )


def _site(message: leyline.Site) -> Site:
    contract = contract_from_message(message.contract)
    name, admitted = parse_site(message.name, "sites.name"), tuple(message.blueprint_ids)
    return Site(name, message.module_path, contract, message.depth, admitted)


def _held(message: leyline.SeedState) -> Held:
    return Held(
        seed_id=str(parse_seed_id(message.seed_id, "inventory.seed_id")),
        site=message.site,
        stage=message.stage,
        blueprint_id=message.blueprint_id,
        kernel_digest=message.kernel_digest,
        alpha=message.alpha,
        parameter_count=message.parameter_count,
    )


def boundary_from_message(message: kasmina_pb2.Boundary) -> Boundary:
    """Convert a boundary."""
    return Boundary(message.global_step, message.epoch, message.generation, message.epoch_end, message.final)


def welcome_to_message(run_id: str, known_run: bool, notes: Iterable[Note]) -> kasmina_pb2.Welcome:
    """Convert the answer to a hello."""
    return kasmina_pb2.Welcome(training_run_id=run_id, known_run=known_run, notes=[_note(note) for note in notes])


def _note(note: Note) -> kasmina_pb2.ReconcileNote:
    return kasmina_pb2.ReconcileNote(
        seed_id=note.seed_id,
        difference=note.difference,
        resolution=note.resolution,
        journal_stage=leyline.SeedStage.ValueType(note.journal_stage),
        runtime_stage=leyline.SeedStage.ValueType(note.runtime_stage),
    )


def responses_of(facts: Iterable[Fact]) -> list[kasmina_pb2.ExecuteResponse]:
    """Convert what the runtime is to hear of a turn, outcomes first; the other facts are Kasmina's own."""
    answers = [response for fact in facts if (response := _response(fact)) is not None]
    return sorted(answers, key=lambda answer: answer.WhichOneof("response") != "outcome")


def _response(fact: Fact) -> kasmina_pb2.ExecuteResponse | None:
    if isinstance(fact, DirectiveIssued):
        return kasmina_pb2.ExecuteResponse(directive=directive_to_message(fact.directive))
    if isinstance(fact, CommandDecided):
        return kasmina_pb2.ExecuteResponse(outcome=outcome_to_message(fact.outcome))
    if isinstance(fact, GateJudged):
        return kasmina_pb2.ExecuteResponse(gate=gate_to_message(fact))
    if isinstance(fact, TeacherReset):
        reset = kasmina_pb2.TeacherReset(teacher_id=fact.teacher_id, reason=fact.reason)
        return kasmina_pb2.ExecuteResponse(teacher_reset=reset)
    if isinstance(fact, StageMoved):
        return kasmina_pb2.ExecuteResponse(transition=transition_to_message(fact))
    return None
