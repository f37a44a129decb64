"""G5: nothing is left behind."""

from __future__ import annotations

from esper_core import leyline
from kasmina.gates.verdict import Verdict, holds, judge


def judge_reset(removed_cleanly: bool) -> Verdict:
    """Judge what the runtime told about the removal of a seed."""
    sentence = "The runtime still holds a module, hook, optimizer group or registry entry of the seed."
    checks = [holds("removed_cleanly", removed_cleanly, "left_behind", sentence)]
    return judge(leyline.SEED_GATE_G5_RESET, checks, "Module, hooks, optimizer group and registry entries are gone.")
