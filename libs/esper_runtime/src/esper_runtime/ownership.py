"""Who owns which parameter: the host, one seed, or one teacher. Never two of them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from torch.nn import Parameter

from esper_runtime.errors import OwnershipConflictError

HOST: Final = "host"
_TEACHER: Final = "teacher:"


def seed_owner(seed_id: str) -> str:
    """Return the owner name of a seed."""
    return f"seed:{seed_id}"


def teacher_owner(teacher_id: str) -> str:
    """Return the owner name of a teacher."""
    return f"{_TEACHER}{teacher_id}"


@dataclass(frozen=True, slots=True)
class Clash:
    """One parameter that an owner may not touch; `owner` is whose it is, None where nobody has registered it."""

    name: str
    owner: str | None


@dataclass(frozen=True, slots=True)
class UpdateValidation:
    """Whether an owner may update some parameters, and if not, which ones and whose they are."""

    owner: str
    clashes: tuple[Clash, ...]
    generation: int

    @property
    def accepted(self) -> bool:
        """True when nothing clashes."""
        return not self.clashes


class OwnershipRegistry:
    """Parameters by stable name, each with one owner; only weak references are held."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[str, weakref.ref[Parameter]]] = {}
        self._generation = 0

    @property
    def generation(self) -> int:
        """A counter that every change raises."""
        return self._generation

    def register(self, owner: str, named: Iterable[tuple[str, Parameter]]) -> None:
        """Enter parameters for an owner; all of them or, in case of a clash, none. A teacher replaces the former one.

        Raises
        ------
        OwnershipConflictError
            If a name or a parameter already has an owner; the details name it.
        """
        entries = list(named)
        replaced = _TEACHER if owner.startswith(_TEACHER) else None
        clashes = [clash for clash in self._taken(entries) if not _begins(clash.owner, replaced)]
        if clashes:
            listed = ", ".join(f"{clash.name} (of {clash.owner})" for clash in clashes)
            raise OwnershipConflictError(
                f"{owner} cannot own parameters that belong to another: {listed}.",
                details={clash.name: str(clash.owner) for clash in clashes},
            )
        self._release_where(lambda held: _begins(held, replaced))
        self._entries.update({name: (owner, weakref.ref(parameter)) for name, parameter in entries})
        self._generation += 1

    def release(self, owner: str) -> tuple[str, ...]:
        """Forget an owner; return the names that it had."""
        return self._release_where(lambda held: held == owner)

    def forget(self, names: Iterable[str]) -> None:
        """Forget single parameters, whoever owns them."""
        for name in names:
            self._entries.pop(name, None)
        self._generation += 1

    def transfer(self, owner: str, to: str) -> tuple[str, ...]:
        """Give all of an owner's parameters to another; return their names, which stay as they are."""
        names = tuple(name for name, (held, _) in self._entries.items() if held == owner)
        for name in names:
            self._entries[name] = (to, self._entries[name][1])
        self._generation += 1
        return names

    def assign(self, names: Iterable[str], owner: str) -> None:
        """Give registered parameters to an owner, as a rollback does that undoes a transfer."""
        for name in names:
            self._entries[name] = (owner, self._entries[name][1])
        self._generation += 1

    def owner_of(self, name: str) -> str | None:
        """Return the owner of a name, None where nobody has it."""
        entry = self._live().get(name)
        return None if entry is None else entry[0]

    def parameters(self, owner: str) -> dict[str, Parameter]:
        """Return an owner's parameters by name."""
        return {name: parameter for name, (held, parameter) in self._live().items() if held == owner}

    def owners(self) -> tuple[str, ...]:
        """Return all owners, in order of registration."""
        return tuple(dict.fromkeys(owner for owner, _ in self._live().values()))

    def validate_update(self, owner: str, names: Iterable[str]) -> UpdateValidation:
        """Say whether an owner may update these parameters."""
        live = self._live()
        clashes = tuple(
            Clash(name, live[name][0] if name in live else None)
            for name in names
            if name not in live or live[name][0] != owner
        )
        return UpdateValidation(owner, clashes, self._generation)

    def _live(self) -> Mapping[str, tuple[str, Parameter]]:
        found = ((name, owner, reference()) for name, (owner, reference) in self._entries.items())
        return {name: (owner, parameter) for name, owner, parameter in found if parameter is not None}

    def _taken(self, entries: list[tuple[str, Parameter]]) -> list[Clash]:
        live = self._live()
        by_identity = {key: owner for owner, parameter in live.values() for key in _identities(parameter)}
        found = (
            (name, next((by_identity[key] for key in _identities(parameter) if key in by_identity), None))
            for name, parameter in entries
        )
        owners = ((name, owner or live.get(name, (None,))[0]) for name, owner in found)
        return [Clash(name, owner) for name, owner in owners if owner is not None]

    def _release_where(self, matches: Callable[[str], bool]) -> tuple[str, ...]:
        names = tuple(name for name, (held, _) in self._entries.items() if matches(held))
        for name in names:
            del self._entries[name]
        self._generation += 1
        return names


def _identities(parameter: Parameter) -> tuple[tuple[str, int], ...]:
    """Return the object's identity and, where it has memory, that of its storage: a view of a weight is that weight."""
    address = parameter.untyped_storage().data_ptr()
    return (("object", id(parameter)), ("memory", address)) if address else (("object", id(parameter)),)


def _begins(owner: str | None, prefix: str | None) -> bool:
    return owner is not None and prefix is not None and owner.startswith(prefix)
