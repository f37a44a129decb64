"""Tamiyo's own errors."""

from __future__ import annotations

from esper_core.errors import TimeoutExceededError


class TamiyoTimeoutError(TimeoutExceededError):
    """An evaluation took longer than its budget; its result is thrown away."""
