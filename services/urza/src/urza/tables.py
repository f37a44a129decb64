"""The tables of the catalogue; messages are stored whole, columns exist for what is looked up."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, Index, Integer, LargeBinary, MetaData, String, Table

METADATA: Final = MetaData()

BLUEPRINTS: Final = Table(
    "blueprints",
    METADATA,
    Column("blueprint_id", String, primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("descriptor", LargeBinary, nullable=False),
)

KERNELS: Final = Table(
    "kernels",
    METADATA,
    Column("weights_digest", String, primary_key=True),
    Column("key_digest", String, nullable=False, unique=True),
    Column("blueprint_id", String, nullable=False),
    Column("descriptor", LargeBinary, nullable=False),
    Index("kernels_by_blueprint", "blueprint_id"),
)

SHEETS: Final = Table(
    "sheets",
    METADATA,
    Column("bsds_id", String, primary_key=True),
    Column("blueprint_id", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("sheet", LargeBinary, nullable=False),
    Column("sequence", Integer, nullable=False),
)

CHANGES: Final = Table(
    "changes",
    METADATA,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("notice", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)
