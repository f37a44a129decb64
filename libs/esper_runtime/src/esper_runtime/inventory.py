"""What a host has: its model, its sites, and the seeds attached to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from esper_core.blueprints import SiteContract
from esper_runtime import stages
from esper_runtime.contracts import Site
from esper_runtime.errors import SeedStateError, UnknownSeedError, UnknownSiteError
from esper_runtime.graft import Graft
from esper_runtime.naming import NamedTensor, named_buffers, named_parameters
from esper_runtime.sites import check_sites, holder_of, measure_sites, submodule_at
from esper_runtime.topology import GraftRecord, Topology


class Inventory:
    """The part of a host that only looks; `Host` says what the arguments mean."""

    def __init__(self, model: nn.Module, sites: Sequence[Site]) -> None:
        check_sites(model, sites)
        self.model = model
        self._sites = {site.name: site for site in sites}
        self._records: dict[str, GraftRecord] = {}
        self._grafts: dict[str, Graft] = {}
        self._generation = 0

    @property
    def generation(self) -> int:
        """A counter that every change of the topology raises."""
        return self._generation

    @property
    def sites(self) -> tuple[Site, ...]:
        """The declared sites, with their contracts once measured."""
        return tuple(self._sites.values())

    def site(self, name: str) -> Site:
        """Return a site by name, or raise UnknownSiteError."""
        if name not in self._sites:
            raise UnknownSiteError(f"There is no site {name!r}; the host declares {', '.join(self._sites) or 'none'}.")
        return self._sites[name]

    def contract(self, site: str) -> SiteContract:
        """Return the contract of a site that has been measured or declared."""
        contract = self.site(site).contract
        if contract is None:
            raise SeedStateError(f"Site {site!r} has no contract yet; measure the host on a sample batch first.")
        return contract

    def seeds(self) -> tuple[GraftRecord, ...]:
        """Return all attached seeds, fossilised ones included, in the order of attachment."""
        return tuple(self._current(seed_id) for seed_id in self._records)

    def seed(self, seed_id: str) -> GraftRecord:
        """Return one seed's record, or raise UnknownSeedError."""
        self._require(seed_id)
        return self._current(seed_id)

    def stands(self, seed_id: str) -> bool:
        """Say whether the graft of a seed is still in the model, where other code may have taken it out."""
        self._require(seed_id)
        graft = self._grafts[seed_id]
        return holder_of(self.model, self.site(graft.site), graft) is not None

    def check_sites(self, *names: str) -> None:
        """Refuse to go on with a model that has lost one of these sites, or of all declared ones, where none is named.

        Raises
        ------
        UnknownSiteError
            Naming the site and its submodule.
        """
        for name in names or tuple(self._sites):
            submodule_at(self.model, self.site(name))

    def graft(self, seed_id: str) -> Graft:
        """Return the module that carries a seed, or raise UnknownSeedError."""
        self._require(seed_id)
        return self._grafts[seed_id]

    def topology(self) -> Topology:
        """Return what has been grown, as data."""
        return Topology(self._generation, self.seeds())

    def named_parameters(self) -> Iterator[NamedTensor]:
        """Walk all parameters under their stable names."""
        return named_parameters(self.model)

    def named_buffers(self) -> Iterator[NamedTensor]:
        """Walk all buffers under their stable names."""
        return named_buffers(self.model)

    def parameter_count(self) -> int:
        """Return the number of parameters of the model as it stands."""
        return sum(found.tensor.numel() for found in self.named_parameters())

    def measure(self, sample: Any, forward: Callable[[nn.Module, Any], Any] | None = None) -> None:
        """Measure every site on one batch, leaving no trace in the model.

        Parameters
        ----------
        sample : Any
            One batch of inputs.
        forward : callable, optional
            How to run the model on it; by default positional arguments.
        """
        self._sites = {site.name: site for site in measure_sites(self.model, self.sites, sample, forward)}

    def _require(self, seed_id: str) -> GraftRecord:
        if seed_id not in self._records:
            known = ", ".join(self._records) or "none"
            raise UnknownSeedError(f"No seed {seed_id!r} is attached; attached are: {known}.")
        return self._records[seed_id]

    def _current(self, seed_id: str) -> GraftRecord:
        return replace(self._records[seed_id], alpha=self._grafts[seed_id].alpha_value)

    def _changeable(self, seed_id: str) -> GraftRecord:
        if self._require(seed_id).stage == stages.FOSSILIZED:
            raise SeedStateError(f"Seed {seed_id} is part of the host; only a rollback can take it out.")
        return self._current(seed_id)
