"""What every Leyline message promises by its shape alone."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from esper_core import leyline
from support.sources import GENERATED

# People and dashboards read these; nothing is controlled by them.
MAPS_ALLOWED = {"MetricPoint", "TelemetryEvent", "BusEnvelope"}
UNTYPED = {"google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.Any"}

METRICS = {
    "loss", "accuracy", "gradient_norm", "samples_per_s", "optimizer_lr", "optimizer_momentum", "loss_delta",
    "loss_ewma", "loss_volatility", "grad_norm_ewma", "grad_var", "grad_conflict_rate", "hook_latency_ms",
    "tamiyo_latency_ms", "kasmina_apply_ms", "kasmina_finalize_ms", "step_latency_ms", "input_wait_ms", "h2d_copy_ms",
    "gpu_mem_used_gb", "gpu_mem_free_gb", "gpu_util_percent", "cpu_util_percent", "epochs_total",
}  # fmt: skip
DELTAS = {
    "loss_delta", "loss_delta_min", "loss_delta_max", "param_delta", "risk_index", "risk_score", "value_estimate",
    "tamiyo_latency_ms", "hook_latency_ms", "kasmina_apply_ms", "kasmina_finalize_ms", "contribution",
    "parameters_added", "flops_added",
}  # fmt: skip


def messages() -> Iterator[Descriptor]:
    for path in sorted(GENERATED.rglob("*_pb2.py")):
        module = import_module("esper_core.pb." + ".".join(path.relative_to(GENERATED).with_suffix("").parts))
        yield from module.DESCRIPTOR.message_types_by_name.values()


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def number(message: str, field: str) -> int:
    return int(getattr(leyline, message).DESCRIPTOR.fields_by_name[field].number)


@pytest.mark.req("LEY-1")
def test_no_control_message_has_a_map() -> None:
    with_maps = {message.name for message in messages() if any(is_map(field) for field in message.fields)}
    assert with_maps <= MAPS_ALLOWED


@pytest.mark.req("LEY-1")
def test_no_message_smuggles_untyped_values() -> None:
    found = [
        f"{message.name}.{field.name}"
        for message in messages()
        for field in message.fields
        if field.message_type is not None and field.message_type.full_name in UNTYPED
    ]
    assert found == []


@pytest.mark.req("LEY-2")
@pytest.mark.parametrize(("message", "expected"), [("BusEnvelope", 4), ("TelemetryPacket", 50)])
def test_priority_travels_in_its_own_field(message: str, expected: int) -> None:
    assert number(message, "priority") == expected
    field = getattr(leyline, message).DESCRIPTOR.fields_by_name["priority"]
    assert field.enum_type.name == "MessagePriority"


@pytest.mark.req("LEY-3")
def test_a_command_carries_how_it_was_decided() -> None:
    command = leyline.AdaptationCommand()
    command.metadata.policy.policy_version = "schedule-1"
    command.metadata.risk.reason = leyline.RISK_REASON_LOSS_SPIKE
    assert number("AdaptationCommand", "metadata") == 16
    assert leyline.AdaptationCommand.FromString(command.SerializeToString()) == command
    assert {"policy", "risk", "coverage", "selection"} <= set(leyline.DecisionMetadata.DESCRIPTOR.fields_by_name)


@pytest.mark.req("LEY-4")
def test_a_command_carries_its_security_block() -> None:
    expected = {"signature": 1, "nonce": 2, "issued_at": 3, "freshness_window": 4, "key_id": 5}
    assert {name: number("CommandSecurity", name) for name in expected} == expected
    assert number("AdaptationCommand", "security") == 17


@pytest.mark.req("LEY-5")
def test_a_report_carries_a_typed_delta_whose_parts_may_be_absent() -> None:
    assert number("FieldReport", "delta") == 14
    fields = leyline.FieldReportDelta.DESCRIPTOR.fields
    assert {field.name for field in fields} >= DELTAS
    assert all(field.has_presence for field in fields)


@pytest.mark.req("LEY-5")
def test_extra_metrics_of_a_report_keep_their_order() -> None:
    names = ["zeta", "alpha", "mid", "alpha"]
    report = leyline.FieldReport(extra_metrics=[leyline.NamedNumber(name=name, value=1.0) for name in names])
    again = leyline.FieldReport.FromString(report.SerializeToString(deterministic=True))
    assert [metric.name for metric in again.extra_metrics] == names


@pytest.mark.req("LEY-6")
def test_training_metrics_are_a_struct_in_which_absence_is_not_zero() -> None:
    fields = leyline.TrainingMetrics.DESCRIPTOR.fields
    assert {field.name for field in fields} >= METRICS
    assert all(field.has_presence for field in fields)
    assert number("SystemStatePacket", "metrics_struct") == 50
    zero = leyline.TrainingMetrics.FromString(leyline.TrainingMetrics(loss=0.0).SerializeToString())
    assert zero.HasField("loss") and not zero.HasField("accuracy")


@pytest.mark.req("LEY-7")
def test_emergencies_have_levels_and_an_identity() -> None:
    levels = {name: leyline.EmergencyLevel.Value(f"EMERGENCY_LEVEL_{name}") for name in _LEVELS}
    assert levels == _LEVELS
    fields = set(leyline.EmergencySignal.DESCRIPTOR.fields_by_name)
    assert {"signal_id", "level", "reason", "origin", "triggered_at", "monotonic_time_ms", "ttl"} <= fields


_LEVELS = {"NOTICE": 1, "ELEVATED": 2, "CONSERVATIVE": 3, "HALT": 4}
