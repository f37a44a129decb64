"""Find, measure and change the submodules behind sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from esper_core.blueprints import SiteContract, SiteContractError
from esper_core.errors import InternalError, ValidationError
from esper_runtime.blending import BlendSpec
from esper_runtime.contracts import Site, received
from esper_runtime.errors import UnknownSiteError
from esper_runtime.graft import Graft
from esper_runtime.naming import parent_of
from esper_runtime.undisturbed import undisturbed


def check_sites(model: nn.Module, sites: Sequence[Site]) -> None:
    """Refuse sites that share a name or a module, name no submodule, or name one that is used in several places."""
    names, paths = [site.name for site in sites], [site.module_path for site in sites]
    if len(set(names)) != len(names) or len(set(paths)) != len(paths):
        raise ValidationError(
            "Two sites share a name or a module path.", field="sites", allowed="different names and paths"
        )
    places: dict[int, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        places[id(module)] = places.get(id(module), 0) + 1
    for site in sites:
        if places.get(id(submodule_at(model, site)), 0) > 1:
            raise ValidationError(
                f"Site {site.name!r}: the module {site.module_path!r} is used in several places of the model.",
                field="module_path",
                allowed="a submodule that is used in one place",
            )


def submodule_at(model: nn.Module, site: Site) -> nn.Module:
    """Return what stands at a site now, or raise UnknownSiteError where the model has nothing there."""
    try:
        parent, leaf = parent_of(model, site.module_path)
    except AttributeError as error:
        raise UnknownSiteError(
            f"Site {site.name!r} names the submodule {site.module_path!r}, which the model does not have: {error}."
        ) from error
    if not leaf:
        raise UnknownSiteError(f"Site {site.name!r} must name a submodule; the whole model cannot be a site.")
    return parent.get_submodule(leaf)


def call_model(model: nn.Module, sample: Any) -> Any:
    """Run a model on a tensor, or on a tuple of positional arguments."""
    return model(*sample) if isinstance(sample, tuple) else model(sample)


def measure_sites(
    model: nn.Module, sites: Sequence[Site], sample: Any, forward: Callable[[nn.Module, Any], Any] | None
) -> list[Site]:
    """Run the model once and read the contract of every site off its output.

    Raises
    ------
    SiteContractError
        If an output is no tensor, has another shape than declared, or the site does not take part in the forward pass;
        or if a declared input is not what the submodule receives, or does not outlive it.
    """
    outputs: dict[str, Any] = {}
    handles = [
        submodule_at(model, site).register_forward_hook(
            lambda module, inputs, output, name=site.name: outputs.__setitem__(name, output)
        )
        for site in sites
    ]
    handles += [handle for site in sites for handle in _input_checks(submodule_at(model, site), site)]
    try:
        with undisturbed(model), torch.no_grad():
            (forward or call_model)(model, sample)
    finally:
        for handle in handles:
            handle.remove()
    return [_measured(site, outputs.get(site.name)) for site in sites]


def _input_checks(module: nn.Module, site: Site) -> list[RemovableHandle]:
    """Check a declared input while the submodule runs: its shape, and that it is still the same afterwards."""
    contract = site.contract
    if contract is None or not contract.inputs:
        return []
    versions: list[int] = []

    def before(_: nn.Module, args: tuple[Any, ...]) -> None:
        versions[:] = [value._version for value in args[:1] if isinstance(value, Tensor)]

    def after(_: nn.Module, args: tuple[Any, ...], output: object) -> None:
        # An output that does not fit is told by `_measured`.
        if not isinstance(output, Tensor) or not contract.accepts(output.shape):
            return
        if received(args, output, contract, site.name)._version != versions[0]:
            raise SiteContractError(
                f"Site {site.name!r} offers its input, and its submodule overwrites it in place.",
                field=f"sites.{site.name}.contract.inputs",
                allowed="0, or a submodule that leaves its input alone",
            )

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]


def _measured(site: Site, output: object) -> Site:
    if not isinstance(output, Tensor):
        found = "nothing" if output is None else type(output).__name__
        raise SiteContractError(
            f"Site {site.name!r} gave {found} in the forward pass; a site's output must be one tensor.",
            field=f"sites.{site.name}",
            allowed="a submodule that answers with one tensor",
        )
    contract = SiteContract.from_shape(site.kind, output.shape)
    if site.contract is not None and not site.contract.accepts(output.shape):
        raise SiteContractError(
            f"Site {site.name!r} declares {site.contract.to_dict()} and gives a tensor of shape {tuple(output.shape)}.",
            field=f"sites.{site.name}.contract",
            allowed=str(contract.to_dict()),
        )
    return replace(site, contract=site.contract or contract)


def link(model: nn.Module, site: Site, seed: nn.Module, seed_id: str, blend: BlendSpec) -> Graft:
    """Put a graft around whatever stands at the site now."""
    if site.contract is None:
        raise InternalError(f"Site {site.name!r} was to be grafted before it was measured.")
    parent, leaf = parent_of(model, site.module_path)
    graft = Graft(
        parent.get_submodule(leaf), seed, seed_id=seed_id, site=site.name, contract=site.contract, blend=blend
    )
    parent._modules[leaf] = graft
    return graft


def unlink(model: nn.Module, site: Site, graft: Graft) -> None:
    """Take one graft out of the stack at its site; what stood below it moves up as the same object.

    Where other code has taken the graft out of the model, nothing is put back: what stands there is not ours.
    """
    place = holder_of(model, site, graft)
    if place is not None:
        holder, key = place
        holder._modules[key] = graft.host


def holder_of(model: nn.Module, site: Site, graft: Graft) -> tuple[nn.Module, str] | None:
    """Return the module that holds a graft and its name there; None where the graft is no longer in the model."""
    try:
        holder, key = parent_of(model, site.module_path)
    except AttributeError:
        return None
    while (standing := holder._modules.get(key)) is not graft:
        if not isinstance(standing, Graft):
            return None
        holder, key = standing, "host"
    return holder, key
