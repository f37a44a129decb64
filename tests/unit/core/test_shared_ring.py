"""Records in shared memory: whole or not at all, in order, counted where they were overwritten."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_core.errors import IntegrityError, StateFolderInUseError, ValidationError
from esper_core.shared_ring import MAX_PAYLOAD, SLOTS, RingReader, RingWriter
from support.waiting import wait_until

WRITER = """
import sys
from pathlib import Path
from esper_core.shared_ring import RingWriter
with RingWriter(Path(sys.argv[1])) as ring:
    number = 0
    while True:
        number += 1
        ring.write(number.to_bytes(8, "little") + bytes([number % 251]) * (number % 1500))
"""


@pytest.mark.req("TOL-34")
def test_records_come_in_order_and_the_newest_first_when_asked(tmp_path: Path) -> None:
    with RingWriter(tmp_path / "ring") as writer, RingReader(tmp_path / "ring") as reader:
        assert reader.latest() is None and reader.head == 0
        assert [writer.write(payload) for payload in (b"a", b"", b"c" * MAX_PAYLOAD)] == [1, 2, 3]
        assert reader.since(0).payloads == (b"a", b"", b"c" * MAX_PAYLOAD)
        assert reader.since(2).payloads == (b"c" * MAX_PAYLOAD,)
        assert reader.latest() == (3, b"c" * MAX_PAYLOAD)
        with pytest.raises(ValidationError):
            writer.write(b"c" * (MAX_PAYLOAD + 1))


@given(count=st.integers(0, 3 * SLOTS), seen=st.integers(0, 3 * SLOTS))
def test_what_was_overwritten_is_counted(tmp_path_factory: pytest.TempPathFactory, count: int, seen: int) -> None:
    path = tmp_path_factory.mktemp("ring") / "ring"
    seen = min(seen, count)
    with RingWriter(path) as writer, RingReader(path) as reader:
        for number in range(1, count + 1):
            writer.write(str(number).encode())
        reading = reader.since(seen)
    assert reading.lost == max(0, count - seen - SLOTS) and reading.head == count
    assert [int(payload) for payload in reading.payloads] == list(range(seen + 1 + reading.lost, count + 1))


def test_there_is_one_writer_at_a_time_and_the_next_goes_on_counting(tmp_path: Path) -> None:
    with RingWriter(tmp_path / "ring") as first:
        first.write(b"x")
        with pytest.raises(StateFolderInUseError):
            RingWriter(tmp_path / "ring")
    with RingWriter(tmp_path / "ring") as second:
        assert second.write(b"y") == 2
    assert (tmp_path / "ring").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"something else" * 20_000])
def test_a_file_that_is_no_ring_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ring").write_bytes(content)
    with pytest.raises(IntegrityError):
        RingReader(tmp_path / "ring")


def test_a_writer_that_died_in_the_middle_leaves_the_record_before_it(tmp_path: Path) -> None:
    with RingWriter(tmp_path / "ring") as writer, RingReader(tmp_path / "ring") as reader:
        writer.write(b"whole")
        at = 64 + 2048
        writer.bytes[at + 16 : at + 20] = b"half"
        assert reader.latest() == (1, b"whole")
        writer.words[at // 8] = 2  # Even with its number in place its checksum gives it away.
        writer.words[1] = 2
        reading = reader.since(0)
        assert (reading.payloads, reading.lost) == ((b"whole",), 1)


@pytest.mark.req("TOL-34")
def test_no_record_is_torn_while_another_process_writes_as_fast_as_it_can(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], env=dict(os.environ))
    try:
        wait_until(path.exists)
        with RingReader(path) as reader:
            wait_until(lambda: reader.head > 0)
            began, caught, seen = reader.head, 0, reader.head
            while caught < 2000 or reader.head == began:
                reading = reader.since(seen)
                newest = reader.latest()
                assert newest is not None
                for payload in (*reading.payloads, newest[1]):
                    number = int.from_bytes(payload[:8], "little")
                    assert payload[8:] == bytes([number % 251]) * (number % 1500)
                caught, seen = caught + len(reading.payloads) + 1, reading.head
    finally:
        process.kill()
        process.wait(10.0)
