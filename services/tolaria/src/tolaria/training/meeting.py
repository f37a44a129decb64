"""Where several losses meet on the same parameters, and what a run may ask for there.

Owners have parameters of their own, so the loss of a seed in shadow, or anything else that reaches one owner alone,
meets nothing. Two kinds of losses do meet:

    microbatch   the parts of a batch, on every parameter; where a teacher takes part, its loss of each part as well
    seed         the batch through the model as it is, and the batch without a seed that blends, on the host's
                 parameters: what the host learns beside the seed is then not what it would unlearn without it, so that
                 the seed can still be taken out. The host takes the mean of both, projected; the seed, which only the
                 first of them reaches, takes that one to the bit. Each such seed costs one more pass per step, paid for
                 from the FLOP budget. While no seed blends, or the host is frozen, a step is the ordinary one. A
                 teacher's loss is part of the loss of each pass.
"""

from __future__ import annotations

from collections.abc import Iterator

from esper_core import leyline
from tolaria.training.plan import AGGREGATIONS, ATTRIBUTIONS, PCGRAD_LOSSES

_AGGREGATION = "spec.gradient_aggregation"
_LOSSES = "spec.pcgrad_losses"


def meeting_faults(spec: leyline.RunSpec) -> Iterator[tuple[str, str, str]]:
    """Yield what is wrong with how gradients are to meet: the field, a sentence, and what is allowed."""
    chosen, losses = spec.gradient_aggregation or "sum", spec.pcgrad_losses
    if chosen not in AGGREGATIONS:
        yield _AGGREGATION, f"Gradients cannot be aggregated by {chosen!r}.", ", ".join(AGGREGATIONS)
    if losses and losses not in PCGRAD_LOSSES:
        yield _LOSSES, f"There are no losses {losses!r} to hold against each other.", ", ".join(PCGRAD_LOSSES)
    elif losses and chosen != "pcgrad":
        yield _LOSSES, f"Nothing is projected under {chosen!r}.", f"nothing, unless {_AGGREGATION} is pcgrad"
    elif chosen == "pcgrad":
        yield from _nothing_meets(spec)
    yield from _attribution_faults(spec.attribution, chosen)


def _attribution_faults(asked: str, chosen: str) -> Iterator[tuple[str, str, str]]:
    if asked == "dataloader":
        sentence = "A task's batches do not say which owner an example is for, so that data cannot attribute the loss."
        yield "spec.attribution", sentence, ", ".join(ATTRIBUTIONS)
    elif asked and asked not in ATTRIBUTIONS:
        yield "spec.attribution", f"The loss cannot be attributed by {asked!r}.", ", ".join(ATTRIBUTIONS)
    elif asked == "approx" and chosen == "pcgrad":
        yield (
            "spec.attribution",
            "A projected gradient is no gradient of a loss.",
            f"probe, or approx where {_AGGREGATION} is sum",
        )


def _nothing_meets(spec: leyline.RunSpec) -> Iterator[tuple[str, str, str]]:
    if spec.pcgrad_losses == "seed":
        if spec.growth.policy in ("", "none"):
            yield (
                _LOSSES,
                "A run that grows no seed has no loss without one.",
                "seed only where spec.growth has a policy",
            )
    elif spec.gradient_accumulation < 2 and not spec.HasField("teacher"):
        allowed = (
            f"sum, or pcgrad where spec.gradient_accumulation is at least 2, a teacher takes part or {_LOSSES} is seed"
        )
        yield _AGGREGATION, "Gradients of a single part cannot conflict.", allowed
