"""Directives and their results."""

from __future__ import annotations

from esper_core import leyline
from esper_core.blueprints.messages import contract_to_message, parameters_to_messages
from esper_core.clocks import to_timestamp
from kasmina.convert.commands import blend_to_message
from kasmina.directives import Directive, DirectiveResult
from kasmina.kernels import Kernel


def directive_to_message(directive: Directive) -> leyline.Directive:
    """Convert a directive."""
    message = leyline.Directive(
        version=1,
        directive_id=directive.directive_id,
        training_run_id=directive.run_id,
        seed_id=directive.seed_id,
        site=directive.site,
        kind=leyline.DirectiveKind.ValueType(directive.kind),
        generation=directive.generation,
        deadline=to_timestamp(directive.deadline),
        command_id=directive.command_id,
        reason=directive.reason,
    )
    details = directive.details
    if details.kernel is not None:
        message.prepare.CopyFrom(_prepare(details.kernel))
    elif details.stage:
        message.set_stage.stage = leyline.SeedStage.ValueType(details.stage)
        message.set_stage.isolation = leyline.IsolationMode.ValueType(details.isolation)
    elif details.blend is not None:
        message.blend.CopyFrom(blend_to_message(details.blend))
    return message


def _prepare(kernel: Kernel) -> leyline.PrepareKernel:
    return leyline.PrepareKernel(
        kernel_digest=kernel.weights_digest,
        spec_digest=kernel.spec_digest,
        size_bytes=kernel.size_bytes,
        blueprint_id=kernel.key.blueprint_id,
        parameters=parameters_to_messages(dict(kernel.key.parameters)),
        contract=contract_to_message(kernel.key.contract),
    )


def result_from_message(message: leyline.DirectiveResult) -> DirectiveResult:
    """Convert what became of a directive."""
    return DirectiveResult(
        directive_id=message.directive_id,
        run_id=message.training_run_id,
        seed_id=message.seed_id,
        kind=message.kind,
        applied=message.applied,
        error_code=message.error_code,
        message=message.message,
        generation=message.generation,
        step=message.global_step,
        apply_ms=message.apply_ms,
        parameter_count=message.parameter_count,
        removed_cleanly=message.removed_cleanly,
        left_behind=tuple(message.left_behind),
    )
