"""Sites, and the check that a module keeps the shape that its site promises.

A site is the output of one submodule of the host. Its contract says how that output is laid out, so that a seed can be
built and checked before it touches the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from esper_core.blueprints import SITE_KINDS, SiteContract, SiteContractError, SiteKind, check_admitted
from esper_runtime.undisturbed import undisturbed

__all__ = ["SITE_KINDS", "Site", "SiteContract", "SiteContractError", "SiteKind", "check_module", "received"]


@dataclass(frozen=True, slots=True)
class Site:
    """A declared injection point.

    Parameters
    ----------
    name : str
        The name used in commands, seed ids and the topology record.
    module_path : str
        Dotted path of the submodule whose output the seed sees, as in `nn.Module.get_submodule`.
    kind : SiteKind
        Layout of that output.
    contract : SiteContract, optional
        The promised shape; measured on a sample batch when absent, checked against it when present.
    depth : int
        Position of the site in the host, 0 nearest the input; only shown to the policy.
    blueprint_ids : tuple of str
        The only blueprints that may grow here; empty where every one that fits may.
    """

    name: str
    module_path: str
    kind: SiteKind
    contract: SiteContract | None = None
    depth: int = 0
    blueprint_ids: tuple[str, ...] = ()

    def admit(self, blueprint_id: str) -> None:
        """Refuse a blueprint that may not grow here, with a SiteContractError."""
        check_admitted(blueprint_id, self.blueprint_ids)


def check_module(module: nn.Module, contract: SiteContract, batch: int = 2) -> None:
    """Run a seed once on zeros of the site's shape and refuse one that changes it.

    Does not need the host, so that it can run away from the training thread.

    Raises
    ------
    SiteContractError
        If the module cannot take the shape, or answers with another one.
    """
    shape = contract.shape(batch)
    reference = next((tensor for tensor in module.parameters() if tensor.is_floating_point()), torch.zeros(()))
    sample = torch.zeros(shape, device=reference.device, dtype=reference.dtype)
    read = (sample.new_zeros(_offered(contract, batch)),) if getattr(module, "wants_input", False) else ()
    try:
        with torch.no_grad(), undisturbed(module):
            output = module(sample, *read)
    except Exception as error:  # Whatever a seed raises here, it is the seed that is refused.
        raise SiteContractError(
            f"The seed cannot take an input of shape {shape}: {error}", field="contract", allowed=str(shape)
        ) from error
    if not isinstance(output, Tensor) or tuple(output.shape) != shape:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise SiteContractError(
            f"The seed answers an input of shape {shape} with {found}; it must keep the shape.",
            field="contract",
            allowed=str(shape),
        )


def received(args: Sequence[Any], output: Tensor, contract: SiteContract, site: str) -> Tensor:
    """Return what a submodule was given first, once it is known to be what the contract's `inputs` says.

    Parameters
    ----------
    args : Sequence
        Positional arguments of the submodule.
    output : Tensor
        Its answer, in whose layout they must be.
    contract : SiteContract
        The promise.
    site : str
        Whose it is, for the error.

    Raises
    ------
    SiteContractError
        If it is no tensor of real numbers, or has another width or other positions.
    """
    first = args[0] if args else None
    wanted = (*output.shape[:-1], contract.inputs)
    if not isinstance(first, Tensor) or first.shape != wanted or not first.is_floating_point():
        found = f"{first.dtype} {tuple(first.shape)}" if isinstance(first, Tensor) else type(first).__name__
        raise SiteContractError(
            f"Site {site!r} declares {contract.inputs} inputs; its submodule was given {found} as its first argument.",
            field=f"sites.{site}.contract.inputs",
            allowed=f"a floating-point tensor of shape {wanted}",
        )
    return first


def _offered(contract: SiteContract, batch: int) -> tuple[int, ...]:
    if not contract.inputs:
        raise SiteContractError(
            "The seed reads what the site's submodule receives, and this site does not offer it. Declare the "
            "contract's inputs, or take another seed.",
            field="contract.inputs",
            allowed="a width of at least 1",
        )
    return contract.input_shape(batch)
