"""The module that stands between a site and the rest of the host while a seed is attached."""

from __future__ import annotations

from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from esper_core.blending.modes import CHANNEL, CONVEX, RESIDUAL
from esper_core.blueprints import SiteContract
from esper_runtime.blending import BlendSpec, channel, clipped, confidence, convex, residual, straight_through
from esper_runtime.blueprints.operator import Operator
from esper_runtime.contracts import received
from esper_runtime.undisturbed import preserved_random_state

Route = Literal["bypass", "live", "straight_through"]
ROUTES: Final[tuple[Route, ...]] = ("bypass", "live", "straight_through")


class Graft(nn.Module):
    """The original module, a seed that reads its output, and the alpha by which both are blended.

    The original is kept as the same object, so that removing the graft restores the host exactly. `route` says what the
    seed does to the output: nothing (`bypass`), blended (`live`), or gradient only (`straight_through`).

    Parameters
    ----------
    host : nn.Module
        What stood at the site; it may be a graft itself.
    seed : nn.Module
        Reads the site's output and answers with the same shape. With an attribute `wants_input` that is true, it is
        also given what the site's submodule received.
    seed_id, site : str
        Who this is and where.
    contract : SiteContract
        Shape of the site.
    blend : BlendSpec
        How the outputs meet.
    """

    alpha: Tensor
    alpha_vec: Tensor | None

    def __init__(
        self, host: nn.Module, seed: nn.Module, *, seed_id: str, site: str, contract: SiteContract, blend: BlendSpec
    ) -> None:
        super().__init__()
        self.seed_id = seed_id
        self.site = site
        self.contract = contract
        self.route: Route = "bypass"
        self.logits_BK: Tensor | None = None
        self.alpha_value = 0.0
        self.wants_input = bool(getattr(seed, "wants_input", False))
        device = _device_of(seed, host)
        self.register_buffer("alpha", torch.zeros((), device=device), persistent=False)
        self.register_buffer("alpha_vec", None, persistent=False)
        # Last, because from here on unknown attributes are looked up in the host.
        self.host = host
        self.seed = seed
        self.training = host.training
        self.set_blend(blend)

    def set_blend(self, blend: BlendSpec) -> None:
        """Take new blend settings; alpha stays where it is."""
        blend.check_contract(self.contract)
        self.blend = blend
        self.alpha_vec = torch.tensor(blend.alpha_vec, device=self.alpha.device) if blend.alpha_vec else None
        if isinstance(self.seed, Operator):
            self.seed.replaces = blend.mode != RESIDUAL

    def set_alpha(self, value: float) -> None:
        """Put a new tensor in alpha's place; one that a pending backward pass holds keeps its value."""
        self.alpha_value = value
        self.alpha = torch.full((), value, dtype=self.alpha.dtype, device=self.alpha.device)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the original, then let the seed act on its output as the route says."""
        h: Tensor = self.host(*args, **kwargs)
        if self.route == "bypass":
            return h
        read = (received(args, h, self.contract, self.site),) if self.wants_input else ()
        if self.route == "straight_through":
            return self._beside(h, *read)
        return self.blended(h, self.seed(h, *read))

    def _beside(self, h: Tensor, *read: Tensor) -> Tensor:
        """Forward the host's output untouched while the seed learns from its gradient."""
        # A seed that draws random numbers must not change those that the rest of the host draws after it.
        with preserved_random_state():
            s = self.seed(h.detach(), *(x.detach() for x in read))
        return straight_through(h, clipped(s, h), self.alpha)

    def blended(self, h: Tensor, s: Tensor) -> Tensor:
        """Return the blend of both outputs under the present settings."""
        if self.blend.mode == RESIDUAL:
            return residual(h, s, self.alpha)
        if self.blend.mode == CONVEX:
            return convex(h, s, self.alpha)
        if self.blend.mode == CHANNEL and self.alpha_vec is not None:
            return channel(h, s, self.alpha, self.alpha_vec, self.contract.channel_dim)
        return confidence(h, s, self.alpha, self.blend, self.logits_BK)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # A host that reads an attribute of its submodule (`self.fc.in_features`) must not notice the graft.
            return getattr(super().__getattr__("host"), name)


def _device_of(*modules: nn.Module) -> torch.device:
    for module in modules:
        for tensor in module.parameters():
            return tensor.device
    return torch.device("cpu")
