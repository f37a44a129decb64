"""What a host refuses: seeds that do not fit, sites that cannot be, moves out of turn. It stays as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper_core.errors import AlreadyExistsError, ValidationError
from esper_runtime import BlendSpec, Host, Site, SiteContract, modes, stages
from esper_runtime.errors import (
    BlendError,
    OwnershipConflictError,
    SeedStateError,
    SiteContractError,
    UnknownSeedError,
    UnknownSiteError,
)
from support.growth import SEED, SITES, batch, grow, kernel, tiny_host, tiny_model


def test_what_does_not_fit_is_refused_and_leaves_nothing() -> None:
    host = tiny_host()
    before = list(host.model.state_dict())
    spec, seed = kernel(host)
    with pytest.raises(UnknownSiteError):
        host.germinate("nowhere", seed, seed_id=SEED, kernel=spec)
    with pytest.raises(SiteContractError):
        host.germinate("hidden", nn.Linear(10, 9), seed_id=SEED)
    with pytest.raises(SiteContractError):
        host.germinate("hidden", nn.Linear(9, 10), seed_id=SEED)
    with pytest.raises(BlendError):
        host.germinate("hidden", seed, seed_id=SEED, blend=BlendSpec(modes.CHANNEL, alpha_vec=(1.0, 1.0)))
    with pytest.raises(OwnershipConflictError):
        host.germinate("hidden", host.model.get_submodule("middle"), seed_id=SEED)
    assert list(host.model.state_dict()) == before and not host.seeds() and host.generation == 0
    host.germinate("hidden", seed, seed_id=SEED, kernel=spec)
    with pytest.raises(AlreadyExistsError):
        grow(host)
    with pytest.raises(UnknownSeedError):
        host.cull("another")
    with pytest.raises(ValidationError):
        host.set_stage(SEED, stages.FOSSILIZED)
    with pytest.raises(ValidationError):
        host.set_stage(SEED, stages.TRAINING, isolation=0)
    with pytest.raises(SeedStateError):
        host.fossilise(SEED)


def test_a_fossilised_seed_stays() -> None:
    host = tiny_host()
    grow(host)
    host.set_stage(SEED, stages.PROBATIONARY)
    host.fossilise(SEED)
    with pytest.raises(SeedStateError):
        host.cull(SEED)
    with pytest.raises(SeedStateError):
        host.set_stage(SEED, stages.TRAINING)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.other = self.one
        self.pair = nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.pair(self.other(self.one(x)))
        return output  # type: ignore[no-any-return]


def test_sites_that_cannot_be_are_refused() -> None:
    with pytest.raises(UnknownSiteError):
        Host(tiny_model(), [Site("x", "body.9", "features")])
    with pytest.raises(UnknownSiteError):
        Host(tiny_model(), [Site("x", "", "features")])
    with pytest.raises(ValidationError, match="share"):
        Host(tiny_model(), [SITES[0], SITES[0]])
    with pytest.raises(ValidationError, match="several places"):
        Host(Twice(), [Site("x", "one", "features")])
    with pytest.raises(SiteContractError, match="tuple"):
        Host(Twice(), [Site("x", "pair", "sequence")], sample=torch.zeros(2, 3, 4))
    with pytest.raises(SiteContractError, match="dimensions"):
        Host(tiny_model(), [Site("x", "body", "sequence")], sample=batch()[0])
    with pytest.raises(SiteContractError, match="declares"):
        Host(tiny_model(), [Site("x", "body", "features", SiteContract("features", 3))], sample=batch()[0])
