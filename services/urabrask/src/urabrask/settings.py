"""Settings of Urabrask."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from esper_core.settings import ServiceSettings
from urabrask.laboratory import Limits


class UrabraskSettings(ServiceSettings):
    """Everything that can be set about Urabrask."""

    model_config = SettingsConfigDict(env_prefix="URABRASK_")
    required_peers: ClassVar[tuple[str, ...]] = ("urza", "oona")

    trial_timeout_s: float = Field(
        default=20.0, gt=0, description="Longest time of one trial of a kernel, in seconds; then it is killed."
    )
    memory_limit_mib: int = Field(
        default=1024, ge=1, description="Most memory that one trial may take beyond its idle process, in MiB."
    )
    urza_deadline_s: float = Field(
        default=10.0, gt=0, description="Longest time for one question to Urza with all repetitions, in seconds."
    )
    prefetch_concurrency: int = Field(
        default=8, ge=1, le=256, description="Prefetch requests that are worked on at a time; trials still run singly."
    )
    jobs_kept: int = Field(default=256, ge=1, description="Finished jobs that ListJobs still tells.")

    def limits(self) -> Limits:
        """Return the bounds of a trial."""
        return Limits(self.trial_timeout_s, self.memory_limit_mib)
