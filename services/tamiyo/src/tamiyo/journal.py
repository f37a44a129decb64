"""The decision journal: for every decision that counts the packet without layers, and what was answered.

A record is the length of the Decision as 4 bytes little-endian, the Decision, and the SystemStatePacket.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from esper_core import leyline
from esper_core.errors import EsperError, IntegrityError
from esper_core.ids import parse_command_id
from esper_core.journal import JournalWriter, Record, read_journal

_LENGTH: Final = struct.Struct("<I")
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """A decision with its inputs."""

    decision: leyline.Decision
    inputs: leyline.SystemStatePacket

    @property
    def command(self) -> leyline.AdaptationCommand | None:
        """The command, where the decision is one."""
        return self.decision.command if self.decision.WhichOneof("outcome") == "command" else None


def encode(record: DecisionRecord) -> bytes:
    """Return the bytes of a record."""
    decision = record.decision.SerializeToString()
    return _LENGTH.pack(len(decision)) + decision + record.inputs.SerializeToString()


def decode(payload: bytes, *, strict: bool = True) -> DecisionRecord:
    """Read the bytes of a record.

    Raises
    ------
    IntegrityError
        If they are no decision, or, with `strict`, break the contract.
    """
    try:
        (length,) = _LENGTH.unpack_from(payload)
        start = _LENGTH.size
        decision = leyline.Decision.FromString(payload[start : start + length])
        inputs = leyline.SystemStatePacket.FromString(payload[start + length :])
    except (struct.error, DecodeError) as error:
        raise IntegrityError("A record of the decision journal cannot be read; it is skipped.") from error
    if strict:
        _check(decision)
    return DecisionRecord(decision, inputs)


def _check(decision: leyline.Decision) -> None:
    try:
        leyline.validate(decision)
        if decision.WhichOneof("outcome") == "command":
            parse_command_id(decision.command.command_id)
    except EsperError as error:
        raise IntegrityError(f"A record of the decision journal breaks the contract: {error.message}") from error


class DecisionIndex:
    """The commands of the journal in memory, bounded, newest last, and which seed came of which command."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._commands: OrderedDict[str, DecisionRecord] = OrderedDict()
        self._seed_of: dict[str, str] = {}

    def add(self, record: DecisionRecord) -> None:
        """Take up a record; only commands are kept, from the others only who begot which seed is learned."""
        self.link(record.inputs.seeds)
        command = record.command
        if command is None:
            return
        self._commands[command.command_id] = record
        while len(self._commands) > self._limit:
            self._seed_of.pop(self._commands.popitem(last=False)[0], None)

    def link(self, seeds: Iterable[leyline.SeedState]) -> None:
        """Learn which seed came of which command."""
        for seed in seeds:
            if seed.germinate_command_id:
                self._seed_of[seed.germinate_command_id] = seed.seed_id

    def command(self, command_id: str) -> DecisionRecord | None:
        """Return the record of a command."""
        return self._commands.get(command_id)

    def commands(self) -> list[DecisionRecord]:
        """Return all commands, oldest first."""
        return list(self._commands.values())

    def seed_of(self, record: DecisionRecord) -> str:
        """Return the seed that a command was about, or that came of it; empty when none is known."""
        command = record.command
        if command is None:
            return ""
        return command.target_seed_id or self._seed_of.get(command.command_id, "")

    def about(self, seed_id: str) -> list[DecisionRecord]:
        """Return all commands about a seed, oldest first."""
        return [record for record in self._commands.values() if self.seed_of(record) == seed_id]


def open_decisions(path: Path, keep: int, *, strict: bool, tell: Tell) -> tuple[JournalWriter, list[DecisionRecord]]:
    """Open the journal, compact it when it grew past twice `keep`, and read its good records.

    Parameters
    ----------
    path : Path
        The file.
    keep : int
        Records to keep; commands stay before no-actions do.
    strict : bool
        Skip records that break the contract.
    tell : callable
        Gets a sentence about everything that was skipped.
    """
    contents = read_journal(path)
    if contents.damaged_bytes:
        tell(f"{path.name}: {contents.describe_damage()}")
    writer = JournalWriter(path, sync="manual")
    records = _decoded(contents.records, strict, tell, path.name)
    if len(contents.records) > 2 * keep:
        records = _newest(records, keep)
        writer.rewrite(lambda before: [encode(record) for record in records])
    return writer, records


def _decoded(records: Sequence[Record], strict: bool, tell: Tell, name: str) -> list[DecisionRecord]:
    good = []
    for record in records:
        try:
            good.append(decode(record.payload, strict=strict))
        except IntegrityError as error:
            tell(f"{name}, offset {record.offset}: {error.message}")
    return good


def _newest(records: list[DecisionRecord], keep: int) -> list[DecisionRecord]:
    commands = [index for index, record in enumerate(records) if record.command is not None][-keep:]
    others = [index for index, record in enumerate(records) if record.command is None]
    room = max(0, keep - len(commands))
    chosen = sorted([*commands, *(others[-room:] if room else [])])
    return [records[index] for index in chosen]
