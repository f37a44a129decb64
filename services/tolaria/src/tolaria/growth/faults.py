"""Finding out which seed an exception came from."""

from __future__ import annotations

from types import TracebackType

from tolaria.training.session import Session


def seed_at_fault(session: Session, error: BaseException) -> str | None:
    """Return the unsettled seed in whose module an exception arose, or None where it was no seed's.

    The frames of the traceback tell: a method of a seed's module, or of one inside it. An exception of the backward
    pass has no such frame; then the seed is blamed only if it is the single one that is unsettled and not frozen out.
    """
    modules = {
        id(module): entry.seed_id
        for entry in session.book.unsettled()
        for module in session.host.graft(entry.seed_id).seed.modules()
    }
    frame = error.__traceback__
    while frame is not None:
        owner = modules.get(id(frame.tb_frame.f_locals.get("self")))
        if owner is not None:
            return owner
        frame = frame.tb_next
    return _single(session) if _in_backward(error.__traceback__) else None


def _in_backward(trace: TracebackType | None) -> bool:
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "backward":
            return True
        trace = trace.tb_next
    return False


def _single(session: Session) -> str | None:
    unsettled = session.book.unsettled()
    return unsettled[0].seed_id if len(unsettled) == 1 else None
