"""The shared worker: `AsyncWorker`; see `worker.py` for what it promises."""

from esper_core.worker.jobs import JobHandle, ShutdownReport, WorkerStats
from esper_core.worker.worker import AsyncWorker

__all__ = ["AsyncWorker", "JobHandle", "ShutdownReport", "WorkerStats"]
