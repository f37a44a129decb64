"""Revisions of blueprints: each one is kept, the latest one counts, and what was found out about it stays with it."""

from __future__ import annotations

from sqlalchemy import Connection, func, insert, select

from esper_core import leyline
from esper_core.errors import NotFoundError
from urza.tables import BLUEPRINTS


def latest(db: Connection) -> list[leyline.BlueprintDescriptor]:
    """Return the latest revision of every blueprint, sorted by id."""
    newest = (
        select(BLUEPRINTS.c.blueprint_id, func.max(BLUEPRINTS.c.revision).label("revision"))
        .group_by(BLUEPRINTS.c.blueprint_id)
        .subquery()
    )
    rows = db.execute(
        select(BLUEPRINTS.c.descriptor)
        .join(
            newest,
            (BLUEPRINTS.c.blueprint_id == newest.c.blueprint_id) & (BLUEPRINTS.c.revision == newest.c.revision),
        )
        .order_by(BLUEPRINTS.c.blueprint_id)
    ).all()
    return [leyline.BlueprintDescriptor.FromString(row.descriptor) for row in rows]


def latest_of(db: Connection, blueprint_id: str) -> leyline.BlueprintDescriptor:
    """Return the latest revision of a blueprint.

    Raises
    ------
    NotFoundError
        If there is none; the message lists what there is.
    """
    row = db.execute(
        select(BLUEPRINTS.c.descriptor)
        .where(BLUEPRINTS.c.blueprint_id == blueprint_id)
        .order_by(BLUEPRINTS.c.revision.desc())
    ).first()
    if row is None:
        known = ", ".join(sorted(set(db.scalars(select(BLUEPRINTS.c.blueprint_id)))))
        raise NotFoundError(f"No blueprint {blueprint_id!r} is in the catalogue. Known ones: {known}.")
    return leyline.BlueprintDescriptor.FromString(row.descriptor)


def insert_revision(db: Connection, blueprint: leyline.BlueprintDescriptor) -> None:
    """Store a blueprint under the revision that it carries."""
    db.execute(
        insert(BLUEPRINTS).values(
            blueprint_id=blueprint.blueprint_id,
            revision=blueprint.revision,
            descriptor=blueprint.SerializeToString(deterministic=True),
        )
    )


def add_revision(db: Connection, blueprint: leyline.BlueprintDescriptor) -> None:
    """Count the blueprint's revision up and store it under that."""
    blueprint.revision += 1
    insert_revision(db, blueprint)


def same_declaration(known: leyline.BlueprintDescriptor, offered: leyline.BlueprintDescriptor) -> bool:
    """Say whether two blueprints are the same but for what the catalogue itself has added."""
    left, right = _copy(known), _copy(offered)
    for message in (left, right):
        for field in ("version", "revision", "created_at", "bsds", "quarantined", "quarantine_reason"):
            message.ClearField(field)
    return left == right


def succeeding(
    known: leyline.BlueprintDescriptor | None, offered: leyline.BlueprintDescriptor
) -> leyline.BlueprintDescriptor:
    """Return what is offered as the revision after the known one, with its quarantine and its sheet."""
    stored = _copy(offered)
    stored.version = 1
    stored.revision = 1
    if known is not None:
        stored.revision = known.revision + 1
        stored.quarantined, stored.quarantine_reason = known.quarantined, known.quarantine_reason
        stored.ClearField("bsds")
        if known.HasField("bsds"):
            stored.bsds.CopyFrom(known.bsds)
    return stored


def _copy(blueprint: leyline.BlueprintDescriptor) -> leyline.BlueprintDescriptor:
    copy = leyline.BlueprintDescriptor()
    copy.CopyFrom(blueprint)
    return copy
