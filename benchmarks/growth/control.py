"""Training thread and control plane in turns: what the loop puts into its links is answered before it goes on.

Directives and orders wait in the inbox for the next fence, as they do in a worker. There is no other thread, no wall
clock and no chance in it: the same run gives the same result, bit for bit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from benchmarks.growth.clock import StepClock
from benchmarks.growth.directors import Director
from benchmarks.growth.executor import Executor
from benchmarks.growth.kernels import Kernels
from esper_core import leyline
from esper_core.errors import StateConflictError
from esper_core.pb.esper.kasmina.v1 import kasmina_pb2
from kasmina.rules import Rules
from tolaria.mediator.packets import hello, kasmina_request, state_packet
from tolaria.reporting.records import RunFacts, StepRecord
from tolaria.reporting.reporter import Reporter
from tolaria.training.links import BoundaryMark, Greeting, GreetingWanted, Links, ToKasmina

FINAL_BEAT_S: Final = 1.0
_TIMED: Final = ("samples_per_s", "step_latency_ms", "input_wait_ms", "kasmina_apply_ms", "hook_latency_ms")
_PROCESSOR: Final = leyline.HardwareContext(device_type="cpu")


class ControlPlane:
    """Stands where a worker's mediator, Kasmina and Tamiyo would.

    Parameters
    ----------
    facts : RunFacts
        The run.
    links : Links
        What the training loop puts things into and takes things from.
    reporter : Reporter
        Is asked for layers where a packet needs them.
    director : Director
        Decides.
    clock : StepClock
        Time.
    rules : Rules
        Kasmina's bounds.
    kernels : Kernels
        Where kernels come from.
    """

    def __init__(
        self,
        facts: RunFacts,
        links: Links,
        reporter: Reporter,
        director: Director,
        clock: StepClock,
        rules: Rules,
        kernels: Kernels,
    ) -> None:
        self._facts = facts
        self._links = links
        self._reporter = reporter
        self._director = director
        self._clock = clock
        self._executor = Executor(facts.run_id, rules, clock, kernels, self._tell, links.prepared.put)
        self._context_for = -1
        self.gates: list[leyline.GateResult] = []
        self.transitions: list[leyline.SeedTransition] = []
        self.outcomes: list[leyline.CommandOutcome] = []

    def connect(self) -> None:
        """Take part from now on; the greeting follows at the next fence."""
        self._links.to_kasmina.on_put(self._hear)
        self._links.records.on_put(self._look)
        self._links.inbox.post(GreetingWanted())

    def _hear(self) -> None:
        if self._links.greet_again.is_set():
            self._links.greet_again.clear()
            self._links.inbox.post(GreetingWanted())
        for item in self._links.to_kasmina.take():
            self._hear_one(item)

    def _hear_one(self, item: ToKasmina) -> None:
        if isinstance(item, Greeting):
            self._executor.hello(hello(item, self._facts).hello)
            return
        if isinstance(item, leyline.SeedEvidence):
            item.ClearField("latency_ms")
        try:
            self._executor.hear(kasmina_request(item))
        except StateConflictError:
            # A stream would end here and begin anew with the inventory.
            self._links.inbox.post(GreetingWanted())
        if isinstance(item, BoundaryMark):
            self._clock.reach(item.step)
            self._links.records.want()

    def _look(self) -> None:
        record = self._links.records.take()
        if record is None:
            return
        if record.final:
            self._clock.advance(FINAL_BEAT_S)
        with_context = self._context_for != record.generation
        if with_context and not record.layers:
            self._reporter.layers_wanted = True
            return
        command = self._director.decide(self._packet(record, with_context))
        self._context_for = record.generation
        if command is not None:
            self._executor.command(command)

    def _packet(self, record: StepRecord, with_context: bool) -> leyline.SystemStatePacket:
        """Build the packet without what depends on the machine: times and load, by which the risk engine would hold."""
        steady = {name: value for name, value in record.metrics.items() if name not in _TIMED}
        return state_packet(
            replace(record, metrics=steady), self._facts, _PROCESSOR, with_context=with_context, latency_ms=None
        )

    def _tell(self, response: kasmina_pb2.ExecuteResponse) -> None:
        kind = response.WhichOneof("response")
        if kind == "directive":
            self._links.inbox.post(response.directive)
        elif kind == "transition":
            self.transitions.append(response.transition)
            self._links.inbox.post(response.transition)
        elif kind == "gate":
            self.gates.append(response.gate)
        elif kind == "outcome":
            self.outcomes.append(response.outcome)
