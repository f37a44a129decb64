"""The teacher of a run, as the ownership registry knows it: there is one at most."""

from __future__ import annotations

from typing import Final

from esper_runtime.ownership import OwnershipRegistry, teacher_owner

_PREFIX: Final = teacher_owner("")


def teacher_of(registry: OwnershipRegistry) -> str:
    """Return the id of the teacher that takes part; empty when none does."""
    owners = (owner for owner in registry.owners() if owner.startswith(_PREFIX))
    return next(owners, "").removeprefix(_PREFIX)


def release_teacher(registry: OwnershipRegistry, teacher_id: str) -> int:
    """Let go of a teacher and return the number of its parameters; one that is gone already is no error."""
    return len(registry.release(teacher_owner(teacher_id)))
