"""Opening a session: task, data, model and optimizer, made from the plan and one random seed."""

from __future__ import annotations

import torch

from esper_core.errors import ConfigurationError, ValidationError
from esper_runtime.contracts import Site
from esper_runtime.host import Host
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
        the device does not compute.
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
    for name in plan.growth.sites:
        if name not in known:
            raise ValidationError(
                f"Task {plan.task!r} has no site {name!r}.", field="spec.growth.sites", allowed=tuple(known)
            )
    return [known[name] for name in plan.growth.sites] or declared


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
