"""What happened in a run, as the journal keeps it. The state of a run is the fold of its facts, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from kasmina.blend import Blend
from kasmina.commands import Outcome
from kasmina.directives import Directive, DirectiveResult
from kasmina.evidence import Evidence
from kasmina.gates.verdict import Verdict
from kasmina.kernels import Kernel
from kasmina.sites import Site


@dataclass(frozen=True, slots=True)
class RunOpened:
    """A runtime said hello; the last one counts."""

    run_id: str
    sites: tuple[Site, ...]
    blueprint_ids: tuple[str, ...]
    total_steps: int
    steps_per_epoch: int
    isolation: int
    host_layers: tuple[str, ...]
    generation: int
    step: int
    at: datetime
    allow_restricted: bool = False
    teacher_id: str = ""
    kind: Literal["run_opened"] = "run_opened"


@dataclass(frozen=True, slots=True)
class SeedPlanted:
    """A germination was accepted; the seed is DORMANT until it is attached."""

    seed_id: str
    site: str
    blueprint_id: str
    kernel: Kernel
    blend: Blend
    isolation: int
    command_id: str
    step: int
    at: datetime
    kind: Literal["seed_planted"] = "seed_planted"


@dataclass(frozen=True, slots=True)
class SeedAdopted:
    """The runtime's truth was taken over at a reconciliation; not a move of Kasmina's."""

    seed_id: str
    site: str
    blueprint_id: str
    kernel_digest: str
    stage: int
    alpha: float
    parameter_count: int
    step: int
    at: datetime
    why: str
    kind: Literal["seed_adopted"] = "seed_adopted"


@dataclass(frozen=True, slots=True)
class MovePlanned:
    """A seed is on its way to a stage; it arrives when the runtime has applied the directives."""

    seed_id: str
    to_stage: int
    reason: str
    command_id: str
    kind: Literal["move_planned"] = "move_planned"


@dataclass(frozen=True, slots=True)
class MoveAbandoned:
    """The runtime could not carry out a move; the seed stays where it is."""

    seed_id: str
    to_stage: int
    why: str
    kind: Literal["move_abandoned"] = "move_abandoned"


@dataclass(frozen=True, slots=True)
class DirectiveIssued:
    """The runtime was told to do something."""

    directive: Directive
    attempt: int
    kind: Literal["directive_issued"] = "directive_issued"


@dataclass(frozen=True, slots=True)
class DirectiveSettled:
    """The runtime answered a directive."""

    result: DirectiveResult
    kind: Literal["directive_settled"] = "directive_settled"


@dataclass(frozen=True, slots=True)
class GateJudged:
    """A gate was evaluated."""

    run_id: str
    seed_id: str
    verdict: Verdict
    step: int
    at: datetime
    kind: Literal["gate_judged"] = "gate_judged"


@dataclass(frozen=True, slots=True)
class StageMoved:
    """A seed moved from one stage to another."""

    run_id: str
    seed_id: str
    site: str
    blueprint_id: str
    from_stage: int
    to_stage: int
    reason: str
    command_id: str
    step: int
    epoch: int
    at: datetime
    parameter_count: int
    kind: Literal["stage_moved"] = "stage_moved"


@dataclass(frozen=True, slots=True)
class EvidenceKept:
    """Evidence with a counterfactual, on which a later verdict rests."""

    evidence: Evidence
    kind: Literal["evidence_kept"] = "evidence_kept"


@dataclass(frozen=True, slots=True)
class BlendChosen:
    """The blend of a seed was replaced."""

    seed_id: str
    blend: Blend
    command_id: str
    kind: Literal["blend_chosen"] = "blend_chosen"


@dataclass(frozen=True, slots=True)
class WishNoted:
    """Tamiyo asked to hurry a seed on, or to keep it as soon as its probation is over."""

    seed_id: str
    wish: Literal["advance", "fossilize"]
    command_id: str
    kind: Literal["wish_noted"] = "wish_noted"


@dataclass(frozen=True, slots=True)
class PairEmbargoed:
    """A site and a blueprint may not meet again before the earlier of a moment and an epoch."""

    seed_id: str
    site: str
    blueprint_id: str
    until: datetime
    until_epoch: int
    reason: str
    kind: Literal["pair_embargoed"] = "pair_embargoed"


@dataclass(frozen=True, slots=True)
class SeedClosed:
    """Nothing more will happen to a seed."""

    seed_id: str
    why: str
    at: datetime
    kind: Literal["seed_closed"] = "seed_closed"


@dataclass(frozen=True, slots=True)
class CommandDecided:
    """A command was accepted or rejected."""

    outcome: Outcome
    kind: Literal["command_decided"] = "command_decided"


@dataclass(frozen=True, slots=True)
class TeacherReset:
    """The teacher of the run is to go."""

    run_id: str
    teacher_id: str
    reason: str
    at: datetime
    kind: Literal["teacher_reset"] = "teacher_reset"


@dataclass(frozen=True, slots=True)
class RunClosed:
    """The run is over; `resumable` says whether it may come back."""

    run_id: str
    reason: str
    resumable: bool
    at: datetime
    kind: Literal["run_closed"] = "run_closed"


Fact = (
    RunOpened
    | SeedPlanted
    | SeedAdopted
    | MovePlanned
    | MoveAbandoned
    | DirectiveIssued
    | DirectiveSettled
    | GateJudged
    | StageMoved
    | EvidenceKept
    | BlendChosen
    | WishNoted
    | PairEmbargoed
    | SeedClosed
    | CommandDecided
    | TeacherReset
    | RunClosed
)
