"""Commands that are not about seeds: Kasmina has verified them, the trainer carries them out at the next fence."""

from __future__ import annotations

from esper_core import leyline
from tolaria.training.links import Incoming
from tolaria.training.orders import Order, RateChange
from tolaria.training.queues import Inbox


def act_on(command: leyline.AdaptationCommand | None, inbox: Inbox[Incoming]) -> None:
    """Turn an accepted command into an order for the training thread; seed commands come back as directives."""
    order = None if command is None else order_of(command)
    if order is not None:
        inbox.post(order, urgent=command is not None and command.type == leyline.COMMAND_TYPE_EMERGENCY)


def order_of(command: leyline.AdaptationCommand) -> Order | RateChange | None:
    """Return what a command asks of the trainer itself, None where it is Kasmina's business."""
    reason = command.metadata.policy.rationale or "By command of Tamiyo."
    if command.type == leyline.COMMAND_TYPE_OPTIMIZER:
        return RateChange(command.command_id, command.optimizer.learning_rate_factor, command.optimizer.group)
    if command.type == leyline.COMMAND_TYPE_PAUSE:
        kind = leyline.ORDER_KIND_RESUME if command.pause.resume else leyline.ORDER_KIND_PAUSE
        return Order(command.command_id, kind, reason)
    if command.type == leyline.COMMAND_TYPE_ROLLBACK:
        to_step = command.rollback.to_step if command.rollback.HasField("to_step") else None
        return Order(
            command.command_id, leyline.ORDER_KIND_ROLLBACK, reason, to_step=to_step, full=command.rollback.full
        )
    if command.type == leyline.COMMAND_TYPE_EMERGENCY:
        cleared = command.emergency.clear
        kind = leyline.ORDER_KIND_CLEAR_EMERGENCY if cleared else leyline.ORDER_KIND_EMERGENCY
        return Order(command.command_id, kind, command.emergency.reason, level=command.emergency.level, origin="tamiyo")
    return None
