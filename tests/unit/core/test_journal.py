"""The journal keeps every record that was acknowledged, and says what it could not keep."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper_core.clocks import ManualClock
from esper_core.errors import StateConflictError, StorageError, ValidationError
from esper_core.journal import MAX_PAYLOAD_BYTES, JournalWriter, iterate, read_journal
from esper_core.journal.format import HEADER, MAGIC, encode, parse

PAYLOADS = [b"", b"one", MAGIC, b"x" * 300, encode(b"inner")[:7], b"last"]
payload_lists = st.lists(st.binary(max_size=60), min_size=1, max_size=8)


def write(path: Path, payloads: list[bytes]) -> list[int]:
    with JournalWriter(path, sync="manual") as journal:
        return [journal.append(payload).end for payload in payloads]


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    ends = write(tmp_path / "j", PAYLOADS)
    contents = read_journal(tmp_path / "j")
    assert contents.payloads == PAYLOADS
    assert contents.damaged == () and contents.tail is None
    assert contents.next_offset == ends[-1] == (tmp_path / "j").stat().st_size


def test_truncation_at_every_offset_keeps_all_whole_records(tmp_path: Path) -> None:
    ends = write(tmp_path / "j", PAYLOADS)
    data = (tmp_path / "j").read_bytes()
    cut = tmp_path / "cut"
    for length in range(len(data) + 1):
        cut.write_bytes(data[:length])
        whole = [payload for payload, end in zip(PAYLOADS, ends, strict=True) if end <= length]
        contents = read_journal(cut)
        assert contents.payloads == whole
        assert contents.damaged_bytes == length - max([0, *[end for end in ends if end <= length]])
        with JournalWriter(cut, sync="manual") as journal:
            journal.append(b"after")
        assert read_journal(cut).payloads == [*whole, b"after"]


def test_a_flipped_byte_costs_only_its_own_record(tmp_path: Path) -> None:
    ends = write(tmp_path / "j", PAYLOADS)
    data = (tmp_path / "j").read_bytes()
    bad = tmp_path / "bad"
    for place in range(len(data)):
        bad.write_bytes(data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :])
        index = next(number for number, end in enumerate(ends) if place < end)
        contents = read_journal(bad)
        assert contents.payloads == PAYLOADS[:index] + PAYLOADS[index + 1 :]
        starts = [0, *ends]
        assert contents.damaged_bytes == ends[index] - starts[index]
        assert f"offset {starts[index]}" in contents.describe_damage()


@given(payload_lists, st.data())
@settings(max_examples=150, deadline=None)
def test_any_damage_in_the_middle_is_resynchronised(payloads: list[bytes], data: st.DataObject) -> None:
    good = b"".join(map(encode, payloads))
    noise = data.draw(st.binary(max_size=40))
    cut = data.draw(st.integers(0, len(good)))
    records = parse(good[:cut] + noise + encode(b"sentinel"), 0, at_end=True).records
    assert records[-1].payload == b"sentinel"


@given(payload_lists, st.integers(0, 200))
@settings(max_examples=100, deadline=None)
def test_chunks_do_not_change_what_is_found(payloads: list[bytes], split: int) -> None:
    data = b"".join(map(encode, payloads))
    longest = max(map(len, payloads)) + HEADER.size
    split = min(max(split, longest), len(data))
    first = parse(data[:split], 0, at_end=False)
    second = parse(data[first.consumed :], first.consumed, at_end=True)
    assert [record.payload for record in [*first.records, *second.records]] == payloads
    assert not first.damaged and not second.damaged


def test_following_a_living_journal(tmp_path: Path) -> None:
    path = tmp_path / "j"
    assert read_journal(path).next_offset == 0
    with JournalWriter(path, sync="manual") as journal:
        journal.append(b"a")
        first = read_journal(path)
        with path.open("ab") as torn:
            torn.write(encode(b"half")[:9])
        assert read_journal(path, first.next_offset).next_offset == first.next_offset
        journal.append(b"b")
        assert read_journal(path, first.next_offset).payloads == [b"b"]
    assert [record.payload for record in iterate(path)] == [b"a", b"b"]


def test_the_repaired_tail_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "j"
    write(path, [b"good"])
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"EJR1torn")
    with JournalWriter(path) as journal:
        assert journal.repaired is not None
        assert (journal.repaired.offset, journal.repaired.length) == (size, 8)
    assert path.stat().st_size == size


def test_only_one_writer(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / "j"), pytest.raises(StateConflictError, match="open in another process"):
        JournalWriter(tmp_path / "j")


def test_rewrite_keeps_what_was_selected_and_stays_exclusive(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with JournalWriter(path) as journal:
        for number in range(10):
            journal.append(str(number).encode())
        report = journal.retain_last(3)
        assert (report.records_before, report.records_after) == (10, 3)
        journal.append(b"more")
        with pytest.raises(StateConflictError):
            JournalWriter(path)
    assert read_journal(path).payloads == [b"7", b"8", b"9", b"more"]
    assert [item.name for item in tmp_path.iterdir()] == ["j"]


@given(st.lists(st.binary(max_size=20), max_size=12), st.integers(0, 14))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_retention_keeps_the_newest(tmp_path: Path, payloads: list[bytes], count: int) -> None:
    path = tmp_path / "retained"
    path.unlink(missing_ok=True)
    write(path, payloads)
    with JournalWriter(path, sync="manual") as journal:
        journal.retain_last(count)
    assert read_journal(path).payloads == (payloads[-count:] if count else [])


def test_a_rewrite_that_cannot_be_written_leaves_the_old_journal(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with JournalWriter(path) as journal:
        journal.append(b"kept")
        (tmp_path / ".j.rewrite").mkdir()
        with pytest.raises((StorageError, OSError)):
            journal.retain_last(0)
        journal.append(b"more")
    assert read_journal(path).payloads == [b"kept", b"more"]


def test_interval_policy_syncs_what_is_overdue(tmp_path: Path) -> None:
    clock = ManualClock()
    with JournalWriter(tmp_path / "j", sync="interval", interval_s=2.0, clock=clock) as journal:
        journal.append(b"a")
        assert journal.unsynced_bytes > 0
        clock.advance(2.5)
        journal.append(b"b")
        assert journal.unsynced_bytes == 0


def test_threads_share_the_disk_and_lose_nothing(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / "j") as journal:

        def work(name: int) -> None:
            for number in range(25):
                journal.append(f"{name}:{number}".encode())

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert journal.unsynced_bytes == 0
    payloads = read_journal(tmp_path / "j").payloads
    assert len(payloads) == 100
    for name in range(4):
        mine = [payload for payload in payloads if payload.startswith(f"{name}:".encode())]
        assert mine == [f"{name}:{number}".encode() for number in range(25)]


def test_too_large_and_closed_are_refused(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path / "j")
    with pytest.raises(ValidationError, match="too large"):
        journal.append(b"x" * (MAX_PAYLOAD_BYTES + 1))
    journal.close()
    journal.close()
    with pytest.raises(StateConflictError, match="closed"):
        journal.append(b"x")


def test_an_unreadable_place_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Cannot open the journal"):
        JournalWriter(tmp_path / "missing" / "j")
    with pytest.raises(StorageError, match="Cannot read the journal"):
        read_journal(tmp_path)
