"""The journals on disk: the facts of each run, and the nonces that were used. What is told was written before.

One file per run, one JSON record per batch of facts, so that the facts of one turn are kept whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Final

from pydantic import ConfigDict, Discriminator, TypeAdapter
from pydantic import ValidationError as Malformed

from esper_core.files import ensure_directory
from esper_core.ids import parse_run_id
from esper_core.journal import JournalWriter, read_journal
from esper_core.security.nonce import NonceRecord
from kasmina.facts import Fact

Report = Callable[[str], None]
_STRICT: Final = ConfigDict(ser_json_inf_nan="strings")
_FACTS: Final[TypeAdapter[tuple[Fact, ...]]] = TypeAdapter(
    tuple[Annotated[Fact, Discriminator("kind")], ...], config=_STRICT
)
_NONCE: Final[TypeAdapter[NonceRecord]] = TypeAdapter(NonceRecord)
_NONCES_BETWEEN_REWRITES: Final = 4096


def encode_facts(facts: Iterable[Fact]) -> bytes:
    """Serialise the facts of one turn."""
    return _FACTS.dump_json(tuple(facts))


def decode_facts(payload: bytes) -> tuple[Fact, ...]:
    """Read the facts of one turn.

    Raises
    ------
    pydantic.ValidationError
        If the record is not of this version.
    """
    return _FACTS.validate_json(payload)


class RunJournal:
    """The journal of one run. Reading leaves the file alone; the first append locks it and cuts off a torn tail.

    Parameters
    ----------
    path : Path
        Its file.
    report : callable
        Told, in a sentence, of damage that was found; the good part is used.
    """

    def __init__(self, path: Path, report: Report) -> None:
        self._path = path
        self._writer: JournalWriter | None = None
        contents = read_journal(path)
        if contents.damaged_bytes:
            report(f"{path.name}: {contents.describe_damage()}")
        self._facts = self._readable(contents.payloads, path, report)

    @staticmethod
    def _readable(payloads: Iterable[bytes], path: Path, report: Report) -> tuple[Fact, ...]:
        facts: list[Fact] = []
        for number, payload in enumerate(payloads, 1):
            try:
                facts.extend(decode_facts(payload))
            except Malformed as error:
                report(f"{path.name}: record {number} cannot be read ({error.error_count()} problems).")
        return tuple(facts)

    @property
    def facts(self) -> tuple[Fact, ...]:
        """What was on disk at opening."""
        return self._facts

    def append(self, facts: Iterable[Fact]) -> None:
        """Write the facts of one turn; they are on disk on return.

        Raises
        ------
        StorageError
            If the disk refuses.
        """
        if self._writer is None:
            self._writer = JournalWriter(self._path, sync="always")
        self._writer.append(encode_facts(facts))

    def close(self) -> None:
        """Let go of the file."""
        if self._writer is not None:
            self._writer.close()


class NonceJournal:
    """The used nonces, so that a restart does not open the replay window again."""

    def __init__(self, path: Path, report: Report) -> None:
        self._writer = JournalWriter(path, sync="always")
        self._report = report
        self._appended = 0
        self.records = tuple(self._read(read_journal(path).payloads))

    def _read(self, payloads: Iterable[bytes]) -> Iterable[NonceRecord]:
        for payload in payloads:
            try:
                yield _NONCE.validate_json(payload)
            except Malformed:
                self._report("A nonce record cannot be read and is passed over.")

    def append(self, record: NonceRecord) -> None:
        """Keep a nonce; it is on disk on return."""
        self._writer.append(_NONCE.dump_json(record))
        self._appended += 1

    def compact(self, live: Callable[[NonceRecord], bool], after: int = _NONCES_BETWEEN_REWRITES) -> bool:
        """Drop what has expired once `after` nonces were appended; return whether that was done."""
        if self._appended < after:
            return False
        self._appended = 0
        self._writer.rewrite(lambda records: [r.payload for r in records if live(_NONCE.validate_json(r.payload))])
        return True

    def close(self) -> None:
        """Let go of the file."""
        self._writer.close()


class JournalFolder:
    """Where the journals lie: `<data>/runs/<run>.journal` and `<data>/nonces.journal`."""

    def __init__(self, data_dir: Path, report: Report) -> None:
        self._runs = ensure_directory(data_dir / "runs")
        self._nonces = data_dir / "nonces.journal"
        self._report = report

    def run_ids(self) -> tuple[str, ...]:
        """Return the runs that have a journal, sorted."""
        return tuple(sorted(path.stem for path in self._runs.glob("*.journal")))

    def open_run(self, run_id: str) -> RunJournal:
        """Open the journal of a run; made if missing."""
        return RunJournal(self._path(run_id), self._report)

    def open_nonces(self) -> NonceJournal:
        """Open the journal of nonces."""
        return NonceJournal(self._nonces, self._report)

    def remove_run(self, run_id: str) -> None:
        """Forget a run."""
        self._path(run_id).unlink(missing_ok=True)

    def _path(self, run_id: str) -> Path:
        """Return the file of a run; only a checked id may become part of a path."""
        return self._runs / f"{parse_run_id(run_id)}.journal"
