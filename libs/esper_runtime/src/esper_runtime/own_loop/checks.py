"""Small checks before and during a session."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from esper_core.errors import CircuitOpenError, ValidationError
from esper_runtime.errors import UnknownSiteError
from esper_runtime.graft import Graft
from esper_runtime.host import Host
from esper_runtime.isolation_guard import IsolationGuard
from esper_runtime.own_loop.held_out import HeldOut
from esper_runtime.sites import submodule_at
from esper_runtime.undisturbed import undisturbed


def finite_loss(loss: Tensor | float) -> bool:
    """Say whether a loss is a finite number."""
    return math.isfinite(loss.detach().item() if isinstance(loss, Tensor) else loss)


def check_model(model: nn.Module, steps: int) -> None:
    """Refuse a budget without steps, and models that a session cannot look after.

    Raises
    ------
    ValidationError
        Naming what is wrong.
    """
    if steps < 1:
        raise ValidationError("A budget needs steps.", field="steps", allowed="a whole number of at least 1")
    if hasattr(model, "_orig_mod"):
        raise _refused(
            "A compiled model would not notice its seeds; give the session the model itself.",
            "a module that is not the result of torch.compile",
        )
    if any(isinstance(module, Graft) for module in model.modules()):
        raise _refused(
            "The model already carries seeds; begin with the bare model and let `resume` put them back.",
            "a model without grafts",
        )
    if _workers() > 1:
        raise _refused(
            "A session grows the model of one process; several workers would grow apart.", "a run with one process"
        )


def obstacle(host: Host, site: str, held_out: HeldOut, isolation: IsolationGuard) -> str:
    """Return what speaks against a seed at a site now, as a sentence; empty where nothing does."""
    try:
        isolation.admit()
        host.check_sites(site)
    except (CircuitOpenError, UnknownSiteError) as error:
        return error.message
    return "" if _reaches(host, site, held_out) else "the held-out loss does not depend on what comes out of this site."


def _reaches(host: Host, site: str, held_out: HeldOut) -> bool:
    """Say whether the held-out loss depends on what comes out of a site; where not, no seed there could be judged.

    Looked at by values, not gradients, because a loss that is only ever evaluated may well be computed without any.
    Asked at germination, not before training: a branch that starts at zero hides what comes before it until it has
    learned.
    """
    batch = held_out.first()
    with undisturbed(host.model), torch.no_grad():
        plain = held_out.loss(host.model, batch)
        handle = submodule_at(host.model, host.site(site)).register_forward_hook(_moved)
        try:
            return not torch.equal(plain, held_out.loss(host.model, batch))
        finally:
            handle.remove()


def _moved(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """Move each number by another amount, which no norm or softmax behind the site can take out again."""
    return output + torch.arange(output.numel(), device=output.device, dtype=output.dtype).sin().view_as(output)


def _workers() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


def _refused(sentence: str, allowed: str) -> ValidationError:
    return ValidationError(sentence, field="model", allowed=allowed)
