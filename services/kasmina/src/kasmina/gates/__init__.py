"""The gates G0 to G5: pure functions from evidence and context to a verdict."""

from kasmina.gates.g0_sanity import judge_sanity
from kasmina.gates.g1_gradient_health import judge_gradient_health
from kasmina.gates.g2_stability import judge_stability
from kasmina.gates.g3_interface import judge_interface
from kasmina.gates.g4_system_impact import judge_system_impact, pooled
from kasmina.gates.g5_reset import judge_reset
from kasmina.gates.limits import GateLimits
from kasmina.gates.verdict import Threshold, Verdict, given_up

__all__ = [
    "GateLimits",
    "Threshold",
    "Verdict",
    "given_up",
    "judge_gradient_health",
    "judge_interface",
    "judge_reset",
    "judge_sanity",
    "judge_stability",
    "judge_system_impact",
    "pooled",
]
