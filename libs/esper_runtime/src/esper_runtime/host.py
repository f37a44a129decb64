"""The host: a user's model with declared sites, and the operations that change its topology.

A dormant host is untouched: no wrapper, no hook, the same state-dict keys. Every operation here belongs at a fence, the
moment between two optimizer steps; none of them is thread-safe against a running step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from esper_core.blueprints import KernelSpec, SiteContract
from esper_core.errors import AlreadyExistsError
from torch import Tensor, nn

from esper_runtime import stages
from esper_runtime.alpha import AlphaRamp
from esper_runtime.blending import BlendSpec
from esper_runtime.contracts import Site, check_module
from esper_runtime.errors import SeedStateError, UnknownSeedError, UnknownSiteError
from esper_runtime.graft import Graft
from esper_runtime.isolation import Freeze, frozen
from esper_runtime.naming import NamedTensor, named_buffers, named_parameters, seed_tensor_name
from esper_runtime.ownership import HOST, OwnershipRegistry, seed_owner
from esper_runtime.sites import check_sites, link, measure_sites, unlink
from esper_runtime.topology import GraftRecord, Topology
from esper_runtime.undisturbed import preserved_random_state

DEFAULT_TRAINING_ALPHA = 0.5


class Host:
    """A model that may grow at its sites.

    Parameters
    ----------
    model : nn.Module
        The user's network; the host keeps and changes this very object.
    sites : Sequence[Site]
        Where it may grow.
    sample : optional
        One batch of inputs: a tensor, or a tuple of positional arguments. When given, every site is measured at once.

    Raises
    ------
    UnknownSiteError
        If a site names a submodule that the model does not have.
    SiteContractError
        If a site's output is not what its contract or kind says.
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site], sample: Any = None) -> None:
        check_sites(model, sites)
        self.model = model
        self.ownership = OwnershipRegistry()
        self._sites = {site.name: site for site in sites}
        self._records: dict[str, GraftRecord] = {}
        self._grafts: dict[str, Graft] = {}
        self._freeze = Freeze()
        self._held: set[str] = set()
        self._generation = 0
        self._last_step: int | None = None
        self.ownership.register(HOST, self._parameters_of(None))
        if sample is not None:
            self.measure(sample)

    # What is there

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

    # Growing

    def germinate(
        self,
        site: str,
        seed: nn.Module,
        *,
        seed_id: str,
        blend: BlendSpec | None = None,
        kernel: KernelSpec | None = None,
    ) -> Graft:
        """Attach a seed in GERMINATED: no effect and no gradient yet.

        Parameters
        ----------
        site : str
            Name of a measured site. Grafts at the same site are stacked; each reads what the former ones leave.
        seed : nn.Module
            Reads the site's output and answers with the same shape.
        seed_id : str
            Id of the seed, used in the names of its parameters.
        blend : BlendSpec, optional
            How the outputs meet; RESIDUAL when absent.
        kernel : KernelSpec, optional
            How the seed was built; without it the topology cannot be rebuilt in another process.

        Raises
        ------
        UnknownSiteError, AlreadyExistsError, SiteContractError, BlendError, OwnershipConflictError
            If the site is unknown, the id is taken, shapes do not fit, or a parameter belongs to another.
        """
        if seed_id in self._records:
            raise AlreadyExistsError(f"A seed {seed_id!r} is already attached; use another id.")
        blend = blend or BlendSpec()
        self._adapt(seed)
        check_module(seed, self.contract(site))
        blend.check_contract(self.contract(site))
        record = GraftRecord(seed_id, site, stages.GERMINATED, stages.FREEZE, blend, 0.0, None, kernel)
        self._attach(record, seed)
        self._generation += 1
        return self._grafts[seed_id]

    def set_stage(
        self, seed_id: str, stage: int, *, isolation: int = stages.FREEZE, alpha: float | None = None
    ) -> None:
        """Put a seed into a stage from GERMINATED to PROBATIONARY; the order is Kasmina's business.

        Parameters
        ----------
        seed_id : str
            The seed.
        stage : int
            Leyline's SeedStage.
        isolation : int
            Leyline's IsolationMode; only looked at in TRAINING.
        alpha : float, optional
            Alpha in TRAINING; by default 0.5 under freeze, where the seed learns live, and the target elsewhere.
        """
        stages.check_settable(stage)
        stages.check_isolation(isolation)
        former = self._changeable(seed_id)
        alpha = self._alpha_for(former, stage, isolation, alpha)
        self._apply(replace(former, stage=stage, isolation=isolation, alpha=alpha, ramp=None))

    def set_blend(self, seed_id: str, blend: BlendSpec, *, start_step: int, end_step: int) -> None:
        """Let alpha travel from where it is to the blend's target between two optimizer steps."""
        record = self._changeable(seed_id)
        blend.check_contract(self.contract(record.site))
        ramp = AlphaRamp(start_step, end_step, blend.target_alpha, record.alpha, blend.schedule)
        self._apply(replace(record, blend=blend, ramp=ramp))

    def hold_alpha(self, seed_id: str, held: bool = True) -> None:
        """Hold alpha where it is, or let it go on; the ramp is delayed by the time that it was held."""
        self._require(seed_id)
        (self._held.add if held else self._held.discard)(seed_id)

    def advance(self, step: int) -> None:
        """Move every alpha that is on its way to its value at this optimizer step."""
        elapsed = 0 if self._last_step is None else max(0, step - self._last_step)
        self._last_step = step
        for seed_id, record in self._records.items():
            if record.ramp is None or record.stage != stages.BLENDING:
                continue
            if seed_id in self._held:
                self._records[seed_id] = replace(record, ramp=record.ramp.delayed(elapsed))
            else:
                self._grafts[seed_id].set_alpha(record.ramp.value(step))

    def set_confidence_logits(self, seed_id: str, logits_BK: Tensor | None) -> None:
        """Hand over the policy's logits for the next batch, as CONFIDENCE blending needs them."""
        self.graft(seed_id).logits_BK = logits_BK

    # Settling

    def cull(self, seed_id: str) -> None:
        """Take a seed out and put the original object back; the host is as if the seed had never been attached.

        Raises
        ------
        UnknownSeedError, SeedStateError
            If there is no such seed, or it has become part of the host.
        """
        self._changeable(seed_id)
        self._detach(seed_id)
        self._generation += 1

    def fossilise(self, seed_id: str) -> None:
        """Make a seed part of the host for good; its parameters keep their names and change their owner.

        Raises
        ------
        SeedStateError
            If the seed is not in SHADOWING or PROBATIONARY.
        """
        record = self._changeable(seed_id)
        if record.stage not in stages.FULL_ALPHA:
            raise SeedStateError(
                f"Seed {seed_id} is {stages.stage_name(record.stage)}; only SHADOWING and PROBATIONARY seeds can be kept."
            )
        self.ownership.transfer(seed_owner(seed_id), HOST)
        self._apply(replace(record, stage=stages.FOSSILIZED, ramp=None))
        self._generation += 1

    @contextmanager
    def shadow(self, seed_id: str) -> Iterator[None]:
        """Run the block with one seed live at its target alpha and everything else detached.

        A loss computed in the block sends gradients to that seed alone, and leaves random state, running statistics and
        the host's gradients as they were.
        """
        graft = self.graft(seed_id)
        route, alpha = graft.route, graft.alpha_value
        others, modules = self._apart_from({seed_id})
        with frozen(others, modules), preserved_random_state():
            graft.route = "live"
            graft.set_alpha(graft.blend.target_alpha)
            try:
                yield
            finally:
                graft.route = route
                graft.set_alpha(alpha)

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

    # Inside

    def _take_over(self, record: GraftRecord) -> None:
        """Give an attached seed the state of a record, and its parameters the owner that goes with it."""
        owner = seed_owner(record.seed_id)
        names = [seed_tensor_name(record.seed_id, name) for name, _ in self.graft(record.seed_id).seed.named_parameters()]
        self.ownership.assign(names, HOST if record.stage == stages.FOSSILIZED else owner)
        self._apply(record)

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

    def _alpha_for(self, former: GraftRecord, stage: int, isolation: int, alpha: float | None) -> float:
        if stage == stages.GERMINATED:
            return 0.0
        if stage == stages.TRAINING:
            live = isolation == stages.FREEZE
            return alpha if alpha is not None else (DEFAULT_TRAINING_ALPHA if live else former.blend.target_alpha)
        if stage == stages.BLENDING:
            # A seed that learned beside the host starts from nothing; one that learned live goes on from where it is.
            return former.alpha if self._grafts[former.seed_id].route == "live" else 0.0
        return former.blend.target_alpha

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


_ROUTES: dict[tuple[int, int], Any] = {
    **dict.fromkeys(((stages.GERMINATED, isolation) for isolation in stages.ISOLATIONS), "bypass"),
    (stages.TRAINING, stages.SHADOW): "bypass",
    (stages.TRAINING, stages.STRAIGHT_THROUGH): "straight_through",
}
"""What a seed does to the output, by stage and isolation; live where nothing is listed."""
