"""Finding out which seed an exception came from."""

from __future__ import annotations

from types import TracebackType

from torch import nn

from esper_runtime.errors import UnreachedSeedError
from esper_runtime.graft import Graft
from tolaria.training.session import Session


def seed_at_fault(session: Session, error: BaseException) -> str | None:
    """Return the unsettled seed from which an exception came, or None where it was no seed's.

    The frames of the traceback tell: a method of a seed's module, or of one inside it; or the graft itself, where an
    output of the seed could not be blended. An exception of the backward pass has no such frame, and neither has a loss
    that does not see the seed; then the seed is blamed only if it is the single one that is unsettled.
    """
    entries = session.book.unsettled()
    modules = {
        id(module): entry.seed_id for entry in entries for module in session.host.graft(entry.seed_id).seed.modules()
    }
    grafts = {id(session.host.graft(entry.seed_id)): entry.seed_id for entry in entries}
    blending: str | None = None
    for owner in _owners(error.__traceback__):
        if id(owner) in modules:
            return modules[id(owner)]
        # A module of the host below the graft takes the blame off it again.
        blending = grafts.get(id(owner)) if isinstance(owner, Graft) else None
    if blending is not None:
        return blending
    unseen = isinstance(error, UnreachedSeedError) or _in_backward(error.__traceback__)
    return entries[0].seed_id if unseen and len(entries) == 1 else None


def _owners(trace: TracebackType | None) -> list[nn.Module]:
    """Return the modules whose methods an exception came through, outermost first."""
    found: list[nn.Module] = []
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            found.append(owner)
        trace = trace.tb_next
    return found


def _in_backward(trace: TracebackType | None) -> bool:
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "backward":
            return True
        trace = trace.tb_next
    return False
