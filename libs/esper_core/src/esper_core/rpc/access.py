"""Who may call what: roles per service and method, and the caller of the call at hand."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from esper_core.errors import PermissionDeniedError, UnauthenticatedError
from esper_core.security.tokens import Role, TokenClaims

HEALTH_SERVICE: Final = "grpc.health.v1.Health"
REFLECTION_SERVICE: Final = "grpc.reflection.v1alpha.ServerReflection"
CHANNELZ_SERVICE: Final = "grpc.channelz.v1.Channelz"

EVERY_ROLE: Final[frozenset[Role]] = frozenset({"service", "operator", "viewer"})
CHANGING_ROLES: Final[frozenset[Role]] = frozenset({"service", "operator"})
SERVICE_ONLY: Final[frozenset[Role]] = frozenset({"service"})

_caller: ContextVar[TokenClaims | None] = ContextVar("esper_rpc_caller", default=None)


def caller() -> TokenClaims:
    """Return who makes the call that is being served.

    Raises
    ------
    UnauthenticatedError
        Outside of a call, or in a method that needs no token.
    """
    claims = _caller.get()
    if claims is None:
        raise UnauthenticatedError("This call carries no token. Send one as `authorization: Bearer <token>`.")
    return claims


def remember_caller(claims: TokenClaims) -> None:
    """Make `caller` answer with these claims for the rest of the current call."""
    _caller.set(claims)


@dataclass(slots=True)
class AccessRules:
    """Roles by method. Health is free; whatever is not declared needs an operator or a service."""

    _roles: dict[str, frozenset[Role]] = field(default_factory=dict)

    def declare(self, service: str, *, read_only: Iterable[str] = (), service_only: Iterable[str] = ()) -> None:
        """Open methods of a service to viewers, or close them to people.

        Parameters
        ----------
        service : str
            Full name, `esper.urza.v1.Library`.
        read_only : Iterable[str]
            Methods that change nothing: viewers may call them.
        service_only : Iterable[str]
            Methods between services, which no person calls.
        """
        self._roles |= {f"{service}/{method}": EVERY_ROLE for method in read_only}
        self._roles |= {f"{service}/{method}": SERVICE_ONLY for method in service_only}

    @staticmethod
    def is_free(service: str) -> bool:
        """Tell whether a service is served without a token: container probes have none."""
        return service == HEALTH_SERVICE

    def require(self, claims: TokenClaims, path: str) -> None:
        """Check a caller's role against `package.Service/Method`.

        Raises
        ------
        PermissionDeniedError
            With the roles that may call the method.
        """
        allowed = self._roles.get(path, CHANGING_ROLES)
        if claims.role not in allowed:
            names = " or ".join(sorted(allowed))
            raise PermissionDeniedError(
                f"{path} needs the role {names}; {claims.subject} has the role {claims.role}. Use another token.",
                details={"method": path, "role": claims.role, "allowed": ", ".join(sorted(allowed))},
            )
