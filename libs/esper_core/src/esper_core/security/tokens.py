"""Bearer tokens of RPC: `esper1.<claims>.<hmac>`, both parts base64url without padding.

The claims are JSON `{sub, role, iat, exp, kid}`; the HMAC covers `esper1.<claims>` under the `rpc` key named by `kid`.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, Literal, get_args

from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import UnauthenticatedError, ValidationError
from esper_core.security.keyring import Keyring

Role = Literal["service", "operator", "viewer"]
ROLES: Final[tuple[str, ...]] = get_args(Role)
_SCHEME: Final = "esper1"
_LEEWAY_S: Final = 30


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """Who calls, in which role, and until when (Unix seconds)."""

    subject: str
    role: Role
    issued_at_s: int
    expires_at_s: int
    key_id: str


def mint_token(keyring: Keyring, subject: str, role: Role, *, ttl_s: int = 3600, clock: Clock = SYSTEM_CLOCK) -> str:
    """Make a token for `subject`, signed with the current key.

    Raises
    ------
    ValidationError
        If the role does not exist or the subject is empty.
    """
    if role not in ROLES:
        raise ValidationError(f"role is {role!r}; it must be one of {', '.join(ROLES)}.", field="role", allowed=ROLES)
    if not subject:
        raise ValidationError("subject is empty; name who will use the token.", field="subject")
    issued = int(clock.wall().timestamp())
    claims = {"sub": subject, "role": role, "iat": issued, "exp": issued + ttl_s, "kid": keyring.current_id}
    body = f"{_SCHEME}.{_encode(json.dumps(claims, separators=(',', ':')).encode())}"
    return f"{body}.{_encode(keyring.sign('rpc', body.encode()))}"


def verify_token(keyring: Keyring, token: str, *, clock: Clock = SYSTEM_CLOCK) -> TokenClaims:
    """Check scheme, signature and times.

    Raises
    ------
    UnauthenticatedError
        With the reason; never with the token.
    """
    body, _, signature = token.rpartition(".")
    scheme, _, payload = body.partition(".")
    if scheme != _SCHEME or not payload or not signature:
        raise UnauthenticatedError("The token is malformed. Get a new one with `esper token`.")
    claims = _claims(payload)
    if not keyring.verify("rpc", claims.key_id, body.encode(), _decode(signature)):
        raise UnauthenticatedError("The token is signed with an unknown key. Use a token of this stack's keyring.")
    _check_times(claims, clock)
    return claims


class TokenSource:
    """Mints a service's own token and renews it when two thirds of its life are over. Safe across threads."""

    def __init__(
        self, keyring: Keyring, subject: str, role: Role = "service", *, ttl_s: int = 3600, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._keyring = keyring
        self._subject = subject
        self._role: Role = role
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = Lock()
        self._token = ""
        self._renew_at_s = float("-inf")

    def token(self) -> str:
        """Return a token that is valid for at least a third of its life."""
        with self._lock:
            if self._clock.monotonic() >= self._renew_at_s:
                self._token = mint_token(self._keyring, self._subject, self._role, ttl_s=self._ttl_s, clock=self._clock)
                self._renew_at_s = self._clock.monotonic() + self._ttl_s * 2 / 3
            return self._token

    def authorization(self) -> str:
        """Return the value of the `authorization` metadata."""
        return f"Bearer {self.token()}"


def _claims(payload: str) -> TokenClaims:
    try:
        claims: dict[str, Any] = json.loads(_decode(payload))
        role = claims["role"]
        if role not in ROLES:
            raise ValueError(f"unknown role {role!r}")
        return TokenClaims(str(claims["sub"]), role, int(claims["iat"]), int(claims["exp"]), str(claims["kid"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UnauthenticatedError("The token's claims are malformed. Get a new one with `esper token`.") from error


def _check_times(claims: TokenClaims, clock: Clock) -> None:
    now = clock.wall().timestamp()
    if now >= claims.expires_at_s + _LEEWAY_S:
        raise UnauthenticatedError("The token has expired. Get a new one with `esper token`.")
    if claims.issued_at_s > now + _LEEWAY_S:
        raise UnauthenticatedError("The token is from the future. Set the clocks of both machines.")


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnauthenticatedError("The token is not base64url. Get a new one with `esper token`.") from error
