"""Blueprints and kernels."""

from __future__ import annotations

from esper_core import leyline
from esper_core.blueprints.messages import (
    blueprint_from_descriptor,
    contract_from_message,
    contract_to_message,
    parameters_from_messages,
    parameters_to_messages,
)
from esper_core.clocks import to_timestamp
from esper_core.pb.esper.urza.v1 import urza_pb2
from kasmina.catalogue import CatalogueItem
from kasmina.kernels import Kernel, KernelKey, KernelProblem, KernelRequest


def item_from_message(message: leyline.BlueprintDescriptor) -> CatalogueItem:
    """Convert a blueprint as Urza tells it."""
    sheet = message.bsds if message.HasField("bsds") else None
    quarantined = (message.quarantine_reason or "no reason was given") if message.quarantined else ""
    return CatalogueItem(
        blueprint=blueprint_from_descriptor(message),
        approved=message.approved,
        quarantine_reason=quarantined,
        handling_quarantine=sheet is not None and sheet.handling_class == leyline.HANDLING_CLASS_QUARANTINE,
        risk_score=sheet.risk_score if sheet is not None else message.risk,
        blend_modes=tuple(message.blend_modes),
        handling_restricted=sheet is not None and sheet.handling_class == leyline.HANDLING_CLASS_RESTRICTED,
    )


def kernel_from_message(message: leyline.KernelDescriptor) -> Kernel:
    """Convert a kernel as Urza or Urabrask tells it."""
    key = KernelKey.of(
        message.blueprint_id, parameters_from_messages(message.parameters), contract_from_message(message.contract)
    )
    return Kernel(
        key=key,
        weights_digest=message.weights_digest,
        spec_digest=message.spec_digest,
        size_bytes=message.size_bytes,
        parameter_count=message.parameter_count,
        quarantined=message.quarantined,
    )


def key_to_message(key: KernelKey) -> urza_pb2.KernelKey:
    """Convert a kernel key for Urza."""
    return urza_pb2.KernelKey(
        blueprint_id=key.blueprint_id,
        parameters=parameters_to_messages(dict(key.parameters)),
        contract=contract_to_message(key.contract),
    )


def problem_from_message(message: leyline.KernelError) -> KernelProblem:
    """Convert why a kernel could not be made."""
    return KernelProblem(message.error_code, message.message, message.retryable)


def prefetch_to_message(request: KernelRequest) -> leyline.KernelPrefetchRequest:
    """Convert a prefetch; the time of the request is set by the caller's clock."""
    return leyline.KernelPrefetchRequest(
        version=1,
        request_id=request.request_id,
        training_run_id=request.run_id,
        blueprint_id=request.key.blueprint_id,
        parameters=parameters_to_messages(dict(request.key.parameters)),
        contract=contract_to_message(request.key.contract),
        requested_at=to_timestamp(request.requested_at),
    )
