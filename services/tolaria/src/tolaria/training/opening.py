"""Opening a session: task, data, model and optimizer, made from the plan and one random seed."""

from __future__ import annotations

import torch
from torch import nn

from esper_core.errors import ConfigurationError, ValidationError
from esper_runtime.contracts import Site
from esper_runtime.host import Host
from esper_runtime.undisturbed import undisturbed
from esper_tasks import Batch, Task
from tolaria.training.flops import FlopMeter
from tolaria.training.learning_rate import LearningRate
from tolaria.training.optimizer import build_optimizer, host_parameters
from tolaria.training.plan import RunPlan
from tolaria.training.precision import open_precision
from tolaria.training.session import Session


def open_session(plan: RunPlan, task: Task) -> Session:
    """Build everything that a run trains with; the same plan gives the same session, bit for bit.

    Raises
    ------
    ValidationError
        If the plan names a site, batch size or model parameter that the task doesn't have, or a precision in which
        the device does not compute, or the task's loss is not one per example.
    ConfigurationError
        If the device isn't there.
    """
    device = _device(plan.device)
    torch.set_num_threads(plan.threads)
    torch.manual_seed(plan.random_seed)
    model = task.build_model(plan.random_seed, **plan.parameters).to(device)
    model.train()
    data = task.data(plan.random_seed)
    sampler = data.sampler(plan.batch_size)
    # What goes through the model at once: a whole batch might not fit where somebody asked for parts.
    head = data.train.head(plan.batch_size // plan.gradient_accumulation)
    sample = Batch(head.inputs.to(device), head.targets.to(device))
    host = Host(model, _sites(plan, list(task.sites(model))), sample.inputs)
    _check_losses(task, model, sample)
    session = Session(
        plan=plan,
        task=task,
        data=data,
        host=host,
        optimizer=build_optimizer(plan.optimizer, host_parameters(host)),
        learning_rate=LearningRate(plan.learning_rate),
        sampler=sampler,
        meter=FlopMeter(task, sample, plan.gradient_accumulation),
        device=device,
        precision=open_precision(plan.precision, device),
    )
    session.counters.parameters_initial = host.parameter_count()
    return session


def _sites(plan: RunPlan, declared: list[Site]) -> list[Site]:
    known = {site.name: site for site in declared}
    for scale in plan.gradient_scales:
        if scale.site and scale.site not in known:
            raise ValidationError(
                f"Task {plan.task!r} has no site {scale.site!r} whose gradients could be scaled.",
                field="spec.gradient_scales.site",
                allowed=tuple(known),
            )
    for name in plan.growth.sites:
        if name not in known:
            raise ValidationError(
                f"Task {plan.task!r} has no site {name!r}.", field="spec.growth.sites", allowed=tuple(known)
            )
    return [known[name] for name in plan.growth.sites] or declared


def _check_losses(task: Task, model: nn.Module, sample: Batch) -> None:
    """Refuse a loss whose outputs and targets broadcast: its mean is a number like any other, over the wrong pairs."""
    with torch.no_grad(), undisturbed(model):
        losses = task.loss(model(sample.inputs), sample.targets)
    if losses.shape != (len(sample),):
        raise ValidationError(
            f"The loss of task {task.name!r} has shape {tuple(losses.shape)} on a batch of {len(sample)} examples. "
            f"Give its outputs and targets shapes that do not broadcast.",
            field="task.loss",
            allowed="one loss per example, shape (batch,)",
        )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValidationError(
            f"There is no device {name!r}.", field="spec.device", allowed="cpu, cuda or cuda:n"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise ValidationError(f"Runs cannot use {name!r}.", field="spec.device", allowed="cpu, cuda or cuda:n")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("This machine has no usable CUDA device. Ask for the device cpu.")
    return device
