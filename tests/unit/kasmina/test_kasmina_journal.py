"""What is on disk is what happened; damage costs only what it hit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.errors import ValidationError
from kasmina import facts as f
from kasmina.journal import JournalFolder, decode_facts, encode_facts
from support.kasmina_life import RUN, ScriptedRuntime, germinate, seed_command


def lived() -> ScriptedRuntime:
    run = ScriptedRuntime()
    run.connect()
    run.command(germinate())
    run.train(110)
    run.command(seed_command(leyline.SEED_OPERATION_CULL, f"{RUN}/hidden/1", run.generation))
    run.take(run.executor.ended("completed", False))
    return run


def test_every_kind_of_fact_survives_the_disk() -> None:
    facts = tuple(lived().facts)
    assert decode_facts(encode_facts(facts)) == facts


def test_a_number_that_is_not_finite_survives_the_disk() -> None:
    run = ScriptedRuntime()
    run.connect()
    run.command(germinate())
    run.train(10)
    run.measured = {"gradient_norm": math.nan, "loss": math.inf}
    run.train(5)
    verdict = next(fact for fact in run.of(f.GateJudged) if fact.verdict.failed)
    (again,) = decode_facts(encode_facts([verdict]))
    assert isinstance(again, f.GateJudged)
    observed = {threshold.name: threshold.observed for threshold in again.verdict.thresholds}
    assert math.isnan(observed["gradient_norm_min"])


def test_a_torn_journal_gives_its_good_part_and_says_what_is_lost(tmp_path: Path) -> None:
    folder = JournalFolder(tmp_path, lambda sentence: None)
    journal = folder.open_run(RUN)
    facts = lived().facts
    for fact in facts:
        journal.append([fact])
    journal.close()
    path = tmp_path / "runs" / f"{RUN}.journal"
    path.write_bytes(path.read_bytes()[:-7])
    told: list[str] = []
    again = JournalFolder(tmp_path, told.append).open_run(RUN)
    assert again.facts == tuple(facts[:-1])
    assert len(told) == 1 and "Skipped" in told[0]
    again.append([facts[-1]])
    again.close()
    assert folder.open_run(RUN).facts == tuple(facts)


def test_a_record_of_another_version_is_told_and_passed_over(tmp_path: Path) -> None:
    from esper_core.journal import JournalWriter

    path = tmp_path / "runs" / f"{RUN}.journal"
    path.parent.mkdir()
    with JournalWriter(path) as writer:
        writer.append(b'[{"kind": "seed_teleported"}]')
        writer.append(encode_facts([lived().facts[0]]))
    told: list[str] = []
    assert len(JournalFolder(tmp_path, told.append).open_run(RUN).facts) == 1
    assert "record 1 cannot be read" in told[0]


def test_no_run_id_leads_out_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        JournalFolder(tmp_path, lambda sentence: None).open_run("../../etc/passwd")
