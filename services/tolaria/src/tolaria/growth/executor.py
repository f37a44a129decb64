"""Carrying out Kasmina's directives at a fence: checked, applied once, answered with what became of them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock, from_timestamp, to_timestamp
from esper_core.errors import EsperError, StaleGenerationError, StateConflictError, TimeoutExceededError
from tolaria.growth.operations import GrowthOperations

_LEDGER: Final = 1024
_ANY_GENERATION: Final = frozenset({leyline.DIRECTIVE_KIND_FREEZE_ALPHA, leyline.DIRECTIVE_KIND_RESET})
"""Kinds that are right on every topology: they only hold something still, or look for what was left behind."""

_REMOVALS: Final = frozenset({leyline.DIRECTIVE_KIND_DETACH, leyline.DIRECTIVE_KIND_RESET})


class DirectiveExecutor:
    """Applies directives on the training thread.

    A directive is refused when its id was seen (the former answer is given again), its deadline has passed, or the
    topology is of another generation than the one it was decided on.

    Parameters
    ----------
    operations : GrowthOperations
        What each kind does to the model.
    step : callable
        The present optimizer step.
    """

    def __init__(self, operations: GrowthOperations, step: Callable[[], int], *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.operations = operations
        self._step = step
        self._clock = clock
        self._ledger: OrderedDict[str, leyline.DirectiveResult] = OrderedDict()
        self.structural_changes_refused = ""

    def apply(self, directive: leyline.Directive) -> leyline.DirectiveResult:
        """Carry out one directive, or say why not; an error of ours is never swallowed."""
        known = self._ledger.get(directive.directive_id)
        if known is not None:
            return known
        began = time.perf_counter()
        result = self._answer(directive)
        try:
            self._check(directive)
            clean = self.operations.perform(directive)
        except EsperError as error:
            result.error_code, result.message = error.code, error.message
        else:
            result.applied, result.removed_cleanly = True, clean
            if directive.kind in _REMOVALS and not clean:
                result.left_behind.extend(self.operations.left_behind(directive.seed_id))
        result.generation = self.operations.generation
        result.parameter_count = self.operations.parameter_count(directive.seed_id)
        result.apply_ms = (time.perf_counter() - began) * 1000
        self._remember(result)
        return result

    def _check(self, directive: leyline.Directive) -> None:
        if directive.HasField("deadline") and self._clock.wall() > from_timestamp(directive.deadline):
            raise TimeoutExceededError(f"The directive's deadline has passed at step {self._step()}. Decide again.")
        generation = self.operations.generation
        if directive.kind not in _ANY_GENERATION and directive.generation != generation:
            raise StaleGenerationError(
                f"The directive was decided on generation {directive.generation}; the topology is at {generation}."
            )
        if directive.kind == leyline.DIRECTIVE_KIND_ATTACH and self.structural_changes_refused:
            raise StateConflictError(self.structural_changes_refused)

    def _answer(self, directive: leyline.Directive) -> leyline.DirectiveResult:
        return leyline.DirectiveResult(
            directive_id=directive.directive_id,
            training_run_id=directive.training_run_id,
            seed_id=directive.seed_id,
            kind=directive.kind,
            global_step=self._step(),
            applied_at=to_timestamp(self._clock.wall()),
        )

    def _remember(self, result: leyline.DirectiveResult) -> None:
        self._ledger[result.directive_id] = result
        while len(self._ledger) > _LEDGER:
            self._ledger.popitem(last=False)
