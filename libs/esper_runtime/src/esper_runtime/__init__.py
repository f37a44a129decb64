"""What Esper puts beside the model in the training process: sites, seeds, blending, isolation, snapshots."""

from esper_core.blending import blend_from_message, blend_to_message, modes
from esper_runtime import stages
from esper_runtime.alpha import AlphaRamp
from esper_runtime.blend_summary import BlendSummary, summarise_blend
from esper_runtime.blending import BlendSpec
from esper_runtime.contracts import Site, SiteContract, check_module
from esper_runtime.counterfactual import Contribution, probe
from esper_runtime.distillation import Distillation
from esper_runtime.export import export_model, load_exported
from esper_runtime.flops import FlopCount, count_flops
from esper_runtime.graft import Graft
from esper_runtime.host import Host
from esper_runtime.isolation_guard import IsolationGuard, LeakLimits
from esper_runtime.kernels import KernelSpec, load_kernel, materialise, sha256_hex, verify_digest
from esper_runtime.leaks import Leak, watch_leaks
from esper_runtime.naming import NamedTensor
from esper_runtime.optim import (
    OptimizerState,
    add_seed_group,
    capture_optimizer,
    remove_seed_group,
    restore_optimizer,
)
from esper_runtime.own_loop import GrowthStep, HeldOut, Session
from esper_runtime.ownership import HOST, Clash, OwnershipRegistry, UpdateValidation, seed_owner, teacher_owner
from esper_runtime.snapshot import RandomState, Snapshot, capture, restore
from esper_runtime.snapshot_store import read_snapshot, write_snapshot
from esper_runtime.topology import GraftRecord, Topology

__all__ = [
    "HOST",
    "AlphaRamp",
    "BlendSpec",
    "BlendSummary",
    "Clash",
    "Contribution",
    "Distillation",
    "FlopCount",
    "Graft",
    "GraftRecord",
    "GrowthStep",
    "HeldOut",
    "Host",
    "IsolationGuard",
    "KernelSpec",
    "Leak",
    "LeakLimits",
    "NamedTensor",
    "OptimizerState",
    "OwnershipRegistry",
    "RandomState",
    "Session",
    "Site",
    "SiteContract",
    "Snapshot",
    "Topology",
    "UpdateValidation",
    "add_seed_group",
    "blend_from_message",
    "blend_to_message",
    "capture",
    "capture_optimizer",
    "check_module",
    "count_flops",
    "export_model",
    "load_exported",
    "load_kernel",
    "materialise",
    "modes",
    "probe",
    "read_snapshot",
    "remove_seed_group",
    "restore",
    "restore_optimizer",
    "seed_owner",
    "sha256_hex",
    "stages",
    "summarise_blend",
    "teacher_owner",
    "verify_digest",
    "watch_leaks",
    "write_snapshot",
]
