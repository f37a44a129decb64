"""Who teaches a run is an ended run, a checkpoint or an exported folder; anything else is told in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from esper_cli.follow import told
from esper_cli.run_client import RunClient
from esper_cli.run_spec import RunOptions, run_spec
from esper_cli.teacher import TeacherOptions, teacher_spec
from esper_core import leyline
from esper_core.errors import StateConflictError, ValidationError
from esper_core.pb.esper.tolaria.v1 import tolaria_pb2

RUN = "01M7YZA3SEEM54XTFHCAEHJ41J"


class Answers(RunClient):
    """A run client with the answers of a trainer that has one run."""

    def __init__(self, state: leyline.RunState.ValueType, *good: bool) -> None:
        rows = [leyline.CheckpointInfo(checkpoint_id=f"{n:010d}-final", good=one) for n, one in enumerate(good)]
        self._answers: dict[str, Any] = {
            "GetRun": leyline.RunStatus(training_run_id=RUN, state=state),
            "ListCheckpoints": tolaria_pb2.ListCheckpointsResponse(folder="/runs/1/checkpoints", checkpoints=rows),
        }

    def call(self, method: str, request: Any, timeout_s: float = 30.0) -> Any:
        """Answer."""
        return self._answers[method]


ENDED = Answers(leyline.RUN_STATE_COMPLETED, False, True, True)


@pytest.mark.req("KAS-18")
def test_a_run_that_has_ended_teaches_from_its_last_good_checkpoint() -> None:
    wanted = teacher_spec(TeacherOptions(RUN, weight=0.0, memory_mib=2), ENDED)
    assert wanted is not None
    spec = run_spec(RunOptions("letter", teacher=wanted)).teacher
    assert spec.source == "/runs/1/checkpoints/0000000001-final"
    assert spec.HasField("weight") and spec.weight == 0.0 and not spec.HasField("temperature")
    assert spec.memory_bytes == 2 * 1024 * 1024


def test_a_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = teacher_spec(TeacherOptions("exported", temperature=2.0), ENDED)
    assert wanted == leyline.TeacherSpec(source=str(tmp_path / "exported"), temperature=2.0)


def test_without_a_teacher_nothing_is_asked_for() -> None:
    assert teacher_spec(TeacherOptions(), ENDED) is None
    assert not run_spec(RunOptions("letter")).HasField("teacher")


@pytest.mark.parametrize("options", [{"weight": 0.3}, {"temperature": 4.0}, {"memory_mib": 1}])
def test_how_much_to_learn_needs_somebody_to_learn_from(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="not from which") as refused:
        teacher_spec(TeacherOptions(**options), ENDED)
    assert refused.value.field == "--teacher"


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        (Answers(leyline.RUN_STATE_RUNNING, True), "is RUNNING and cannot teach yet"),
        (Answers(leyline.RUN_STATE_HALTED, False), "has no good checkpoint"),
    ],
)
def test_a_run_that_cannot_teach_is_refused(runs: RunClient, sentence: str) -> None:
    with pytest.raises(StateConflictError, match=sentence):
        teacher_spec(TeacherOptions(RUN), runs)


def test_whoever_watches_hears_of_the_teacher() -> None:
    change = leyline.TeacherChange(teacher_id="wise", takes_part=False, reason="It teaches nonsense.")
    assert told(leyline.RunEvent(teacher=change)) == "teacher wise has gone: It teaches nonsense."
