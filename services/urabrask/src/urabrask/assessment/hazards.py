"""What is dangerous about a kernel: one small function per hazard, each looking at what a trial observed.

Severities lie in [0, 1]. A hazard of 0.85 or more sends a kernel into quarantine by itself; lesser ones add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from urabrask.assessment.observations import Observations

EXPLODING_GAIN: Final = 10.0
RUNAWAY_GAIN: Final = 100.0
VANISHING_SHARE: Final = 1e-5
FAINT_SHARE: Final = 1e-3
OVERSIZED_RATIO: Final = 4.0
DIVERGED_RATIO: Final = 2.0
RISING_SHARE: Final = 0.5
UNSTEADY_SHARE: Final = 0.5
ROUGH_ERROR: Final = 0.1
SLOW_MS: Final = 50.0
STALLED_RATIO: Final = 10.0
LEAST_FLOPS_PER_MS: Final = 1e6
LEAST_VALUES_PER_MS: Final = 1e5
"""Rates that the slowest processor in question reaches by far; what takes a multiple of that does not compute."""
LEAK_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Hazard:
    """One thing that was found.

    Attributes
    ----------
    name : str
        Word for programs.
    description : str
        A sentence with the figure that led to it.
    severity : float
        0 to 1.
    mitigation : str
        What to do about it.
    """

    name: str
    description: str
    severity: float
    mitigation: str


def wrong_shape(seen: Observations) -> Hazard | None:
    """Find an output that does not have the site's shape."""
    if seen.shape_kept:
        return None
    reason = "; ".join(seen.not_measured)
    return Hazard("wrong_shape", f"The output does not fit the site ({reason}).", 1.0, "Never attach it.")


def miscounted_parameters(seen: Observations) -> Hazard | None:
    """Find another number of parameters than the vocabulary promises."""
    if seen.parameter_count == seen.declared_parameter_count:
        return None
    sentence = f"It has {seen.parameter_count} parameters; {seen.declared_parameter_count} are declared."
    return Hazard("miscounted_parameters", sentence, 0.3, "Correct the declared count before budgets rely on it.")


def non_finite_output(seen: Observations) -> Hazard | None:
    """Find outputs that are no numbers."""
    if seen.forward is None or seen.forward.finite:
        return None
    return Hazard(
        "non_finite_output", "Ordinary inputs give NaN or infinite outputs.", 1.0, "Never attach it: it ruins the host."
    )


def non_finite_gradient(seen: Observations) -> Hazard | None:
    """Find gradients that are no numbers."""
    if seen.gradients is None or seen.gradients.finite:
        return None
    return Hazard(
        "non_finite_gradient", "The backward pass gives NaN or infinite gradients.", 1.0, "Never let it learn."
    )


def exploding_gradient(seen: Observations) -> Hazard | None:
    """Find gradients that grow on their way through."""
    if seen.gradients is None or seen.gradients.gain <= EXPLODING_GAIN:
        return None
    gain = seen.gradients.gain
    severity = 0.9 if gain > RUNAWAY_GAIN else 0.6
    sentence = f"Gradients towards the host grow {gain:.3g} times; {EXPLODING_GAIN:g} is the most that is harmless."
    return Hazard("exploding_gradient", sentence, severity, "Keep it isolated, or clip its gradients hard.")


def vanishing_gradient(seen: Observations) -> Hazard | None:
    """Find parameters without a gradient worth the name, even after learning has begun."""
    if seen.gradients is None or not seen.gradients.finite or seen.gradients.weakest >= FAINT_SHARE:
        return None
    weakest = seen.gradients.weakest
    severity = 0.8 if weakest < VANISHING_SHARE else 0.35
    sentence = f"The weakest parameter tensor gets {weakest:.3g} of the strongest one's gradient."
    return Hazard("vanishing_gradient", sentence, severity, "Choose a shallower blueprint: this one hardly learns.")


def not_zero_effect(seen: Observations) -> Hazard | None:
    """Find a seed that changes its host before it has learned anything."""
    if seen.forward is None or not seen.forward.finite or seen.forward.output_ratio == 0:
        return None
    sentence = f"It changes its site by {seen.forward.output_ratio:.3g} of the input's strength from the first step."
    return Hazard("not_zero_effect", sentence, 0.5, "Blend it in slowly, and only after it has learned in isolation.")


def oversized_output(seen: Observations) -> Hazard | None:
    """Find a seed that shouts its host down."""
    if seen.forward is None or not OVERSIZED_RATIO < seen.forward.output_ratio < math.inf:
        return None
    sentence = f"Its output is {seen.forward.output_ratio:.3g} times as strong as its input."
    return Hazard("oversized_output", sentence, 0.7, "Scale its initial weights down.")


def diverges(seen: Observations) -> Hazard | None:
    """Find a loss that runs away under an ordinary optimizer."""
    for run in seen.learning:
        if run.loss_last > DIVERGED_RATIO * run.loss_first or not math.isfinite(run.loss_last):
            sentence = f"Under {run.optimizer} the loss went from {run.loss_first:.3g} to {run.loss_last:.3g}."
            return Hazard("diverges", sentence, 0.8, "Use a much smaller learning rate, or none of it.")
    return None


def oscillates(seen: Observations) -> Hazard | None:
    """Find a loss that jumps up and down instead of falling."""
    for run in seen.learning:
        if RISING_SHARE < run.rises < math.inf:
            sentence = f"Under {run.optimizer} the loss rose by {run.rises:.3g} of its first value on the way."
            return Hazard("oscillates", sentence, 0.4, "Lower the learning rate of its parameter group.")
    return None


def not_repeatable(seen: Observations) -> Hazard | None:
    """Find different outputs for the same input in evaluation mode."""
    if seen.forward is None or seen.forward.repeatable:
        return None
    return Hazard(
        "not_repeatable", "The same input gives different outputs.", 0.3, "Do not trust a single probe of its worth."
    )


def unsteady(seen: Observations) -> Hazard | None:
    """Find outputs that change from one pass to the next while input and weights stay."""
    if seen.robustness is None or _useless(seen) or not UNSTEADY_SHARE < seen.robustness.unsteady < math.inf:
        return None
    sentence = (
        f"The same input and weights give outputs that differ by {seen.robustness.unsteady:.3g} of their strength."
    )
    return Hazard("unsteady", sentence, 0.9, "Never attach it: no step of learning helps the one after it.")


def contaminates_batch(seen: Observations) -> Hazard | None:
    """Find good examples that are spoiled by a bad one."""
    if seen.robustness is None or _useless(seen) or seen.robustness.contaminated == 0:
        return None
    sentence = f"One example of NaN makes {seen.robustness.contaminated:.0%} of the others non-finite."
    return Hazard("contaminates_batch", sentence, 0.4, "Guard its input against values that are not finite.")


def overflows(seen: Observations) -> Hazard | None:
    """Find large inputs that leave the finite numbers."""
    if seen.robustness is None or _useless(seen) or not seen.robustness.overflows:
        return None
    return Hazard(
        "overflows", "Inputs a thousand times larger give non-finite outputs.", 0.4, "Normalise what it reads."
    )


def loses_precision(seen: Observations) -> Hazard | None:
    """Find the lower precision that differs most from float32, if one differs too much."""
    if _useless(seen):
        return None
    rough = [one for one in seen.precisions if not one.finite or one.relative_error > ROUGH_ERROR]
    if not rough:
        return None
    worst = max(rough, key=lambda one: one.relative_error)
    found = f"differ by {worst.relative_error:.0%} from float32" if worst.finite else "are not finite"
    return Hazard("loses_precision", f"In {worst.dtype} its outputs {found}.", 0.25, "Run it in float32.")


def slow(seen: Observations) -> Hazard | None:
    """Find a forward pass that costs more than a hook may."""
    late = [one for one in seen.profiles if one.p50_ms > SLOW_MS]
    if not late:
        return None
    slowest = max(late, key=lambda one: one.p50_ms)
    sentence = f"The forward pass takes {slowest.p50_ms:.0f} ms at {slowest.name}; {SLOW_MS:g} ms are allowed."
    return Hazard("slow", sentence, 0.25, "Choose a smaller expansion, rank or kernel.")


def stalls(seen: Observations) -> Hazard | None:
    """Find a forward pass whose time is not explained by what it computes."""
    flops, values = seen.flops_per_example, seen.values_per_example
    if flops is None:
        return None
    explained_ms = flops / LEAST_FLOPS_PER_MS + values / LEAST_VALUES_PER_MS
    for one in seen.profiles:
        if one.p50_ms > max(SLOW_MS, STALLED_RATIO * explained_ms * one.batch_size):
            work = f"{flops * one.batch_size} FLOPs on {values * one.batch_size} values"
            sentence = f"The forward pass takes {one.p50_ms:.0f} ms at {one.name} for {work}."
            return Hazard(
                "stalls", sentence, 0.9, "Never attach it: it waits for something while the run waits for it."
            )
    return None


def leaks_memory(seen: Observations) -> Hazard | None:
    """Find memory that training steps keep."""
    if seen.memory_growth_bytes is None or seen.memory_growth_bytes <= LEAK_BYTES:
        return None
    sentence = f"Ten training steps kept {seen.memory_growth_bytes / 2**20:.0f} MiB, and went on keeping more."
    return Hazard("leaks_memory", sentence, 0.9, "Never attach it: a run of some thousand steps dies of it.")


EVERY_HAZARD: Final[tuple[Callable[[Observations], Hazard | None], ...]] = (
    wrong_shape,
    miscounted_parameters,
    non_finite_output,
    non_finite_gradient,
    exploding_gradient,
    vanishing_gradient,
    not_zero_effect,
    oversized_output,
    diverges,
    oscillates,
    not_repeatable,
    unsteady,
    contaminates_batch,
    overflows,
    loses_precision,
    slow,
    stalls,
    leaks_memory,
)


def find_hazards(seen: Observations) -> tuple[Hazard, ...]:
    """Return every hazard, the most severe first."""
    found = [hazard for look in EVERY_HAZARD if (hazard := look(seen)) is not None]
    return tuple(sorted(found, key=lambda hazard: -hazard.severity))


def _useless(seen: Observations) -> bool:
    """Tell whether ordinary inputs fail already, so that extraordinary ones say nothing more."""
    return seen.forward is None or not seen.forward.finite
