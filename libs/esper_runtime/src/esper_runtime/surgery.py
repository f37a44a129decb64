"""How grafts get in and out of a model, and what goes with that: ownership, routes and isolation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from esper_runtime import stages
from esper_runtime.contracts import Site
from esper_runtime.graft import Route
from esper_runtime.inventory import Inventory
from esper_runtime.isolation import Freeze
from esper_runtime.naming import seed_tensor_name
from esper_runtime.ownership import HOST, OwnershipRegistry, seed_owner
from esper_runtime.sites import link, unlink
from esper_runtime.topology import GraftRecord, Topology

_ROUTES: dict[tuple[int, int], Route] = {
    **dict.fromkeys(((stages.GERMINATED, isolation) for isolation in stages.ISOLATIONS), "bypass"),
    (stages.TRAINING, stages.SHADOW): "bypass",
    (stages.TRAINING, stages.STRAIGHT_THROUGH): "straight_through",
}
"""What a seed does to the output, by stage and isolation; live where nothing is listed."""


class Surgery(Inventory):
    """The part of a host that changes the model; `Host` offers it as operations."""

    def __init__(self, model: nn.Module, sites: Sequence[Site]) -> None:
        super().__init__(model, sites)
        self.ownership = OwnershipRegistry()
        self._freeze = Freeze()
        self._held: set[str] = set()
        self._last_step: int | None = None
        self.ownership.register(HOST, self._parameters_of(None))

    def replace_grafts(self, topology: Topology, seeds: Mapping[str, nn.Module], sites: Iterable[str]) -> None:
        """Rebuild the stacks at some sites from a topology, and make every record of it true; for `rebuild` only."""
        rebuilt = set(sites)
        for record in reversed([record for record in self._records.values() if record.site in rebuilt]):
            self._detach(record.seed_id)
        for record in topology.grafts:
            if record.site in rebuilt:
                self._adapt(seeds[record.seed_id])
                self._attach(record, seeds[record.seed_id])
            else:
                self._take_over(record)
        self._records = {record.seed_id: self._records[record.seed_id] for record in topology.grafts}
        self._last_step = None
        self._held.clear()
        self._generation = max(self._generation, topology.generation) + (1 if rebuilt else 0)

    def _take_over(self, record: GraftRecord) -> None:
        """Give an attached seed the state of a record, and its parameters the owner that goes with it."""
        owner = seed_owner(record.seed_id)
        names = [
            seed_tensor_name(record.seed_id, name) for name, _ in self.graft(record.seed_id).seed.named_parameters()
        ]
        self.ownership.assign(names, HOST if record.stage == stages.FOSSILIZED else owner)
        self._apply(record)

    def _adapt(self, seed: nn.Module) -> None:
        for found in self.named_parameters():
            if found.tensor.is_floating_point():
                seed.to(device=found.tensor.device, dtype=found.tensor.dtype)
                return

    def _parameters_of(self, seed_id: str | None) -> list[tuple[str, nn.Parameter]]:
        found = ((item.name, item.tensor) for item in self.named_parameters() if item.seed_id == seed_id)
        return [(name, tensor) for name, tensor in found if isinstance(tensor, nn.Parameter)]

    def _attach(self, record: GraftRecord, seed: nn.Module) -> None:
        named = [(seed_tensor_name(record.seed_id, name), parameter) for name, parameter in seed.named_parameters()]
        self.ownership.register(HOST if record.stage == stages.FOSSILIZED else seed_owner(record.seed_id), named)
        site = self.site(record.site)
        graft = link(self.model, site, seed, record.seed_id, record.blend)
        self._grafts[record.seed_id] = graft
        self._apply(record)

    def _detach(self, seed_id: str) -> nn.Module:
        graft = self._grafts.pop(seed_id)
        record = self._records.pop(seed_id)
        self._held.discard(seed_id)
        unlink(self.model, self.site(record.site), graft)
        if record.stage == stages.FOSSILIZED:
            self.ownership.forget(seed_tensor_name(seed_id, name) for name, _ in graft.seed.named_parameters())
        else:
            self.ownership.release(seed_owner(seed_id))
        self._isolate()
        return graft.seed

    def _apply(self, record: GraftRecord) -> None:
        """Make a seed's record true: route, alpha, blend and isolation."""
        graft = self._grafts[record.seed_id]
        self._records[record.seed_id] = record
        if graft.blend != record.blend:
            graft.set_blend(record.blend)
        graft.set_alpha(record.alpha)
        graft.route = _ROUTES.get((record.stage, record.isolation), "live")
        self._isolate()

    def _isolate(self) -> None:
        learning = {
            seed_id
            for seed_id, record in self._records.items()
            if record.stage == stages.TRAINING and record.isolation == stages.FREEZE
        }
        still, modules = self._apart_from(learning) if learning else ({}, [])
        self._freeze.apply(still, modules)

    def _apart_from(self, seed_ids: Iterable[str]) -> tuple[Mapping[str, nn.Parameter], list[nn.Module]]:
        """Return every parameter and module of the model except those of some seeds."""
        apart = set(seed_ids)
        kept = {id(module) for seed_id in apart for module in self._grafts[seed_id].seed.modules()}
        parameters = {
            item.name: item.tensor
            for item in self.named_parameters()
            if item.seed_id not in apart and isinstance(item.tensor, nn.Parameter)
        }
        return parameters, [module for module in self.model.modules() if id(module) not in kept]
