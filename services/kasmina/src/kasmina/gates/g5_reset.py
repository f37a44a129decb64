"""G5: nothing is left behind."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from esper_core import leyline
from kasmina.gates.verdict import Verdict, holds, judge

KINDS: Final = ("module", "parameter", "hook", "optimizer_group", "cache", "registry")


def judge_reset(removed_cleanly: bool, left_behind: Collection[str] = ()) -> Verdict:
    """Judge what the runtime told about the removal of a seed.

    Parameters
    ----------
    removed_cleanly : bool
        Whether nothing is left.
    left_behind : Collection[str]
        What is left, as kinds; a runtime that does not name it leaves this empty.
    """
    held = ", ".join(left_behind) or "something that it does not name"
    checks = [holds(f"no_{kind}", kind not in left_behind, "left_behind", f"It left behind: {held}.") for kind in KINDS]
    checks.append(holds("removed_cleanly", removed_cleanly, "left_behind", f"The runtime still holds {held} of it."))
    success = "Module, parameters, hooks, optimizer group, caches and registry entries are gone."
    return judge(leyline.SEED_GATE_G5_RESET, checks, success)
