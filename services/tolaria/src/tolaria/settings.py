"""Settings of a training worker and of the service that starts it; both take the same `TOLARIA_` names."""

from __future__ import annotations

from pathlib import Path

from esper_core.settings import Field, LogLevel, PeerSettings, ServiceSettings, SettingsConfigDict


class WorkerSettings(PeerSettings):
    """How a worker trains, measures, saves and talks; every field has a default, so that a run needs no services."""

    model_config = SettingsConfigDict(env_prefix="TOLARIA_")

    log_level: LogLevel = Field(default="INFO", description="Lowest level that is logged.")
    keyring_file: Path | None = Field(
        default=None,
        validation_alias="ESPER_KEYRING_FILE",
        description="JSON file with the signing keys, mode 0600; needed as soon as a peer is configured.",
    )
    bridge_dir: Path | None = Field(
        default=None,
        validation_alias="ESPER_BRIDGE_DIR",
        description="Folder through which Weatherlight on this host hears of emergencies without the network.",
    )
    task_allowlist: str = Field(
        default="", description="Tasks of the operator's own, `module:function`, separated by commas."
    )

    evidence_interval_steps: int = Field(default=20, ge=1, description="Optimizer steps between two evidence reports.")
    evidence_spacing_ms: float = Field(
        default=25.0, ge=0, description="Shortest wall time between two evidence reports within an epoch."
    )
    strict_isolation: bool = Field(
        default=False,
        validation_alias="KASMINA_STRICT_ISOLATION",
        description="End the run at the next fence when a seed that is to learn apart touches its host.",
    )
    probe_fraction: float = Field(
        default=0.01, gt=0, le=1, description="Share of the budget between two counterfactual probes of a seed."
    )
    probe_examples: int = Field(default=1024, ge=32, description="Held-out examples in a counterfactual probe.")

    gradient_interval_steps: int = Field(
        default=50, ge=0, description="Steps between two looks at the gradients for an epoch's report; 0 for none."
    )
    gradient_layers: int = Field(default=5, ge=0, le=64, description="Layers in a report about gradients.")
    gradient_spacing_s: float = Field(
        default=1.0, ge=0, description="Shortest wall time between two reports about gradients."
    )

    snapshot_interval_steps: int = Field(
        default=200, ge=1, description="Steps between two in-memory snapshots for the fast rollback."
    )
    snapshot_ring_size: int = Field(default=3, ge=1, le=16, description="In-memory snapshots that are kept.")
    rollback_limit: int = Field(default=3, ge=0, description="Automatic rollbacks after which the run halts.")
    explosion_factor: float = Field(
        default=4.0, gt=1, description="A loss above this many times the first losses counts as an explosion."
    )
    fast_rollback_deadline_ms: int = Field(default=500, ge=1, description="Deadline of a rollback from memory.")
    full_rollback_deadline_s: float = Field(default=12.0, gt=0, description="Deadline of a rollback from disk.")

    failed_epoch_limit: int = Field(
        default=3, ge=1, description="Epochs in a row that needed a rollback after which an emergency halts the run."
    )
    emergency_signals_per_minute: int = Field(
        default=60,
        ge=1,
        description="Emergency signals that a run tells within a minute; more act too but are told later.",
    )
    emergency_bypass_per_minute: int = Field(
        default=12,
        ge=1,
        description="Emergency signals beyond those that are told at once, as they raise the level.",
    )
    emergency_hold_s: float = Field(
        default=30.0, ge=0, description="Quiet time before the level of an emergency can be lowered."
    )

    compile_backend: str = Field(
        default="inductor", description="Compiler of torch's that runs use which ask for compiling."
    )

    prefetch: bool = Field(default=False, description="Send the next batch to the device while the present one trains.")
    cuda_graphs: bool = Field(
        default=False, description="Replay captured CUDA graphs while no seed is unsettled; on a CUDA device only."
    )

    profile_from_step: int = Field(
        default=0, ge=0, description="First step that is profiled; 0 for none. Needs TOLARIA_PROFILE_DIR."
    )
    profile_steps: int = Field(default=20, ge=1, le=200, description="Steps that are profiled.")
    profile_dir: Path | None = Field(default=None, description="Folder for traces of the profiler.")

    checkpoint_interval_s: float = Field(
        default=10.0, gt=0, description="Longest wall time between two durable checkpoints."
    )
    checkpoint_spacing_s: float = Field(
        default=2.0, ge=0, description="Shortest wall time between two checkpoints that an epoch's end asks for."
    )
    checkpoints_kept: int = Field(default=3, ge=2, le=100, description="Good checkpoints that are kept on disk.")

    status_interval_s: float = Field(default=1.0, gt=0, description="Time between two status reports.")
    final_fence_s: float = Field(
        default=10.0, ge=0, description="Longest wait at the end of the budget for decisions on unsettled seeds."
    )
    shutdown_s: float = Field(default=5.0, gt=0, description="Longest wait for the mediator to deliver its last words.")

    advise_interval_ms: int = Field(
        default=20, ge=0, description="Shortest time between two evaluations; steps in between are conflated."
    )
    advise_timeout_s: float = Field(default=2.0, gt=0, description="Longest wait for one decision of Tamiyo.")
    kernel_timeout_s: float = Field(default=20.0, gt=0, description="Longest time to fetch, verify and build a kernel.")
    kernel_cache_bytes: int = Field(default=64 * 2**20, ge=0, description="Kernel bytes kept in memory.")
    connect_timeout_s: float = Field(default=5.0, gt=0, description="Longest wait for a connection to a peer.")
    peer_failure_limit: int = Field(
        default=3, ge=1, description="Failures of a peer in a row after which the run turns conservative."
    )
    backoff_initial_s: float = Field(default=0.2, gt=0, description="First pause before a peer is tried again.")
    backoff_limit_s: float = Field(default=2.0, gt=0, description="Longest pause before a peer is tried again.")
    outbox_limit: int = Field(default=4096, ge=16, description="Messages that may wait for a peer.")

    @property
    def allowed_tasks(self) -> tuple[str, ...]:
        """The operator's own tasks."""
        return tuple(name.strip() for name in self.task_allowlist.split(",") if name.strip())


class TolariaSettings(ServiceSettings, WorkerSettings):
    """How the service keeps runs; whatever a worker takes is known here too and reaches it by the environment."""

    model_config = SettingsConfigDict(env_prefix="TOLARIA_")

    max_parallel_runs: int = Field(default=2, ge=1, le=64, description="Runs that train at a time; more wait.")
    respawn_limit: int = Field(
        default=5, ge=1, description="Times a worker is started again without getting further before its run fails."
    )
    respawn_pause_s: float = Field(
        default=0.2, gt=0, description="Pause before a dead worker is started again; doubles while it gets no further."
    )
    order_timeout_s: float = Field(
        default=15.0, gt=0, description="Longest wait until a worker has obeyed an order, its connecting included."
    )
    halt_timeout_s: float = Field(
        default=20.0, gt=0, description="Longest wait until a run that obeyed a halt has ended."
    )
    stop_grace_s: float = Field(
        default=10.0, gt=0, description="Time that workers have to halt with a checkpoint when the service stops."
    )
    chore_timeout_s: float = Field(
        default=60.0, gt=0, description="Longest time of a check, a checkpoint listing or an export."
    )
