"""What a seed is worth: the same held-out examples with the seed and without it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from esper_core.errors import DependencyViolationError, ValidationError
from esper_runtime.graft import Graft, Route
from esper_runtime.host import Host
from esper_runtime.isolation import frozen, keeps_statistics
from esper_runtime.undisturbed import preserved_buffers, preserved_random_state, undisturbed

PerExampleLoss = Callable[[nn.Module, Any], Tensor]
"""Runs a model on one batch and answers with the loss of each example, shape (B,)."""

_NORMAL_975: Final = 1.959963984540054
_T_975: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t at 0.975 for 1 to 30 degrees of freedom; beyond that the normal value is within 4 %."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """The paired difference of losses, positive where the seed helps.

    Attributes
    ----------
    mean : float
        Mean over examples of (loss without the seed - loss with it), in the loss's unit.
    standard_error : float
        Standard error of that mean; infinite for a single example.
    low, high : float
        95 % confidence interval of the mean.
    examples : int
        Number of pairs.
    loss_with, loss_without : float
        Mean losses.
    output_ratio : float
        Root mean square of the change at the site over that of the host's output.
    alpha : float
        Alpha that "with" stands for.
    finite : bool
        Whether every loss was finite; where not, the other numbers are not either.
    """

    mean: float
    standard_error: float
    low: float
    high: float
    examples: int
    loss_with: float
    loss_without: float
    output_ratio: float
    alpha: float
    finite: bool


def probe(
    host: Host,
    seed_id: str,
    batches: Iterable[Any],
    per_example_loss: PerExampleLoss,
    *,
    alpha: float | None = None,
) -> Contribution:
    """Measure what a seed contributes on held-out batches.

    Runs in evaluation mode without gradients, and leaves parameters, buffers, modes and random state as they were, bit
    for bit. Both passes of a batch see the same random numbers.

    Parameters
    ----------
    host : Host
        The host.
    seed_id : str
        The seed; it is made live for the "with" pass in whatever stage it is.
    batches : Iterable
        Held-out batches, in the form that `per_example_loss` takes.
    per_example_loss : PerExampleLoss
        The loss of each example.
    alpha : float, optional
        Alpha of the "with" pass; the seed's present alpha when absent.

    Raises
    ------
    UnknownSeedError
        If no such seed is attached.
    DependencyViolationError
        If there are no batches.
    """
    graft = host.graft(seed_id)
    strength = graft.alpha_value if alpha is None else alpha
    losses_with: list[Tensor] = []
    losses_without: list[Tensor] = []
    ratios: list[Tensor] = []
    with torch.no_grad(), undisturbed(host.model):
        for batch in batches:
            random_state = torch.get_rng_state()
            with _standing(graft, "bypass", strength):
                losses_without.append(_losses(per_example_loss, host.model, batch))
            torch.set_rng_state(random_state)
            with _standing(graft, "live", strength), _measured_change(graft, ratios):
                losses_with.append(_losses(per_example_loss, host.model, batch))
    if not losses_with:
        raise DependencyViolationError(
            "A counterfactual needs at least one held-out batch.", dependency="held-out batches"
        )
    ratio = float(torch.stack(ratios).mean()) if ratios else 0.0
    return _summary(torch.cat(losses_with), torch.cat(losses_without), ratio, strength)


@contextmanager
def left_out(host: Host, seed_id: str) -> Iterator[None]:
    """Run the block as if a seed were not there, with gradients for everybody else.

    Random state and running statistics are afterwards as they were, so that this pass leaves nothing but gradients.

    Raises
    ------
    UnknownSeedError
        If no such seed is attached.
    """
    graft, modules = host.graft(seed_id), list(host.model.modules())
    counting = [module for module in modules if not keeps_statistics(module)]
    bypassed = _standing(graft, "bypass", graft.alpha_value)
    with frozen({}, modules), preserved_random_state(), preserved_buffers(counting), bypassed:
        yield


def held_out_loss(model: nn.Module, batches: Iterable[Any], per_example_loss: PerExampleLoss) -> float:
    """Return the mean loss of a model over held-out examples, leaving it as `probe` does.

    Raises
    ------
    DependencyViolationError
        If there are no batches.
    """
    with torch.no_grad(), undisturbed(model):
        losses = [_losses(per_example_loss, model, batch) for batch in batches]
    if not losses:
        raise DependencyViolationError("A held-out loss needs at least one batch.", dependency="held-out batches")
    return float(torch.cat(losses).mean())


@contextmanager
def _standing(graft: Graft, route: Route, alpha: float) -> Iterator[None]:
    former_route, former_alpha, former_value = graft.route, graft.alpha, graft.alpha_value
    graft.route = route
    graft.set_alpha(alpha)
    try:
        yield
    finally:
        graft.route, graft.alpha, graft.alpha_value = former_route, former_alpha, former_value


@contextmanager
def _measured_change(graft: Graft, ratios: list[Tensor]) -> Iterator[None]:
    seen: list[Tensor] = []
    before = graft.host.register_forward_hook(lambda module, inputs, output: seen.append(output))
    after = graft.register_forward_hook(lambda module, inputs, output: ratios.append(_ratio(seen.pop(), output)))
    try:
        yield
    finally:
        before.remove()
        after.remove()


def _ratio(h: Tensor, blended: Tensor) -> Tensor:
    tiny = torch.finfo(torch.float32).tiny
    ratio: Tensor = (blended - h).float().norm() / h.float().norm().clamp_min(tiny)
    return ratio


def _losses(per_example_loss: PerExampleLoss, model: nn.Module, batch: Any) -> Tensor:
    losses_B = per_example_loss(model, batch)
    if losses_B.dim() != 1:
        raise ValidationError(
            f"The per-example loss has shape {tuple(losses_B.shape)}.",
            field="per_example_loss",
            allowed="one loss per example, shape (batch,)",
        )
    return losses_B.detach().to("cpu", torch.float64)


def _summary(losses_with: Tensor, losses_without: Tensor, ratio: float, alpha: float) -> Contribution:
    difference = losses_without - losses_with
    examples = difference.numel()
    mean = float(difference.mean())
    error = float(difference.std(unbiased=True)) / math.sqrt(examples) if examples > 1 else math.inf
    reach = _quantile(examples - 1) * error
    return Contribution(
        mean=mean,
        standard_error=error,
        low=mean - reach,
        high=mean + reach,
        examples=examples,
        loss_with=float(losses_with.mean()),
        loss_without=float(losses_without.mean()),
        output_ratio=ratio,
        alpha=alpha,
        finite=bool(torch.isfinite(losses_with).all() and torch.isfinite(losses_without).all()),
    )


def _quantile(freedom: int) -> float:
    return _T_975[freedom - 1] if 1 <= freedom <= len(_T_975) else _NORMAL_975
