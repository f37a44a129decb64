"""The end of a run: the final test, the result, the last checkpoint."""

from __future__ import annotations

from esper_core import leyline
from tolaria.reporting.board import StatusBoard
from tolaria.reporting.layers import topology_digest
from tolaria.training.loop import LoopParts
from tolaria.training.orders import Ending
from tolaria.training.validation import Scores, final_test


def conclude(parts: LoopParts, board: StatusBoard, ending: Ending, resumes: int) -> None:
    """Write the last checkpoint and tell how the run ended; the test split is looked at only when it completed."""
    parts.profiler.close()
    parts.fence.close()
    if ending.how == "halted":
        parts.keeper.checkpoint("halt")
        parts.reporter.change_state(leyline.RUN_STATE_HALTED, ending.reason)
        return
    parts.keeper.checkpoint("final")
    result = run_result(parts, final_test(parts.session), board.elapsed_s, resumes)
    board.set_result(result)
    parts.reporter.progressed()
    parts.reporter.tell(result)
    parts.reporter.change_state(leyline.RUN_STATE_COMPLETED, ending.reason)


def run_result(parts: LoopParts, scores: Scores, wall_s: float, resumes: int) -> leyline.RunResult:
    """Put the result together; FLOPs and inference cost are those of the model as it stands."""
    session = parts.session
    return leyline.RunResult(
        accuracy=scores.accuracy or 0.0,
        accuracy_measured=scores.accuracy is not None,
        test_loss=scores.loss,
        parameters_initial=session.counters.parameters_initial,
        parameters_final=session.host.parameter_count(),
        flops=session.counters.flops,
        inference_flops_per_example=session.cost.inference_per_example,
        wall_s=wall_s,
        steps=session.counters.step,
        topology_digest=topology_digest(session.host),
        bits_per_character=scores.bits_per_character,
        rollbacks=session.counters.rollbacks,
        resumes=resumes,
    )
