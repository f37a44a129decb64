"""The host: a user's model with declared sites, and the operations that change its topology.

A dormant host is untouched: no wrapper, no hook, the same state-dict keys. Every operation here belongs at a fence, the
moment between two optimizer steps; none of them is thread-safe against a running step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from torch import Tensor, nn

from esper_core.blueprints import KernelSpec
from esper_core.errors import AlreadyExistsError
from esper_runtime import stages
from esper_runtime.alpha import AlphaRamp
from esper_runtime.blending import BlendSpec
from esper_runtime.contracts import Site, check_module
from esper_runtime.errors import SeedStateError
from esper_runtime.graft import Graft
from esper_runtime.isolation import frozen, keeps_statistics
from esper_runtime.ownership import HOST, seed_owner
from esper_runtime.surgery import Surgery
from esper_runtime.topology import GraftRecord
from esper_runtime.undisturbed import preserved_buffers, preserved_random_state

DEFAULT_TRAINING_ALPHA: Final = 0.5


class Host(Surgery):
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
        super().__init__(model, sites)
        if sample is not None:
            self.measure(sample)

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
            If the site is unknown or no longer in the model, the id is taken, shapes do not fit, or a parameter belongs
            to another.
        """
        if seed_id in self._records:
            raise AlreadyExistsError(f"A seed {seed_id!r} is already attached; use another id.")
        blend = blend or BlendSpec()
        self.check_sites(site)
        if kernel is not None:
            self.site(site).admit(kernel.blueprint_id)
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
        ramp = former.ramp if stage in (stages.TRAINING, stages.BLENDING) else None
        ramp = None if ramp is None else replace(ramp, initial=alpha)
        self._apply(replace(former, stage=stage, isolation=isolation, alpha=alpha, ramp=ramp))

    def set_blend(self, seed_id: str, blend: BlendSpec, *, start_step: int, end_step: int) -> None:
        """Let alpha travel from where it is to the blend's target between two optimizer steps, once in BLENDING."""
        record = self._changeable(seed_id)
        blend.check_contract(self.contract(record.site))
        ramp = AlphaRamp(start_step, end_step, blend.target_alpha, record.alpha, blend.schedule)
        self._apply(replace(record, blend=blend, ramp=ramp))

    def hold_alpha(self, seed_id: str, held: bool = True) -> None:
        """Hold alpha where it is, or let it go on; the ramp is delayed by the time that it was held."""
        self._require(seed_id)
        (self._held.add if held else self._held.discard)(seed_id)

    def advance(self, step: int) -> None:
        """Move every alpha that is on its way to its value at this step, and forget the logits of a former one."""
        elapsed = 0 if self._last_step is None else max(0, step - self._last_step)
        if step != self._last_step:
            self._forget_logits()
        self._last_step = step
        for seed_id, record in self._records.items():
            if record.ramp is None or record.stage != stages.BLENDING:
                continue
            if seed_id in self._held:
                self._records[seed_id] = replace(record, ramp=record.ramp.delayed(elapsed))
            else:
                self._grafts[seed_id].set_alpha(record.ramp.value(step))

    def set_confidence_logits(self, seed_id: str, logits_BK: Tensor | None) -> None:
        """Hand over the policy's logits for the batch of this step, as CONFIDENCE blending needs them.

        Parameters
        ----------
        seed_id : str
            The seed.
        logits_BK : Tensor, optional
            One row per sample; they are forgotten when `advance` begins another step, because the logits of a former
            batch would gate the wrong samples without anybody noticing.
        """
        self.graft(seed_id).logits_BK = logits_BK

    def cull(self, seed_id: str) -> None:
        """Take a seed out and put the original object back; the host is as if the seed had never been attached.

        Where other code has taken the graft out of the model, what that code has put there stays.

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
                f"Seed {seed_id} is {stages.stage_name(record.stage)}; keep it from SHADOWING or PROBATIONARY."
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
        # Norms are held by the freeze already; what other modules count or estimate in a forward pass is put back.
        counting = [module for module in modules if not keeps_statistics(module)]
        with frozen(others, modules), preserved_random_state(), preserved_buffers(counting):
            graft.route = "live"
            graft.set_alpha(graft.blend.target_alpha)
            try:
                yield
            finally:
                graft.route = route
                graft.set_alpha(alpha)

    def _forget_logits(self) -> None:
        for graft in self._grafts.values():
            graft.logits_BK = None

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
