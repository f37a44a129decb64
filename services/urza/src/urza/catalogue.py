"""The durable catalogue: blueprints by revision, kernels by digest and key, sheets in a chain, changes in order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from esper_core import leyline
from esper_core.clocks import Clock, to_timestamp
from esper_core.errors import AlreadyExistsError, IntegrityError, NotFoundError, StorageError
from urza.keys import key_digest, key_of
from urza.revisions import add_revision, insert_revision, latest, latest_of, same_declaration, succeeding
from urza.tables import CHANGES, KERNELS, METADATA, SHEETS


class Catalogue:
    """The catalogue in SQLite, or in any database that SQLAlchemy reaches.

    Every change and its notice are committed together, so that nobody hears of a change that did not happen.

    Parameters
    ----------
    url : str
        SQLAlchemy URL.
    clock : Clock
        Gives the time of changes.
    """

    def __init__(self, url: str, clock: Clock) -> None:
        self._engine = _engine(url)
        self._clock = clock
        with self._transaction() as db:
            METADATA.create_all(db)

    @classmethod
    def in_folder(cls, folder: Path, clock: Clock) -> Catalogue:
        """Open the catalogue that lies in a folder."""
        return cls(f"sqlite:///{folder / 'catalogue.sqlite'}", clock)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def sequence(self) -> int:
        """Return the number of the last change, 0 when there was none."""
        with self._transaction() as db:
            return _last_change(db)

    def blueprints(self) -> list[leyline.BlueprintDescriptor]:
        """Return the latest revision of every blueprint, sorted by id."""
        with self._transaction() as db:
            return latest(db)

    def blueprint(self, blueprint_id: str) -> leyline.BlueprintDescriptor:
        """Return the latest revision of a blueprint.

        Raises
        ------
        NotFoundError
            If there is none; the message lists what there is.
        """
        with self._transaction() as db:
            return latest_of(db, blueprint_id)

    def register(self, blueprint: leyline.BlueprintDescriptor) -> tuple[leyline.BlueprintDescriptor, int]:
        """Add a blueprint, or a revision of it; return it as stored with the number of the change.

        Registering what is there already changes nothing and returns the number of the last change. A revision keeps
        the quarantine and the sheet of the one before: those are changed by `quarantine_blueprint` and `attach` alone.
        """
        with self._transaction() as db:
            known = {row.blueprint_id: row for row in latest(db)}.get(blueprint.blueprint_id)
            if known is not None and same_declaration(known, blueprint):
                return known, _last_change(db)
            stored = succeeding(known, blueprint)
            stored.created_at.CopyFrom(to_timestamp(self._clock.wall()))
            insert_revision(db, stored)
            return stored, self._note(db, "registered", blueprint=stored)

    def kernel(self, weights_digest: str) -> leyline.KernelDescriptor:
        """Return a kernel by the digest of its weights.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        with self._transaction() as db:
            row = db.execute(select(KERNELS.c.descriptor).where(KERNELS.c.weights_digest == weights_digest)).first()
        return _kernel(row, f"No kernel {weights_digest} is in the catalogue.")

    def kernel_by_key(self, digest: str) -> leyline.KernelDescriptor:
        """Return a kernel by the digest of its key.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        with self._transaction() as db:
            row = db.execute(select(KERNELS.c.descriptor).where(KERNELS.c.key_digest == digest)).first()
        return _kernel(row, "No kernel of that blueprint, parameters and shape is in the catalogue.")

    def add_kernel(self, kernel: leyline.KernelDescriptor) -> int:
        """Add a kernel and return the number of the change; adding the same one again is harmless.

        Raises
        ------
        AlreadyExistsError
            If another kernel stands under the same key: kernels are immutable.
        """
        digest = key_digest(key_of(kernel))
        with self._transaction() as db:
            latest_of(db, kernel.blueprint_id)
            row = db.execute(select(KERNELS.c.weights_digest).where(KERNELS.c.key_digest == digest)).first()
            if row is not None and row.weights_digest != kernel.weights_digest:
                raise AlreadyExistsError(
                    f"Another kernel, {row.weights_digest}, stands for the same blueprint, parameters and shape."
                )
            if row is not None:
                return _last_change(db)
            db.execute(
                insert(KERNELS).values(
                    weights_digest=kernel.weights_digest,
                    key_digest=digest,
                    blueprint_id=kernel.blueprint_id,
                    descriptor=kernel.SerializeToString(deterministic=True),
                )
            )
            return self._note(db, "kernel_added", blueprint_id=kernel.blueprint_id, kernel=kernel)

    def quarantine_kernel(self, weights_digest: str, reason: str, *, lift: bool = False) -> int:
        """Quarantine a kernel or release it, and return the number of the change."""
        kernel = self.kernel(weights_digest)
        kernel.quarantined, kernel.quarantine_reason = not lift, "" if lift else reason
        with self._transaction() as db:
            db.execute(
                update(KERNELS)
                .where(KERNELS.c.weights_digest == weights_digest)
                .values(descriptor=kernel.SerializeToString(deterministic=True))
            )
            return self._note(db, "quarantined", blueprint_id=kernel.blueprint_id, kernel=kernel)

    def quarantine_blueprint(self, blueprint_id: str, reason: str, *, lift: bool = False) -> int:
        """Quarantine a blueprint or release it, and return the number of the change."""
        with self._transaction() as db:
            stored = latest_of(db, blueprint_id)
            stored.quarantined, stored.quarantine_reason = not lift, "" if lift else reason
            add_revision(db, stored)
            return self._note(db, "quarantined", blueprint=stored)

    def attach(self, sheet: leyline.Bsds) -> int:
        """Attach a safety data sheet to its blueprint and return the number of the change.

        Raises
        ------
        IntegrityError
            If the sheet does not continue the blueprint's chain.
        """
        with self._transaction() as db:
            stored = latest_of(db, sheet.blueprint_id)
            if db.execute(select(SHEETS.c.bsds_id).where(SHEETS.c.bsds_id == sheet.bsds_id)).first() is not None:
                return _last_change(db)
            expected = self._chain_end(db, sheet.blueprint_id)
            if sheet.previous_digest != expected:
                raise IntegrityError(
                    f"The sheet continues {sheet.previous_digest or 'nothing'}, but the chain of "
                    f"{sheet.blueprint_id} ends with {expected or 'nothing'}. Fetch the last sheet and sign again.",
                    details={"chain_end": expected},
                )
            stored.bsds.CopyFrom(sheet)
            add_revision(db, stored)
            number = self._note(db, "bsds_attached", blueprint=stored)
            db.execute(insert(SHEETS).values(sequence=number, **_sheet_row(sheet)))
            return number

    def changes_after(self, sequence: int, limit: int) -> list[leyline.CatalogUpdate]:
        """Return at most `limit` changes after `sequence`, oldest first."""
        with self._transaction() as db:
            rows = db.execute(
                select(CHANGES.c.sequence, CHANGES.c.notice)
                .where(CHANGES.c.sequence > sequence)
                .order_by(CHANGES.c.sequence)
                .limit(limit)
            ).all()
        notices = []
        for row in rows:
            notice = leyline.CatalogUpdate.FromString(row.notice)
            notice.sequence = row.sequence
            notices.append(notice)
        return notices

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as db:
                yield db
        except SQLAlchemyError as error:
            raise StorageError(f"The catalogue cannot be read or written: {error}.") from error

    def _chain_end(self, db: Connection, blueprint_id: str) -> str:
        query = select(SHEETS.c.digest).where(SHEETS.c.blueprint_id == blueprint_id).order_by(SHEETS.c.sequence.desc())
        return str(db.scalar(query) or "")

    def _note(
        self,
        db: Connection,
        change: str,
        *,
        blueprint_id: str = "",
        blueprint: leyline.BlueprintDescriptor | None = None,
        kernel: leyline.KernelDescriptor | None = None,
    ) -> int:
        notice = leyline.CatalogUpdate(
            version=1,
            blueprint_id=blueprint.blueprint_id if blueprint is not None else blueprint_id,
            revision=blueprint.revision if blueprint is not None else 0,
            change=change,
            blueprint=blueprint,
            kernel=kernel,
            changed_at=to_timestamp(self._clock.wall()),
        )
        result = db.execute(insert(CHANGES).values(notice=notice.SerializeToString(deterministic=True)))
        return int(result.inserted_primary_key[0])  # type: ignore[index]


def _last_change(db: Connection) -> int:
    return int(db.scalar(select(func.max(CHANGES.c.sequence))) or 0)


def sheet_digest(sheet: leyline.Bsds) -> str:
    """Return the digest by which the next sheet of a chain refers to this one."""
    return hashlib.sha256(sheet.SerializeToString(deterministic=True)).hexdigest()


def _sheet_row(sheet: leyline.Bsds) -> dict[str, Any]:
    return {
        "bsds_id": sheet.bsds_id,
        "blueprint_id": sheet.blueprint_id,
        "digest": sheet_digest(sheet),
        "sheet": sheet.SerializeToString(deterministic=True),
    }


def _kernel(row: Any, absent: str) -> leyline.KernelDescriptor:
    if row is None:
        raise NotFoundError(f"{absent} Publish a KernelPrefetchRequest to have it made.")
    return leyline.KernelDescriptor.FromString(row.descriptor)


def _engine(url: str) -> Engine:
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _durable_sqlite)
    return engine


def _durable_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()
