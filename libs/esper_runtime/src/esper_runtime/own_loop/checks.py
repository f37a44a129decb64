"""Small checks before and during a session."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from esper_core.errors import ValidationError
from esper_runtime.graft import Graft


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


def _workers() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


def _refused(sentence: str, allowed: str) -> ValidationError:
    return ValidationError(sentence, field="model", allowed=allowed)
