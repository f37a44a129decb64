"""Errors of those who ask: what they want is malformed, missing, unknown or not theirs to have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from esper_core.errors.base import EsperError


class ConfigurationError(EsperError):
    """A file, option or combination of settings cannot work."""

    code = "ESP-1001"


class SettingsError(ConfigurationError):
    """An environment variable is missing or malformed; `variable` names it."""

    code = "ESP-1002"

    def __init__(self, message: str, *, variable: str) -> None:
        super().__init__(message, details={"variable": variable})

    @property
    def variable(self) -> str:
        """Name of the environment variable to set."""
        return self.details.get("variable", "")


class ValidationError(EsperError):
    """A caller's value is not allowed.

    Parameters
    ----------
    message : str
        The sentence for the caller.
    field : str
        Path of the field, for example `spec.budgets.max_seeds`.
    allowed : str or Sequence[str], optional
        What would have been accepted: a range in words, or the list of choices.
    """

    code = "ESP-1003"

    def __init__(self, message: str, *, field: str, allowed: str | Sequence[str] = "") -> None:
        text = allowed if isinstance(allowed, str) else ", ".join(allowed)
        super().__init__(message, details={"field": field, "allowed": text})

    @property
    def field(self) -> str:
        """Path of the field that is wrong."""
        return self.details.get("field", "")

    @property
    def allowed(self) -> str:
        """What the field accepts, in words; empty where no list exists."""
        return self.details.get("allowed", "")


class ContractError(ValidationError):
    """A message does not fit the Leyline contract: wrong version or an UNSPECIFIED enum."""

    code = "ESP-1004"


class DependencyViolationError(EsperError):
    """Something that must be supplied is missing; Esper never makes one up.

    Parameters
    ----------
    message : str
        The sentence for the caller.
    dependency : str
        What is missing, for example `training_run_id`.
    """

    code = "ESP-1005"

    def __init__(self, message: str, *, dependency: str, details: Mapping[str, str] | None = None) -> None:
        super().__init__(message, details={**(details or {}), "dependency": dependency})

    @property
    def dependency(self) -> str:
        """Name of what is missing."""
        return self.details.get("dependency", "")


class NotFoundError(EsperError):
    """No such run, task, site, blueprint, kernel, seed or policy."""

    code = "ESP-1006"


class AlreadyExistsError(EsperError):
    """A thing with that id exists and differs."""

    code = "ESP-1007"


class QuarantinedError(EsperError):
    """The artefact is quarantined."""

    code = "ESP-1008"


class UnauthenticatedError(EsperError):
    """The token is missing, malformed, expired or signed with an unknown key."""

    code = "ESP-1010"


class PermissionDeniedError(EsperError):
    """The caller's role may not do this."""

    code = "ESP-1011"


class CommandRejectedError(EsperError):
    """A signed message failed verification.

    Parameters
    ----------
    message : str
        The sentence for the sender.
    reason : int
        A value of `leyline.RejectReason`.
    reason_name : str
        Its name, for people and labels.
    """

    code = "ESP-1012"

    def __init__(self, message: str, *, reason: int, reason_name: str) -> None:
        super().__init__(message, details={"reject_reason": str(int(reason)), "reject_reason_name": reason_name})

    @property
    def reason(self) -> int:
        """The value of `leyline.RejectReason`."""
        return int(self.details.get("reject_reason", "0"))

    @property
    def reason_name(self) -> str:
        """The name of the reason."""
        return self.details.get("reject_reason_name", "")
