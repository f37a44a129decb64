"""The replay store keeps every report once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.clocks import to_timestamp
from esper_core.errors import StorageError, ValidationError
from simic.replay import ReplayStore


def report(number: int, **changes: object) -> leyline.FieldReport:
    message = leyline.FieldReport(
        version=1,
        report_id=f"fr-synth-{number}",
        command_id=f"command-{number}",
        training_run_id="run",
        outcome=leyline.FIELD_REPORT_OUTCOME_SUCCESS,
        issued_at=to_timestamp(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)),
        delta=leyline.FieldReportDelta(loss_delta=-0.1 * number),
    )
    for name, value in changes.items():
        setattr(message, name, value)
    return message


@pytest.mark.req("SIM-1")
def test_a_report_is_stored_once_however_often_it_comes(tmp_path: Path) -> None:
    store = ReplayStore(tmp_path / "replay.sqlite")
    assert store.add(report(1))
    assert not store.add(report(1))
    assert (store.count(), store.duplicates()) == (1, 1)


def test_reports_and_counts_survive_a_restart(tmp_path: Path) -> None:
    ReplayStore(tmp_path / "replay.sqlite").add(report(1))
    again = ReplayStore(tmp_path / "replay.sqlite")
    assert not again.add(report(1))
    assert again.newest(10) == [report(1)]
    assert again.duplicates() == 1


def test_the_newest_come_first_whatever_the_order_of_arrival(tmp_path: Path) -> None:
    store = ReplayStore(tmp_path / "replay.sqlite")
    for number in (2, 3, 1):
        store.add(report(number))
    assert [found.report_id for found in store.newest(2)] == ["fr-synth-3", "fr-synth-2"]


@pytest.mark.parametrize("field", ["report_id", "command_id", "training_run_id"])
def test_a_report_without_identity_is_refused(tmp_path: Path, field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        ReplayStore(tmp_path / "replay.sqlite").add(report(1, **{field: ""}))


@pytest.mark.req("TAM-9")
def test_a_report_without_a_time_is_refused(tmp_path: Path) -> None:
    timeless = report(1)
    timeless.ClearField("issued_at")
    with pytest.raises(ValidationError, match="issued_at"):
        ReplayStore(tmp_path / "replay.sqlite").add(timeless)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be used"):
        ReplayStore(tmp_path / "nowhere" / "replay.sqlite")
