"""A bound on the memory that a trial may take beyond what the process holds already."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from esper_core.errors import ResourceExhaustedError

_STATM: Final = Path("/proc/self/statm")
_MIB: Final = 1024 * 1024
_OUT_OF_MEMORY: Final = ("can't allocate memory", "not enough memory", "bad_alloc", "Cannot allocate memory")


def resident_bytes() -> int | None:
    """Return the resident memory of this process; None where the system does not tell."""
    return _pages(1)


@contextmanager
def memory_limit(limit_mib: int) -> Iterator[None]:
    """Let the block allocate at most `limit_mib` more address space.

    Raises
    ------
    ResourceExhaustedError
        If it asked for more.
    """
    now = _pages(0)
    before = resource.getrlimit(resource.RLIMIT_AS)
    if now is not None:
        resource.setrlimit(resource.RLIMIT_AS, (now + limit_mib * _MIB, before[1]))
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        raise ResourceExhaustedError(
            f"It needs more than the {limit_mib} MiB that URABRASK_MEMORY_LIMIT_MIB allows."
        ) from None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def memory_is_limited() -> bool:
    """Tell whether the limit has an effect on this system."""
    return _pages(0) is not None


def _pages(field: int) -> int | None:
    try:
        return int(_STATM.read_text().split()[field]) * resource.getpagesize()
    except OSError:
        # Only Linux tells; the sheet then says that memory was not measured.
        return None
