"""G3: the seed still fits its site, and every host layer that it needs is there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from esper_core import leyline
from esper_core.blueprints import SiteContract
from kasmina.evidence import Evidence
from kasmina.gates.verdict import Verdict, holds, judge


def judge_interface(
    evidence: Evidence, kernel_contract: SiteContract | None, site_contract: SiteContract, required: Collection[str]
) -> Verdict:
    """Judge contract and mesh.

    Parameters
    ----------
    evidence : Evidence
        Names the host layers that exist now.
    kernel_contract : SiteContract or None
        What the kernel was made for; None for a seed taken over from a runtime whose kernel is not on record.
    site_contract : SiteContract
        What the site promises.
    required : Collection[str]
        Module paths that the seed depends on.
    """
    absent = tuple(sorted(set(required) - set(evidence.host_layers_present)))
    matches = kernel_contract is None or kernel_contract == site_contract
    mesh = f"Host layers are missing: {', '.join(absent)}."
    checks = [
        holds("shape_contract", matches, "shape_contract_broken", "Kernel and site no longer have one shape."),
        holds("mesh_coverage", not absent, "mesh_coverage_missing", mesh),
    ]
    verdict = judge(leyline.SEED_GATE_G3_INTERFACE, checks, "The seed fits its site and all host layers are there.")
    return replace(verdict, missing_layers=absent)
