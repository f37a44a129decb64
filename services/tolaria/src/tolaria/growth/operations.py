"""What each directive does to model, optimizer and seed book. Called between two optimizer steps only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from esper_core import leyline
from esper_core.blending import BlendSpec, blend_from_message
from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import DependencyViolationError, EsperError, ValidationError
from esper_runtime import stages
from esper_runtime.errors import MissingLogitsError
from esper_runtime.topology import GraftRecord
from tolaria.growth.book import SeedEntry
from tolaria.growth.leftovers import is_attached, left_behind
from tolaria.growth.prepared import PreparedKernel, PreparedKernels
from tolaria.training.regrouping import Regrouping
from tolaria.training.session import Session


class GrowthOperations:
    """The operations on one session.

    Parameters
    ----------
    session : Session
        The run.
    prepared : PreparedKernels
        Kernels that may be attached.
    """

    def __init__(self, session: Session, prepared: PreparedKernels, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._session = session
        self._prepared = prepared
        self._regrouping = Regrouping(session, clock=clock)
        self._chosen_blends: dict[str, leyline.BlendConfig] = {}
        self._frozen: set[str] = set()
        kinds: Mapping[int, Callable[[leyline.Directive], bool]] = {
            leyline.DIRECTIVE_KIND_ATTACH: self._attach,
            leyline.DIRECTIVE_KIND_SET_STAGE: self._set_stage,
            leyline.DIRECTIVE_KIND_SET_BLEND: self._set_blend,
            leyline.DIRECTIVE_KIND_DETACH: lambda directive: self.detach(directive.seed_id),
            leyline.DIRECTIVE_KIND_FREEZE_ALPHA: self._freeze_alpha,
            leyline.DIRECTIVE_KIND_RESET: lambda directive: self._reset(directive.seed_id),
        }
        self._kinds: Final = kinds

    @property
    def generation(self) -> int:
        """Generation of the topology."""
        return self._session.host.generation

    def parameter_count(self, seed_id: str) -> int:
        """Return the parameters of a seed that is in the book or prepared, else 0."""
        entry = self._session.book.entries.get(seed_id)
        if entry is not None:
            return entry.parameter_count
        kernel = self._prepared.get(seed_id)
        return kernel.parameter_count if kernel is not None else 0

    def perform(self, directive: leyline.Directive) -> bool:
        """Carry out a directive; True where it removed a seed and nothing is left behind.

        Raises
        ------
        EsperError
            Of the class that says what is wrong; the model is as before then.
        """
        operation = self._kinds.get(directive.kind)
        if operation is None:
            raise ValidationError(
                f"A directive of kind {directive.kind} cannot be applied at a fence.",
                field="directive.kind",
                allowed="ATTACH, SET_STAGE, SET_BLEND, DETACH, FREEZE_ALPHA or RESET",
            )
        return operation(directive)

    def detach(self, seed_id: str) -> bool:
        """Take a seed out and restore the host exactly; say whether nothing is left behind.

        Raises
        ------
        UnknownSeedError, SeedStateError
            If it isn't attached, or has become part of the host.
        """
        session = self._session
        session.host.cull(seed_id)
        self._regrouping.remove(seed_id)
        # The host is what it was, and goes on as it did.
        session.learning_rate.forget_thaw(seed_id)
        session.topology_changed()
        self._forget(seed_id)
        if seed_id in session.book.entries:
            session.book.enter_stage(seed_id, leyline.SEED_STAGE_CULLED, session.counters.step, session.epoch)
        return not self.left_behind(seed_id)

    def _attach(self, directive: leyline.Directive) -> bool:
        session, seed_id = self._session, directive.seed_id
        session.isolation.admit()
        kernel = self._prepared.get(seed_id)
        if kernel is None:
            raise DependencyViolationError(
                f"No kernel is prepared for seed {seed_id}. Prepare it before attaching it.", dependency="kernel"
            )
        self._regrouping.check()
        session.host.germinate(
            directive.site,
            kernel.module,
            seed_id=seed_id,
            blend=_blend(directive.blend) if directive.HasField("blend") else None,
            kernel=kernel.spec,
        )
        self._take_into_optimizer(seed_id)
        session.topology_changed()
        session.book.put(self._entry(directive, kernel))
        self._prepared.discard(seed_id)
        return False

    def _take_into_optimizer(self, seed_id: str) -> None:
        try:
            self._regrouping.add(seed_id)
        except EsperError:
            self._session.host.cull(seed_id)
            raise

    def _entry(self, directive: leyline.Directive, kernel: PreparedKernel) -> SeedEntry:
        session = self._session
        return SeedEntry(
            seed_id=directive.seed_id,
            site=directive.site,
            blueprint_id=kernel.spec.blueprint_id,
            kernel_digest=kernel.weights_digest,
            command_id=directive.command_id,
            stage=leyline.SEED_STAGE_GERMINATED,
            germinated_step=session.counters.step,
            germinated_epoch=session.epoch,
            stage_step=session.counters.step,
            stage_epoch=session.epoch,
            parameter_count=kernel.parameter_count,
            loss_at_germination=session.statistics.loss_ewma,
        )

    def _set_stage(self, directive: leyline.Directive) -> bool:
        session, seed_id, stage = self._session, directive.seed_id, directive.set_stage.stage
        if stage == leyline.SEED_STAGE_FOSSILIZED:
            session.host.fossilise(seed_id)
            self._forget(seed_id)
        else:
            stood_still = _stands_still(session.host.seed(seed_id))
            isolation = directive.set_stage.isolation or leyline.ISOLATION_MODE_FREEZE
            session.host.set_stage(seed_id, stage, isolation=isolation)
            if stood_still and stage == leyline.SEED_STAGE_BLENDING:
                session.learning_rate.thaw(session.fraction, seed_id)
        session.topology_changed()
        session.book.enter_stage(seed_id, stage, session.counters.step, session.epoch)
        if stage == leyline.SEED_STAGE_BLENDING and seed_id in self._chosen_blends:
            self._ramp(seed_id, self._chosen_blends.pop(seed_id))
        return False

    def _set_blend(self, directive: leyline.Directive) -> bool:
        """Begin the ramp, or keep the settings for the moment at which the seed begins to blend."""
        record = self._session.host.seed(directive.seed_id)
        _blend(directive.blend).check_contract(self._session.host.contract(record.site))
        if record.stage == leyline.SEED_STAGE_BLENDING:
            self._ramp(directive.seed_id, directive.blend)
        else:
            self._chosen_blends[directive.seed_id] = directive.blend
        return False

    def hold_alphas(self, held: bool) -> None:
        """Hold every alpha where it is, or let those go on that Kasmina itself has not frozen."""
        for entry in self._session.book.unsettled():
            self._session.host.hold_alpha(entry.seed_id, held or entry.seed_id in self._frozen)

    def _ramp(self, seed_id: str, config: leyline.BlendConfig) -> None:
        began = self._session.book.entries[seed_id].stage_step
        start = began + config.start_steps
        end = max(start, began + config.end_steps)
        self._session.host.set_blend(seed_id, blend_from_message(config), start_step=start, end_step=end)
        self._frozen.discard(seed_id)
        self._session.host.hold_alpha(seed_id, False)

    def _freeze_alpha(self, directive: leyline.Directive) -> bool:
        self._session.host.hold_alpha(directive.seed_id)
        self._frozen.add(directive.seed_id)
        return False

    def _reset(self, seed_id: str) -> bool:
        """Remove whatever a culled seed left behind; one that is still attached is refused."""
        if is_attached(self._session, seed_id):
            raise ValidationError(
                f"Seed {seed_id} is still attached. Detach it before the reset.",
                field="seed_id",
                allowed="a culled seed",
            )
        self._regrouping.remove(seed_id)
        self._forget(seed_id)
        return not self.left_behind(seed_id)

    def _forget(self, seed_id: str) -> None:
        self._prepared.discard(seed_id)
        self._chosen_blends.pop(seed_id, None)
        self._frozen.discard(seed_id)

    def left_behind(self, seed_id: str) -> tuple[str, ...]:
        """Name what is left of a seed that was removed: in model, optimizer and registry, and in our own caches."""
        cached = self._prepared.get(seed_id) is not None or seed_id in self._chosen_blends or seed_id in self._frozen
        cached = cached or self._session.compiles(seed_id) is not None
        return (*left_behind(self._session, seed_id), *(("cache",) if cached else ()))


def _stands_still(seed: GraftRecord) -> bool:
    """Say whether the host stands still for this seed."""
    return seed.stage == stages.TRAINING and seed.isolation == stages.FREEZE


def _blend(config: leyline.BlendConfig) -> BlendSpec:
    """Read blend settings; CONFIDENCE is refused here, before a forward pass lacks the logits that nobody supplies."""
    if config.mode == leyline.BLEND_MODE_CONFIDENCE:
        raise MissingLogitsError(
            "The trainer is given no policy logits per sample, which CONFIDENCE needs. Choose another blend mode.",
            dependency="confidence_logits",
        )
    return blend_from_message(config)
