"""The yardstick: the same model, data and optimizer in the loop that everybody writes first, without anything of Esper.

A grown model is rendered into plain modules: h + alpha * s(h), or s(h, x) of a seed that widens, where a graft was,
parameters frozen where it froze them.
"""

from __future__ import annotations

import copy
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_core.blending.modes import CONVEX, RESIDUAL
from esper_runtime.graft import Graft
from tolaria.training.session import Session

_OPTIMIZERS: Final[dict[type[torch.optim.Optimizer], tuple[str, ...]]] = {
    torch.optim.Adam: ("lr", "weight_decay", "fused"),
    torch.optim.AdamW: ("lr", "weight_decay", "fused"),
    torch.optim.SGD: ("lr", "weight_decay", "momentum", "fused"),
}


class PlainGraft(nn.Module):
    """What a graft computes, written by hand."""

    def __init__(self, host: nn.Module, seed: nn.Module, alpha: float, *, convex: bool, wants_input: bool) -> None:
        super().__init__()
        self.host = host
        self.seed = seed
        self.alpha = alpha
        self.convex = convex
        self.wants_input = wants_input

    def forward(self, inputs: Tensor) -> Tensor:
        """Blend the seed's output with what it reads."""
        h = self.host(inputs)
        s = self.seed(h, inputs) if self.wants_input else self.seed(h)
        blended: Tensor = torch.lerp(h, s, self.alpha) if self.convex else h + self.alpha * s
        return blended


class BareLoop:
    """Forward, loss, backward, optimizer step; on a copy of a session's model as it stands now.

    Parameters
    ----------
    session : Session
        The run of a classification task; it is copied and not touched.
    """

    def __init__(self, session: Session) -> None:
        found = copy.deepcopy(session.host.model)
        copies = dict(found.named_parameters())
        names = {id(tensor): name for name, tensor in session.host.model.named_parameters()}
        groups = [
            {"params": [copies[names[id(tensor)]] for tensor in group["params"]], **_options(session.optimizer, group)}
            for group in session.optimizer.param_groups
        ]
        self.model = plain(found)
        self._optimizer: Any = type(session.optimizer)(groups)  # type: ignore[call-arg]
        self._sampler = session.data.sampler(session.plan.batch_size)

    def step(self) -> None:
        """Make one step."""
        batch = self._sampler.next_batch()
        self._optimizer.zero_grad()
        F.cross_entropy(self.model(batch.inputs), batch.targets).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


def plain(module: nn.Module) -> nn.Module:
    """Return a model without grafts; the modules themselves are reused."""
    if isinstance(module, Graft):
        return _plain_graft(module)
    for name, child in list(module.named_children()):
        rendered = plain(child)
        if rendered is not child:
            setattr(module, name, rendered)
    return module


def _plain_graft(graft: Graft) -> nn.Module:
    host = plain(graft.host)
    if graft.route == "bypass":
        return host
    if graft.blend.mode not in (RESIDUAL, CONVEX):
        raise ValueError(f"there is no plain form of blend mode {graft.blend.mode}")
    convex = graft.blend.mode == CONVEX
    return PlainGraft(host, graft.seed, graft.alpha_value, convex=convex, wants_input=graft.wants_input)


def _options(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> dict[str, Any]:
    return {name: group[name] for name in _OPTIMIZERS[type(optimizer)]}
