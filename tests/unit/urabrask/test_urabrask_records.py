"""Sheets are signed and chained, remembered over restarts; locks and jobs keep order."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.blueprints import KernelSpec, SiteContract
from esper_core.clocks import ManualClock
from esper_core.errors import NotFoundError, QuarantinedError
from esper_core.security import Keyring, MessageVerifier
from urabrask.assessment.assessment import Assessment, Measurement
from urabrask.assessment.hazards import Hazard
from urabrask.assessment.verdict import judge
from urabrask.convert import init_seed, kernel_descriptor, quarantine_of, spec_from_messages
from urabrask.jobs import JobList
from urabrask.laboratory import Weights
from urabrask.sheet_book import SheetBook
from urabrask.sheets import SheetOffice, prewarm, sheet_digest

SPEC = KernelSpec("mlp_residual.v1", SiteContract("features", 16))
FIGURES = (
    Measurement("latency_p50[batch=1,float32]", 0.1, "ms"),
    Measurement("latency_p50[batch=32,float32]", 0.2, "ms"),
    Measurement("latency_p95[batch=32,float32]", 0.4, "ms"),
)


def assessment(*hazards: Hazard) -> Assessment:
    return Assessment(judge(hazards), FIGURES, ("accelerator: none here",), "2.13.0")


def issued(keyring: Keyring, *hazards: Hazard, previous: str = "", digest: str = "ab") -> leyline.Bsds:
    office = SheetOffice(keyring, ManualClock())
    return office.issue(
        assessment(*hazards), "mlp_residual.v1", kernel_digest=digest, size_bytes=100, previous_digest=previous
    )


@pytest.mark.req("URB-1")
def test_a_sheet_is_whole_signed_and_says_what_was_not_measured() -> None:
    keyring = Keyring.generate()
    sheet = issued(keyring, Hazard("slow", "It takes long.", 0.3, "Make it smaller."), previous="cd")
    leyline.validate(sheet)
    assert MessageVerifier(keyring, "bsds", ledger=None, freshness=None).verify(sheet).accepted
    assert sheet.hazard_band == leyline.HAZARD_BAND_MEDIUM
    assert sheet.previous_digest == "cd"
    assert list(sheet.not_measured) == ["accelerator: none here"]
    assert prewarm(sheet) == (0.2, 0.4)


def test_a_sheet_without_figures_has_no_prewarm() -> None:
    assert prewarm(leyline.Bsds()) == (0.0, 0.0)


def test_only_a_critical_sheet_refuses_its_kernel() -> None:
    keyring = Keyring.generate()
    assert quarantine_of(issued(keyring, Hazard("bad", "It is bad.", 0.8, "Mind it."))) is None
    refusal = quarantine_of(issued(keyring, Hazard("worst", "It is the worst.", 0.9, "Leave it.")))
    assert isinstance(refusal, QuarantinedError)
    assert "It is the worst." in refusal.message


def test_the_book_remembers_the_last_sheet_of_each_kernel_over_a_restart(tmp_path: Path) -> None:
    keyring, path = Keyring.generate(), tmp_path / "sheets.journal"
    book = SheetBook(path)
    first, second, other = issued(keyring), issued(keyring), issued(keyring, digest="cd")
    for sheet in (first, second, other):
        book.put(sheet)
    book.close()
    again = SheetBook(path)
    assert again.find("ab") == second
    assert again.find("cd") == other
    assert again.find("ef") is None
    again.close()


def test_a_damaged_book_keeps_what_is_good(tmp_path: Path) -> None:
    path = tmp_path / "sheets.journal"
    sheet = issued(Keyring.generate())
    book = SheetBook(path)
    book.put(sheet)
    book.close()
    path.write_bytes(path.read_bytes() + b"\x00torn")
    again = SheetBook(path)
    assert again.find("ab") == sheet
    again.close()


def test_a_kernel_is_described_as_urza_will_be_asked_for_it() -> None:
    weights = Weights(b"weights", 544, None)
    kernel = kernel_descriptor(SPEC, weights, ManualClock().wall())
    leyline.validate(kernel)
    assert [parameter.name for parameter in kernel.parameters] == sorted(SPEC.parameters)
    assert spec_from_messages(kernel.blueprint_id, kernel.parameters, kernel.contract) == SPEC
    assert kernel.init_seed == init_seed(SPEC) < 2**63


def test_the_chain_digest_covers_the_signature() -> None:
    keyring = Keyring.generate()
    assert sheet_digest(issued(keyring)) != sheet_digest(issued(keyring))


def test_jobs_are_told_newest_first_with_their_end() -> None:
    jobs = JobList(kept=2)
    with pytest.raises(NotFoundError), jobs.follow("one"):
        raise NotFoundError("There is none.")
    with jobs.follow("two") as job:
        assert (job.state, jobs.active) == ("queued", 1)
        job.begin()
        assert job.state == "running"
    with jobs.follow("three"):
        pass
    told = jobs.newest(10)
    assert [(one.blueprint_id, one.state) for one in told] == [("three", "done"), ("two", "done")]
    assert jobs.active == 0


def test_a_failed_job_says_why() -> None:
    jobs = JobList()
    with pytest.raises(NotFoundError), jobs.follow("one"):
        raise NotFoundError("There is none.")
    (job,) = jobs.newest(1)
    assert (job.state, job.message) == ("failed", "There is none.")
    assert job.ended_at is not None
