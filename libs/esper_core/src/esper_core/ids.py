"""Identifiers: minting, formatting, parsing. A malformed id is refused with the field it came in, never repaired."""

from __future__ import annotations

import re
import secrets
import uuid
from dataclasses import dataclass
from typing import Final

from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import ValidationError

_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_SITE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")
_ORDINAL: Final = re.compile(r"0|[1-9][0-9]{0,8}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")


@dataclass(frozen=True, slots=True)
class SeedId:
    """The parts of a seed id `<run>/<site>/<n>`."""

    run_id: str
    site: str
    ordinal: int

    def __str__(self) -> str:
        return f"{self.run_id}/{self.site}/{self.ordinal}"


def new_ulid(clock: Clock = SYSTEM_CLOCK) -> str:
    """Mint a ULID: 48 bits of milliseconds, then 80 random bits, as 26 Crockford characters."""
    value = (int(clock.wall().timestamp() * 1000) << 80) | secrets.randbits(80)
    return "".join(_CROCKFORD[(value >> shift) & 31] for shift in range(125, -1, -5))


def new_run_id(clock: Clock = SYSTEM_CLOCK) -> str:
    """Mint a training run id; ids sort by the time they were minted."""
    return new_ulid(clock)


def new_command_id() -> str:
    """Mint a command id (uuid4)."""
    return str(uuid.uuid4())


def new_id(prefix: str) -> str:
    """Mint an id for a directive, report, packet or message: `<prefix>-<32 hex digits>`."""
    return f"{prefix}-{uuid.uuid4().hex}"


def parse_run_id(value: str, field: str = "training_run_id") -> str:
    """Return `value` if it is a ULID.

    Raises
    ------
    ValidationError
        If it is not.
    """
    return _matched(_ULID, value, field, "a ULID: 26 characters of Crockford's base 32")


def parse_command_id(value: str, field: str = "command_id") -> str:
    """Return `value` if it is a uuid4 in its canonical lower-case form.

    Raises
    ------
    ValidationError
        If it is not.
    """
    try:
        parsed = uuid.UUID(value)
    except ValueError as error:
        raise _refused(value, field, "a uuid4 with hyphens") from error
    if str(parsed) != value or parsed.version != 4:
        raise _refused(value, field, "a uuid4 with hyphens")
    return value


def parse_site(value: str, field: str = "site") -> str:
    """Return `value` if it can name a site: letters, digits, dot, dash, underscore; no slash."""
    return _matched(_SITE, value, field, "1 to 128 letters, digits, dots, dashes or underscores")


def parse_name(value: str, field: str) -> str:
    """Return `value` if it can name a blueprint, policy, task or key."""
    return _matched(_NAME, value, field, "1 to 128 letters, digits, dots, dashes or underscores")


def format_seed_id(run_id: str, site: str, ordinal: int) -> str:
    """Build `<run>/<site>/<n>` from checked parts."""
    seed = SeedId(parse_run_id(run_id), parse_site(site), ordinal)
    _matched(_ORDINAL, str(ordinal), "ordinal", "an integer from 0")
    return str(seed)


def parse_seed_id(value: str, field: str = "seed_id") -> SeedId:
    """Split a seed id into its parts.

    Raises
    ------
    ValidationError
        If it is not `<run>/<site>/<n>`.
    """
    parts = value.split("/")
    if len(parts) != 3:
        raise _refused(value, field, "<run>/<site>/<n>")
    run_id, site, ordinal = parts
    _matched(_ORDINAL, ordinal, field, "<run>/<site>/<n> with n an integer from 0")
    return SeedId(parse_run_id(run_id, field), parse_site(site, field), int(ordinal))


def _matched(pattern: re.Pattern[str], value: str, field: str, allowed: str) -> str:
    if not pattern.fullmatch(value):
        raise _refused(value, field, allowed)
    return value


def _refused(value: str, field: str, allowed: str) -> ValidationError:
    return ValidationError(f"{field} is {value[:160]!r}; it must be {allowed}.", field=field, allowed=allowed)
