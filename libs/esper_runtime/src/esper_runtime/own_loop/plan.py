"""What to grow and when, checked before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from esper_core.blueprints import KernelSpec, get_blueprint
from esper_core.errors import QuarantinedError, ValidationError
from esper_runtime.blueprints.registry import parameter_count
from esper_runtime.host import Host
from esper_runtime.own_loop.rules import Pace, Rules


@dataclass(frozen=True, slots=True)
class GrowthStep:
    """One graft of a plan.

    Parameters
    ----------
    at : float
        Fraction of the budget at which to germinate, 0 to 1.
    site : str
        Name of the site.
    blueprint_id : str
        What to germinate.
    parameters : Mapping[str, int | float | str]
        Parameters of the blueprint; its defaults where absent.
    """

    at: float
    site: str
    blueprint_id: str
    parameters: Mapping[str, int | float | str] = field(default_factory=dict)


def kernel_of(host: Host, planned: GrowthStep) -> KernelSpec:
    """Return the kernel that a step of the plan asks for at its measured site, if it may grow there."""
    host.site(planned.site).admit(planned.blueprint_id)
    return KernelSpec(planned.blueprint_id, host.contract(planned.site), planned.parameters)


def check_plan(host: Host, plan: Sequence[GrowthStep], steps: int, rules: Rules) -> None:
    """Refuse a plan before the first step is trained rather than in the middle of the run.

    Raises
    ------
    UnknownSiteError, UnknownBlueprintError, BlueprintParameterError, SiteContractError
        If a step names what does not exist or does not fit.
    QuarantinedError
        If a step names a fixture outside a drill.
    ValidationError
        If a step is out of order, comes too late to be judged, or would more than double the model.
    """
    size, earliest = host.parameter_count(), 0.0
    for number, planned in enumerate(plan):
        where = f"plan[{number}]"
        _check_time(planned.at, earliest, steps, rules.pace, where)
        _check_quarantine(planned.blueprint_id, rules.drill)
        kernel = kernel_of(host, planned)
        added = parameter_count(kernel.blueprint_id, kernel.parameters, kernel.contract)
        if added > size:
            raise ValidationError(
                f"The seed of {where} would bring {added} parameters to a model of {size}; grow in smaller steps.",
                field=f"{where}.parameters",
                allowed="at most as many new parameters as there are",
            )
        size, earliest = size + added, planned.at


def _check_time(at: float, earliest: float, steps: int, pace: Pace, where: str) -> None:
    latest = (steps - pace.life) / steps
    if not earliest <= at <= latest:
        raise ValidationError(
            f"Germinating at {at:g} of {steps} steps cannot work: a seed needs {pace.life} steps until its verdict.",
            field=f"{where}.at",
            allowed=f"a number from {earliest:g} to {latest:.3f}, in order",
        )


def _check_quarantine(blueprint_id: str, drill: bool) -> None:
    if get_blueprint(blueprint_id).quarantine_only and not drill:
        raise QuarantinedError(
            f"Blueprint {blueprint_id} is a fixture that does harm; it grows only where the rules say drill=True."
        )
