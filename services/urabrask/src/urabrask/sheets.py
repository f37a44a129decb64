"""Safety data sheets: written from an assessment, signed, read back."""

from __future__ import annotations

import hashlib
from typing import Final

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock, to_timestamp
from esper_core.ids import new_ulid
from esper_core.security import Keyring, MessageSigner
from urabrask.assessment.assessment import (
    REFERENCE_PROFILE,
    SMALLEST_PROFILE,
    Assessment,
    p50_name,
    p95_name,
)
from urabrask.assessment.hazards import Hazard

HEAVY_BYTES: Final = 64 * 1024 * 1024


class SheetOffice:
    """Writes and signs sheets.

    Parameters
    ----------
    keyring : Keyring
        Signs for the purpose `bsds`.
    clock : Clock
        Gives the time of issue.
    """

    def __init__(self, keyring: Keyring, clock: Clock = SYSTEM_CLOCK) -> None:
        self._signer = MessageSigner(keyring, "bsds", clock=clock)
        self._clock = clock

    def issue(
        self,
        assessment: Assessment,
        blueprint_id: str,
        *,
        kernel_digest: str,
        size_bytes: int,
        previous_digest: str,
    ) -> leyline.Bsds:
        """Return a signed sheet that continues the chain after `previous_digest`, "" for the first."""
        verdict = assessment.verdict
        sheet = leyline.Bsds(
            version=1,
            bsds_id=new_ulid(self._clock),
            blueprint_id=blueprint_id,
            kernel_digest=kernel_digest,
            risk_score=verdict.risk_score,
            hazard_band=verdict.hazard_band,
            handling_class=verdict.handling_class,
            resource_profile=_resources(size_bytes),
            hazards=[_hazard(hazard) for hazard in verdict.hazards],
            mitigation=verdict.mitigation,
            provenance=leyline.PROVENANCE_URABRASK,
            issued_at=to_timestamp(self._clock.wall()),
            previous_digest=previous_digest,
            measurements=[
                leyline.NamedNumber(name=one.name, value=one.value, unit=one.unit) for one in assessment.measurements
            ],
            not_measured=assessment.not_measured,
            torch_version=assessment.torch_version,
        )
        return self._signer.sign(sheet)


def sheet_digest(sheet: leyline.Bsds) -> str:
    """Return the digest by which the next sheet of a chain refers to this one."""
    return hashlib.sha256(sheet.SerializeToString(deterministic=True)).hexdigest()


def prewarm(sheet: leyline.Bsds) -> tuple[float, float]:
    """Return median and 95th percentile of the forward latency in ms; 0 where the sheet has none."""
    figures = {one.name: one.value for one in sheet.measurements}
    profile = REFERENCE_PROFILE if p50_name(REFERENCE_PROFILE) in figures else SMALLEST_PROFILE
    return figures.get(p50_name(profile), 0.0), figures.get(p95_name(profile), 0.0)


def band_name(sheet: leyline.Bsds) -> str:
    """Return the name of a sheet's hazard band without its prefix."""
    return leyline.HazardBand.Name(sheet.hazard_band).removeprefix("HAZARD_BAND_")


def _hazard(hazard: Hazard) -> leyline.Hazard:
    return leyline.Hazard(
        name=hazard.name, description=hazard.description, severity=hazard.severity, mitigation=hazard.mitigation
    )


def _resources(size_bytes: int) -> leyline.ResourceProfile.ValueType:
    return leyline.RESOURCE_PROFILE_MEMORY_HEAVY if size_bytes >= HEAVY_BYTES else leyline.RESOURCE_PROFILE_CPU
