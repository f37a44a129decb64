"""Records of the bridge: short enough, typed, and from a process that can be told from every other."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.bridge import BridgeReader, BridgeWriter, DeadlineNotice, Gone, Segment, segments, shortened
from esper_core.clocks import to_timestamp
from esper_core.errors import IntegrityError
from esper_core.ids import new_run_id
from esper_core.security import Keyring, MessageSigner
from esper_core.shared_ring import SLOTS, RingWriter

pytestmark = pytest.mark.req("WEA-3")


def signal(reason: str, run_id: str = "") -> leyline.EmergencySignal:
    message = leyline.EmergencySignal(
        version=1,
        signal_id="s" * 40,
        level=leyline.EMERGENCY_LEVEL_HALT,
        reason=shortened(reason),
        origin="tolaria-worker",
        training_run_id=run_id or new_run_id(),
    )
    message.triggered_at.CopyFrom(to_timestamp(datetime(2026, 1, 1, tzinfo=UTC)))
    return MessageSigner(Keyring.generate(), "emergency").sign(message)


def test_what_is_written_comes_across_in_order(tmp_path: Path) -> None:
    run_id, sent = new_run_id(), signal("the loss is NaN")
    writer = BridgeWriter(tmp_path / "bridge", run_id)
    (segment,) = segments(tmp_path / "bridge")
    reader = BridgeReader(segment)
    assert (segment.run_id, segment.writer.pid, segment.writer.is_alive()) == (run_id, os.getpid(), True)
    assert not reader.waiting
    writer.deadline(DeadlineNotice(True, 12.5, 3))
    writer.emergency(sent)
    writer.close()
    assert reader.waiting
    assert reader.take().records == [(1, DeadlineNotice(True, 12.5, 3)), (2, sent), (3, Gone())]
    assert not reader.waiting
    reader.close()


def test_only_its_owner_may_look_at_the_bridge(tmp_path: Path) -> None:
    writer = BridgeWriter(tmp_path / "bridge", new_run_id())
    (segment,) = segments(tmp_path / "bridge")
    assert stat.S_IMODE((tmp_path / "bridge").stat().st_mode) == 0o700
    assert stat.S_IMODE(segment.path.stat().st_mode) == 0o600
    writer.close()


def test_the_longest_reason_fits(tmp_path: Path) -> None:
    writer = BridgeWriter(tmp_path, new_run_id())
    writer.emergency(signal("𝄞" * 5000))
    writer.close()
    assert shortened("short") == "short" and shortened("x" * 500).endswith("x…")


def test_what_was_overwritten_is_counted(tmp_path: Path) -> None:
    writer = BridgeWriter(tmp_path, new_run_id())
    (segment,) = segments(tmp_path)
    reader = BridgeReader(segment)
    for number in range(SLOTS + 5):
        writer.deadline(DeadlineNotice(True, 0.0, number))
    crossed = reader.take()
    assert crossed.lost == 5 and crossed.records[0] == (6, DeadlineNotice(True, 0.0, 5))
    reader.close()
    writer.close()


@pytest.mark.parametrize("data", [b"X", b"D123", b"E\xff\xff"])
def test_a_record_that_no_writer_makes_is_refused(tmp_path: Path, data: bytes) -> None:
    segment = Segment.own(tmp_path, new_run_id())
    with RingWriter(segment.path) as ring:
        ring.write(data)
        reader = BridgeReader(segment)
        with pytest.raises(IntegrityError, match="Update both ends"):
            reader.take()
        reader.close()


def test_other_files_are_no_segments(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".01ABC.1.2.ring.77.1.tmp").write_text("x")
    (tmp_path / "01ABC.1.2.ring.seen").write_text("{}")
    assert segments(tmp_path) == segments(tmp_path / "nowhere") == []
