"""Between the assessor and Leyline's messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from esper_core import leyline
from esper_core.blueprints import KernelSpec
from esper_core.blueprints.messages import (
    contract_from_message,
    contract_to_message,
    parameters_from_messages,
    parameters_to_messages,
)
from esper_core.clocks import Clock, to_timestamp
from esper_core.errors import QuarantinedError
from esper_core.ids import new_ulid
from esper_core.pb.esper.urabrask.v1 import urabrask_pb2
from urabrask.assessment.observations import Profile
from urabrask.jobs import Job
from urabrask.laboratory import Weights

MAKER: Final = "urabrask"


def spec_from_messages(
    blueprint_id: str, parameters: Iterable[leyline.BlueprintParameter], contract: leyline.SiteContract
) -> KernelSpec:
    """Return what a request asks for, with every parameter filled in.

    Raises
    ------
    UnknownBlueprintError, BlueprintParameterError, SiteContractError
        If the three do not fit together; the error names the field and what is allowed.
    """
    return KernelSpec(
        blueprint_id=blueprint_id,
        contract=contract_from_message(contract),
        parameters=parameters_from_messages(parameters),
    )


def init_seed(spec: KernelSpec) -> int:
    """Return the seed of a kernel's initialisation, the same wherever and whenever it is made."""
    return int(spec.digest[:15], 16)


def kernel_descriptor(spec: KernelSpec, weights: Weights, made_at: datetime) -> leyline.KernelDescriptor:
    """Describe a made kernel; FLOPs are 0 where the shape leaves an extent open."""
    return leyline.KernelDescriptor(
        version=1,
        blueprint_id=spec.blueprint_id,
        parameters=parameters_to_messages(spec.parameters),
        contract=contract_to_message(spec.contract),
        weights_digest=weights.digest,
        spec_digest=spec.digest,
        size_bytes=len(weights.data),
        parameter_count=weights.parameter_count,
        flops_per_example=weights.flops_per_example or 0,
        created_by=MAKER,
        created_at=to_timestamp(made_at),
        init_seed=init_seed(spec),
    )


def quarantine_of(sheet: leyline.Bsds) -> QuarantinedError | None:
    """Return the refusal that a sheet demands; None when its kernel may be used."""
    if sheet.handling_class != leyline.HANDLING_CLASS_QUARANTINE:
        return None
    worst = sheet.hazards[0].description if sheet.hazards else "Its risk is critical."
    return QuarantinedError(
        f"{sheet.blueprint_id} may not be used at this shape. {worst} Choose another blueprint.",
        details={"bsds_id": sheet.bsds_id},
    )


def benchmark_message(
    blueprint_id: str, profiles: Sequence[Profile], torch_version: str, clock: Clock
) -> leyline.BlueprintBenchmark:
    """Convert measured speed."""
    return leyline.BlueprintBenchmark(
        version=1,
        benchmark_id=new_ulid(clock),
        blueprint_id=blueprint_id,
        profiles=[_profile(profile, torch_version) for profile in profiles],
        measured_at=to_timestamp(clock.wall()),
    )


def job_to_message(job: Job) -> urabrask_pb2.AssessmentJob:
    """Convert a job."""
    return urabrask_pb2.AssessmentJob(
        job_id=job.job_id,
        blueprint_id=job.blueprint_id,
        state=job.state,
        started_at=to_timestamp(job.started_at),
        ended_at=None if job.ended_at is None else to_timestamp(job.ended_at),
        message=job.message,
    )


def _profile(profile: Profile, torch_version: str) -> leyline.BlueprintBenchmarkProfile:
    return leyline.BlueprintBenchmarkProfile(
        name=profile.name,
        batch_size=profile.batch_size,
        p50_ms=profile.p50_ms,
        p95_ms=profile.p95_ms,
        throughput_per_s=profile.throughput_per_s,
        device=profile.device,
        torch_version=torch_version,
        provenance=leyline.PROVENANCE_URABRASK,
    )
