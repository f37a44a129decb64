"""Evaluators of what was measured: losses, latencies, device, optimizer, stability, and the way out of the mode."""

from __future__ import annotations

from typing import Final

from esper_core import leyline
from tamiyo.actions import Action
from tamiyo.memory import RunMemory
from tamiyo.risk.findings import Effect, Finding, Situation

UNUSUAL: Final = 1.5
"""Volatility over what is usual in a run from which it counts as restless."""


def loss_metrics(action: Action, now: Situation) -> list[Finding]:
    """Hold while the loss jumps up, soften while it creeps up.

    Judged is the change between the last two validation passes when one has just been made, else the change of the
    smoothed training loss since the packet before; the loss of a single batch is never looked at.
    """
    rise, what = loss_rise(now.memory)
    bounds = now.thresholds
    if rise is None or rise < bounds.loss_warning:
        return []
    text = f"The {what} rose by {rise:.3f}."
    if rise >= bounds.loss_spike:
        reason = leyline.RISK_REASON_LOSS_SPIKE
        return [Finding("loss_metrics", reason, text, rise, bounds.loss_spike, "hold", grave=True)]
    return [Finding("loss_metrics", leyline.RISK_REASON_LOSS_WARNING, text, rise, bounds.loss_warning, "soften")]


def loss_rise(memory: RunMemory) -> tuple[float | None, str]:
    """Return by how much the loss rose, and which loss that is; None where nothing can be compared."""
    fresh = memory.now is not None and memory.now.validation is not None
    if fresh and len(memory.validations) > 1:
        return memory.validations[-1].loss - memory.validations[-2].loss, "validation loss"
    figures = memory.now.figures if memory.now is not None else None
    if figures is None:
        return None, ""
    before = memory.figures_before.loss_ewma
    if figures.loss_ewma is not None and before is not None:
        return figures.loss_ewma - before, "smoothed training loss"
    return figures.loss_delta, "smoothed training loss"


def latency_metrics(action: Action, now: Situation) -> list[Finding]:
    """Hold while Esper's own hooks are too slow; soften while steps are slow or the last graft was.

    The times of the last graft stand in every packet after it, so only a new figure counts.
    """
    figures, before, bounds = now.seen.figures, now.memory.figures_before, now.thresholds
    fresh_apply = figures.kasmina_apply_ms if figures.kasmina_apply_ms != before.kasmina_apply_ms else None
    fresh_end = figures.kasmina_finalize_ms if figures.kasmina_finalize_ms != before.kasmina_finalize_ms else None
    looks: list[tuple[int, str, float | None, float, Effect]] = [
        (leyline.RISK_REASON_HOOK_BUDGET, "Esper's hooks took", figures.hook_latency_ms, bounds.hook_ms, "hold"),
        (leyline.RISK_REASON_STEP_LATENCY_HIGH, "A step took", figures.step_latency_ms, bounds.step_ms, "soften"),
        (leyline.RISK_REASON_KASMINA_APPLY_SLOW, "The last graft took", fresh_apply, bounds.kasmina_ms, "soften"),
        (leyline.RISK_REASON_KASMINA_FINALIZE_SLOW, "Finalising took", fresh_end, bounds.kasmina_ms, "soften"),
    ]
    return [
        Finding("latency_metrics", reason, f"{name} {value:.1f} ms.", value, bound, effect)
        for reason, name, value, bound, effect in looks
        if value is not None and value >= bound
    ]


def isolation_and_device(action: Action, now: Situation) -> list[Finding]:
    """Hold while the device is full, note a busy processor, hold while a seed's gradients are not finite.

    Training on a processor keeps it busy by itself, so load there is told and changes nothing. Isolation is judged by
    Kasmina's gates; what reaches Tamiyo of it is a seed whose gradient norm is no number.
    """
    figures, bounds = now.seen.figures, now.thresholds
    found = []
    for seed in now.seen.unsettled():
        if seed.gradient_norm is not None and seed.gradient_norm != seed.gradient_norm:
            text = f"The gradients of {seed.seed_id} are not finite."
            reason = leyline.RISK_REASON_ISOLATION_VIOLATION
            found.append(Finding("isolation_and_device", reason, text, effect="hold", grave=True))
    load, free = figures.gpu_util_percent, figures.gpu_mem_free_gb
    if load is not None and free is not None and load >= bounds.gpu_util_percent and free <= bounds.gpu_free_gb:
        text = f"The device is at {load:.0f} % with {free:.2f} GiB free."
        reason = leyline.RISK_REASON_DEVICE_PRESSURE_HIGH
        found.append(Finding("isolation_and_device", reason, text, free, bounds.gpu_free_gb, "hold"))
    busy = figures.cpu_util_percent
    if busy is not None and busy >= bounds.cpu_util_percent:
        on_processor = now.seen.device_type in ("", "cpu")
        effect: Effect = "note" if on_processor else "soften"
        reason, text = leyline.RISK_REASON_CPU_PRESSURE_HIGH, f"The processor is at {busy:.0f} %."
        found.append(Finding("isolation_and_device", reason, text, busy, bounds.cpu_util_percent, effect))
    return found


def optimizer_hints(action: Action, now: Situation) -> list[Finding]:
    """Refuse to raise the learning rate by much."""
    factor, bound = action.learning_rate_factor, now.thresholds.learning_rate_factor
    if action.kind != "OPTIMIZER" or factor <= bound:
        return []
    text = f"A learning rate factor of {factor:.2f} is too bold."
    return [Finding("optimizer_hints", leyline.RISK_REASON_OPTIMIZER_HINT, text, factor, bound, "soften")]


def stabilisation(action: Action, now: Situation) -> list[Finding]:
    """Soften while losses or gradients are restless.

    Batches differ, so the losses of every run scatter by some measure of their own: volatility over its bound that is
    not half as much again as what is usual in this run is told and changes nothing.
    """
    figures, bounds, usual = now.seen.figures, now.thresholds, now.memory.usual_volatility
    volatility = figures.loss_volatility
    as_usual = volatility is not None and usual is not None and volatility < UNUSUAL * usual
    looks = [
        (leyline.RISK_REASON_LOSS_VOLATILITY_HIGH, "loss volatility", figures.loss_volatility, bounds.loss_volatility),
        (leyline.RISK_REASON_GRAD_VARIANCE_HIGH, "gradient variance", figures.grad_var, bounds.grad_var),
        (leyline.RISK_REASON_GRAD_CONFLICT_HIGH, "gradient conflict", figures.grad_conflict_rate, bounds.grad_conflict),
    ]
    return [
        Finding("stabilisation", reason, f"The {name} is {value:.3f}.", value, bound, _effect(name, as_usual))
        for reason, name, value, bound in looks
        if value is not None and value >= bound
    ]


def _effect(name: str, as_usual: bool) -> Effect:
    return "note" if as_usual and name == "loss volatility" else "soften"


def conservative_recovery(action: Action, now: Situation) -> list[Finding]:
    """Tell how far a run is on its way out of conservative mode; it stays on until the way is walked."""
    if now.mode.state != leyline.CIRCUIT_STATE_HALF_OPEN:
        return []
    text = f"{now.mode.healthy} healthy evaluations in a row on the way out of conservative mode."
    reason = leyline.RISK_REASON_CONSERVATIVE_MODE
    return [Finding("conservative_recovery", reason, text, float(now.mode.healthy), effect="hold")]
