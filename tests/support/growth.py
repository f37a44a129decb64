"""Tiny hosts, seeds and bits for tests of what happens beside the model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_runtime import BlendSpec, Host, KernelSpec, Site, SiteContract, load_kernel, materialise
from esper_runtime.blueprints import Operator
from esper_runtime.blueprints.mlp import MlpResidual

SEED = "run/hidden/1"
CONTRACTS: Mapping[str, SiteContract] = {
    "features": SiteContract("features", 12, inputs=12),
    "sequence": SiteContract("sequence", 8, length=6, inputs=8),
    "channels_1d": SiteContract("channels_1d", 6, length=10),
    "image": SiteContract("image", 4, height=6, width=5),
}


class TinyNet(nn.Module):
    """Batch norm, dropout and two places to grow, one inside the other's path."""

    def __init__(self, width: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1))
        self.middle = nn.Linear(width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 3) of x (B, 4)."""
        logits: Tensor = self.head(F.relu(self.middle(self.body(x))))
        return logits


class Carrier(nn.Module):
    """A host whose only site, `site`, has the shape of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.site = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Scaled input, of the same shape."""
        answer: Tensor = self.site(x * self.scale)
        return answer


SITES = (Site("hidden", "body", "features"), Site("deep", "middle", "features", depth=1))


def tiny_model(width: int = 10) -> TinyNet:
    """The same model at every call."""
    torch.manual_seed(3)
    return TinyNet(width)


def batch(seed: int = 0, size: int = 32) -> tuple[Tensor, Tensor]:
    """Inputs and classes that can be learned."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 4, generator=generator)
    return x, (x[:, 0] + x[:, 1] * x[:, 2] > 0).long() + (x[:, 3] > 1).long()


def tiny_host(model: nn.Module | None = None) -> Host:
    """A measured host that has grown nothing yet."""
    return Host(model or tiny_model(), SITES, sample=batch()[0])


def kernel(host: Host, site: str = "hidden", blueprint: str = "mlp_residual.v1") -> tuple[KernelSpec, Operator]:
    """A spec and a seed for a site."""
    spec = KernelSpec(blueprint, host.contract(site))
    return spec, load_kernel(spec, materialise(spec, seed=11))


def grow(host: Host, site: str = "hidden", seed_id: str = SEED, blend: BlendSpec | None = None) -> MlpResidual:
    """Germinate one seed and return it."""
    spec, seed = kernel(host, site)
    assert isinstance(seed, MlpResidual)
    host.germinate(site, seed, seed_id=seed_id, blend=blend, kernel=spec)
    return seed


def fed(seed: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """The arguments of a seed at a site of CONTRACTS, whose submodule receives as much as it answers."""
    return (x, x) if getattr(seed, "wants_input", False) else (x,)


def shake(module: nn.Module, seed: int = 5, scale: float = 0.5) -> None:
    """Move every parameter away from its zero-effect start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def train(host: Host, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    """Run a plain loop; batches depend on the step only."""
    for step in range(first, first + steps):
        x, y = batch(step)
        host.advance(step)
        optimizer.zero_grad()
        F.cross_entropy(host.model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def state_of(host: Host) -> dict[str, Tensor]:
    """A copy of every parameter and buffer by stable name."""
    found = [*host.named_parameters(), *host.named_buffers()]
    return {item.name: item.tensor.detach().clone() for item in found}


def equal_bits(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    """Whether two states have the same names and the same bits."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
