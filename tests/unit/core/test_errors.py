"""One tree, one catalogue: every code has a class, every class has a row, and errors survive travel."""

from __future__ import annotations

import errno
import pickle
import re
from pathlib import Path

import pytest

from esper_core import errors
from esper_core.errors import (
    CATALOGUE,
    CommandRejectedError,
    DiskFullError,
    EsperError,
    InternalError,
    NotFoundError,
    ResourceExhaustedError,
    SettingsError,
    StorageError,
    TimeoutExceededError,
    ValidationError,
    class_of,
    error_classes,
    from_code,
    to_exit_code,
)
from esper_core.errors import __doc__ as drawing
from esper_core.errors.docs import main, render

GRPC_STATUSES = {
    "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}  # fmt: skip
CORE_CLASSES = [cls for cls in error_classes() if cls.__module__.startswith("esper_core.errors.")]


def test_every_concrete_class_has_exactly_one_row() -> None:
    owned = [cls.__dict__["code"] for cls in CORE_CLASSES if "code" in cls.__dict__]
    assert len(owned) == len(set(owned))
    assert set(owned) == set(CATALOGUE)
    shared = [cls.__name__ for cls in CORE_CLASSES if "code" not in cls.__dict__]
    assert shared == ["InternalError"]


@pytest.mark.parametrize("row", CATALOGUE.values(), ids=lambda row: row.code)
def test_rows_are_complete(row: errors.CatalogueEntry) -> None:
    assert re.fullmatch(r"ESP-\d{4}", row.code)
    assert row.grpc_status in GRPC_STATUSES
    assert 0 < row.exit_code < 126
    assert row.title and row.what_to_do.endswith(".")


def test_the_tree_drawn_in_the_module_is_the_tree() -> None:
    drawn = set(re.findall(r"\b[A-Z]\w+Error\b", drawing or "")) - {"EsperError"}
    assert drawn == {cls.__name__ for cls in CORE_CLASSES} - {"EsperError"}


def test_every_class_is_exported() -> None:
    assert {cls.__name__ for cls in CORE_CLASSES} <= set(errors.__all__)
    assert all(hasattr(errors, name) for name in errors.__all__)


def test_a_class_with_an_unknown_code_is_refused() -> None:
    with pytest.raises(TypeError, match="ESP-9999"):
        type("StrangeError", (EsperError,), {"code": "ESP-9999"})


def test_a_subclass_elsewhere_shares_its_parents_row() -> None:
    class TamiyoTimeoutError(TimeoutExceededError):
        pass

    assert to_exit_code(TamiyoTimeoutError("late")) == CATALOGUE["ESP-1020"].exit_code
    assert TamiyoTimeoutError("late").retryable
    assert class_of("ESP-1020") is TimeoutExceededError


def test_errors_survive_the_wire() -> None:
    sent = ValidationError("depth is 9.", field="spec.depth", allowed=["1", "2"])
    got = from_code(sent.code, sent.message, sent.details)
    assert isinstance(got, ValidationError)
    assert (got.field, got.allowed, str(got), got.retryable) == ("spec.depth", "1, 2", "depth is 9.", False)


def test_a_code_from_a_newer_peer_is_still_an_error() -> None:
    assert type(from_code("ESP-7777", "new", {})) is EsperError
    assert type(from_code("ESP-1000", "defect", {})) is InternalError


def test_errors_survive_a_process_boundary() -> None:
    sent = CommandRejectedError("stale", reason=8, reason_name="STALE_COMMAND")
    got = pickle.loads(pickle.dumps(sent))
    assert isinstance(got, CommandRejectedError)
    assert (got.reason, got.reason_name, got.message) == (8, "STALE_COMMAND", "stale")
    exhausted = pickle.loads(pickle.dumps(ResourceExhaustedError("full", retry_after_s=2.5, retryable=False)))
    assert (exhausted.retry_after_s, exhausted.retryable) == (2.5, False)


def test_exit_codes() -> None:
    assert to_exit_code(SettingsError("no", variable="X")) == 78
    assert to_exit_code(NotFoundError("no")) == 66
    assert to_exit_code(KeyboardInterrupt()) == 130
    assert to_exit_code(RuntimeError("defect")) == 70


def test_a_full_disk_is_its_own_error() -> None:
    full = StorageError.from_os_error(OSError(errno.ENOSPC, "No space left"), "/data/x", "write")
    assert isinstance(full, DiskFullError) and "disk is full" in full.message
    other = StorageError.from_os_error(OSError(errno.EACCES, "Permission denied"), "/data/x", "write")
    assert other.message == "Cannot write /data/x: Permission denied."


def test_the_page_names_every_code(tmp_path: Path) -> None:
    page = render()
    assert all(f'<a id="{row.anchor}"></a>' in page for row in CATALOGUE.values())
    target = tmp_path / "docs" / "errors.md"
    assert main([str(target)]) == 0
    assert target.read_text(encoding="utf-8") == page
