"""From the trainer's records to Leyline messages; nothing here decides anything."""

from __future__ import annotations

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, to_timestamp
from esper_core.ids import new_ulid
from esper_core.pb.esper.kasmina.v1 import kasmina_pb2 as kasmina
from esper_core.training_metrics import pack
from tolaria.reporting.records import LayerRecord, RunFacts, StepRecord
from tolaria.training.links import BoundaryMark, Ended, Greeting, ToKasmina


def state_packet(
    record: StepRecord,
    facts: RunFacts,
    hardware: leyline.HardwareContext,
    *,
    with_context: bool,
    latency_ms: float | None,
) -> leyline.SystemStatePacket:
    """Build what Tamiyo sees of a step.

    Parameters
    ----------
    record : StepRecord
        The step.
    facts : RunFacts
        The run.
    hardware : HardwareContext
        The device, as it was looked at last.
    with_context : bool
        Whether this is the first packet of a stream or of a generation: then context and layers go along.
    latency_ms : float, optional
        Round trip of the evaluation before.
    """
    packet = leyline.SystemStatePacket(
        version=1,
        packet_id=new_ulid(),
        training_run_id=facts.run_id,
        epoch=record.epoch,
        global_step=record.step,
        generation=record.generation,
        timestamp=to_timestamp(SYSTEM_CLOCK.wall()),
        hardware=hardware,
        validation=record.validation,
        seeds=record.seeds,
        host_digest=record.host_digest,
        source="tolaria",
        flops_used=record.flops_used,
        final=record.final,
        parameters=record.parameters,
        run_state=leyline.RunState.ValueType(record.run_state),
        metrics_struct=pack({**record.metrics, "tamiyo_latency_ms": latency_ms}),
    )
    if with_context:
        packet.layers.extend(_layer(layer) for layer in record.layers)
        packet.context.CopyFrom(run_context(facts, record.total_steps))
    return packet


def run_context(facts: RunFacts, total_steps: int) -> leyline.RunContext:
    """Build what stays the same between topology changes."""
    return leyline.RunContext(
        task=facts.task,
        policy=facts.policy,
        total_steps=total_steps,
        flops_budget=facts.flops_budget,
        parameters_budget=facts.parameters_budget,
        seeds_budget=facts.seeds_budget,
        sites=facts.sites,
        blueprint_ids=facts.blueprint_ids,
        host_parameters=facts.host_parameters,
        steps_per_epoch=facts.steps_per_epoch,
        random_seed=facts.random_seed,
    )


def hello(greeting: Greeting, facts: RunFacts) -> kasmina.ExecuteRequest:
    """Build the first message to Kasmina."""
    return kasmina.ExecuteRequest(
        hello=kasmina.Hello(
            version=1,
            training_run_id=facts.run_id,
            generation=greeting.generation,
            inventory=greeting.inventory,
            sites=facts.sites,
            blueprint_ids=facts.blueprint_ids,
            total_steps=greeting.total_steps,
            global_step=greeting.step,
            steps_per_epoch=facts.steps_per_epoch,
            isolation=leyline.IsolationMode.ValueType(facts.isolation),
            host_layers=facts.host_layers,
            allow_restricted=facts.allow_restricted,
            teacher_id=greeting.teacher_id,
        )
    )


def kasmina_request(item: ToKasmina) -> kasmina.ExecuteRequest:
    """Wrap what the training thread has for Kasmina, greetings aside."""
    if isinstance(item, leyline.SeedEvidence):
        return kasmina.ExecuteRequest(evidence=item)
    if isinstance(item, leyline.DirectiveResult):
        return kasmina.ExecuteRequest(result=item)
    if isinstance(item, Ended):
        return kasmina.ExecuteRequest(ended=kasmina.RunEnded(reason=item.reason, resumable=item.resumable))
    if isinstance(item, BoundaryMark):
        return kasmina.ExecuteRequest(
            boundary=kasmina.Boundary(
                global_step=item.step,
                epoch=item.epoch,
                generation=item.generation,
                epoch_end=item.epoch_end,
                final=item.final,
            )
        )
    raise TypeError("a greeting opens a stream and is no request inside one")


def _layer(layer: LayerRecord) -> leyline.LayerState:
    return leyline.LayerState(
        name=layer.name,
        kind=layer.kind,
        depth=layer.depth,
        parameter_count=layer.parameter_count,
        weight_norm=layer.weight_norm,
        gradient_norm=layer.gradient_norm,
    )
