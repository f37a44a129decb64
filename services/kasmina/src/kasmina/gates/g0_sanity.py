"""G0: the blueprint exists, may be used, and its kernel is what was asked for."""

from __future__ import annotations

import math
from collections.abc import Collection

from esper_core import leyline
from kasmina.catalogue import CatalogueItem
from kasmina.gates.verdict import Check, Verdict, holds, judge
from kasmina.kernels import Kernel, KernelKey


def judge_sanity(
    item: CatalogueItem | None,
    allowed: Collection[str],
    wanted: KernelKey,
    kernel: Kernel | None,
    *,
    allow_restricted: bool = False,
) -> Verdict:
    """Judge a germination before anything is prepared.

    Parameters
    ----------
    item : CatalogueItem or None
        The blueprint as Urza tells it; None when it has none of that id.
    allowed : Collection[str]
        Blueprints that the run may use.
    wanted : KernelKey
        Blueprint, complete parameters and site contract of the command.
    kernel : Kernel or None
        The kernel that lies ready.
    allow_restricted : bool
        Whether the run lets kernels grow that their assessment restricts.
    """
    checks = [
        *_blueprint_checks(item, allowed, wanted, allow_restricted),
        *_kernel_checks(wanted, kernel, allow_restricted),
    ]
    return judge(leyline.SEED_GATE_G0_SANITY, checks, f"Blueprint {wanted.blueprint_id} and its kernel are sound.")


def _blueprint_checks(
    item: CatalogueItem | None, allowed: Collection[str], wanted: KernelKey, allow_restricted: bool
) -> list[Check]:
    name = wanted.blueprint_id
    refusal = item.ineligible(allow_restricted) if item else ""
    finite = all(math.isfinite(value) for _, value in wanted.parameters if not isinstance(value, str))
    return [
        holds("blueprint_known", item is not None, "unknown_blueprint", f"Urza has no blueprint {name}."),
        holds("blueprint_allowed", name in allowed, "blueprint_not_allowed", f"This run may not use {name}."),
        holds("blueprint_eligible", not refusal, "blueprint_not_eligible", refusal or "It may be used."),
        holds("parameters_finite", finite, "parameter_not_finite", "A parameter is not a finite number."),
    ]


def _kernel_checks(wanted: KernelKey, kernel: Kernel | None, allow_restricted: bool) -> list[Check]:
    if kernel is None:
        return [holds("kernel_ready", False, "kernel_missing", f"No kernel of {wanted.blueprint_id} lies ready.")]
    free = allow_restricted or not kernel.restricted
    restricted = "The kernel's assessment restricts it to runs with growth.allow_restricted."
    digests = len(kernel.weights_digest) == 64 and len(kernel.spec_digest) == 64
    return [
        holds("kernel_ready", True, "kernel_missing", "The kernel lies ready."),
        holds("kernel_matches", kernel.key == wanted, "kernel_mismatch", "The kernel was made for something else."),
        holds("kernel_digests", digests, "kernel_digest_missing", "The kernel has no SHA-256 digests."),
        holds("kernel_trusted", not kernel.quarantined, "kernel_quarantined", "The kernel is quarantined."),
        holds("kernel_unrestricted", free, "kernel_restricted", restricted),
    ]
