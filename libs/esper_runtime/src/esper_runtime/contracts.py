"""Sites, and the check that a module keeps the shape that its site promises.

A site is the output of one submodule of the host. Its contract says how that output is laid out, so that a seed can be
built and checked before it touches the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esper_core.blueprints import SITE_KINDS, SiteContract, SiteContractError, SiteKind
from esper_runtime.undisturbed import undisturbed

__all__ = ["SITE_KINDS", "Site", "SiteContract", "SiteContractError", "SiteKind", "check_module"]


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
    """

    name: str
    module_path: str
    kind: SiteKind
    contract: SiteContract | None = None
    depth: int = 0


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
    try:
        with torch.no_grad(), undisturbed(module):
            output = module(sample)
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
