"""Kasmina in this process: its state machine, validator, gates and message conversions, without stream and journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count

from benchmarks.growth.clock import StepClock
from benchmarks.growth.kernels import Kernels
from esper_core import leyline
from esper_core.blueprints import load_catalogue
from esper_core.blueprints.messages import descriptor
from esper_core.errors import StateConflictError
from esper_core.pb.esper.kasmina.v1 import kasmina_pb2
from kasmina.catalogue import Catalogue
from kasmina.commands import Command, SeedOperation
from kasmina.convert.catalogue import item_from_message
from kasmina.convert.directives import result_from_message
from kasmina.convert.evidence import evidence_from_message
from kasmina.convert.runs import boundary_from_message, greeting_from_message, responses_of
from kasmina.directives import DirectiveResult
from kasmina.facts import DirectiveIssued, Fact
from kasmina.operations import Supply
from kasmina.rules import Rules
from kasmina.run import RunExecutor
from kasmina.validator import CommandValidator
from tolaria.growth.prepared import PreparedKernel

Tell = Callable[[kasmina_pb2.ExecuteResponse], None]


class Executor:
    """Hears what the runtime says and tells what follows, at once.

    Parameters
    ----------
    run_id : str
        The run.
    rules : Rules
        Kasmina's bounds.
    clock : StepClock
        Time.
    kernels : Kernels
        Where kernels come from; here they are always ready.
    tell : callable
        Takes directives, outcomes, gates and transitions.
    prepared : callable
        Takes a kernel that was built for a seed.
    """

    def __init__(
        self,
        run_id: str,
        rules: Rules,
        clock: StepClock,
        kernels: Kernels,
        tell: Tell,
        prepared: Callable[[PreparedKernel], None],
    ) -> None:
        self._catalogue = Catalogue()
        self._catalogue.replace_all(item_from_message(descriptor(blueprint)) for blueprint in load_catalogue())
        self._validator = CommandValidator(self._catalogue, rules)
        ids = count(1)
        self._run = RunExecutor(run_id, rules, self._validator, clock, lambda: f"directive-{next(ids)}")
        self._clock = clock
        self._kernels = kernels
        self._tell = tell
        self._prepared = prepared

    def hello(self, message: kasmina_pb2.Hello) -> None:
        """Receive the runtime."""
        self._answer(self._run.hello(greeting_from_message(message)).facts)

    def hear(self, request: kasmina_pb2.ExecuteRequest) -> None:
        """Take evidence, a result, a boundary or the end of the run.

        Raises
        ------
        StateConflictError
            If the runtime has to be greeted anew.
        """
        kind = request.WhichOneof("request")
        if kind == "evidence":
            self._answer(self._run.evidence(evidence_from_message(request.evidence)))
        elif kind == "result":
            self._answer(self._run.result(result_from_message(request.result)))
        elif kind == "boundary":
            self._answer(self._run.boundary(boundary_from_message(request.boundary)))
        else:
            raise StateConflictError(f"A request of kind {kind} has no place in a measurement.")

    def command(self, command: Command) -> None:
        """Validate a command and carry it out, with its kernel where it needs one."""
        self._answer(self._run.command(command, self._supply(command)))

    def _supply(self, command: Command) -> Supply:
        ledger, payload = self._run.ledger, command.payload
        valid = self._validator.validate(command, ledger, self._clock.wall()).ok
        key = self._validator.kernel_key(command, ledger) if valid else None
        if key is None or not isinstance(payload, SeedOperation):
            return Supply()
        return Supply(self._catalogue.get(payload.blueprint_id), key, self._kernels.obtain(key))

    def _answer(self, facts: Iterable[Fact]) -> None:
        facts = tuple(facts)
        for response in responses_of(facts):
            if response.WhichOneof("response") != "directive":
                self._tell(response)
            elif response.directive.kind == leyline.DIRECTIVE_KIND_PREPARE:
                self._prepared(self._kernels.prepare(response.directive.seed_id, response.directive.prepare))
            else:
                self._tell(response)
        for fact in facts:
            if isinstance(fact, DirectiveIssued) and fact.directive.kind == leyline.DIRECTIVE_KIND_PREPARE:
                self._answer(self._run.result(self._built(fact)))

    def _built(self, fact: DirectiveIssued) -> DirectiveResult:
        directive, ledger = fact.directive, self._run.ledger
        return DirectiveResult(
            directive_id=directive.directive_id,
            run_id=directive.run_id,
            seed_id=directive.seed_id,
            kind=directive.kind,
            applied=True,
            error_code="",
            message="",
            generation=ledger.generation,
            step=ledger.step,
            apply_ms=0.0,
            parameter_count=0,
            removed_cleanly=False,
        )
