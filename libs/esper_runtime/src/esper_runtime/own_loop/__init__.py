"""A session: growing a model inside the user's own training loop, without any service."""

from esper_runtime.own_loop.held_out import HeldOut
from esper_runtime.own_loop.history import Event
from esper_runtime.own_loop.plan import GrowthStep
from esper_runtime.own_loop.rules import Limits, Pace, Rules
from esper_runtime.own_loop.session import Session

__all__ = ["Event", "GrowthStep", "HeldOut", "Limits", "Pace", "Rules", "Session"]
