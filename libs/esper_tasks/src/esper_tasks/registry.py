"""Finding a task by name: the built-in ones, and a user's own where the operator allowed it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from typing import Final

from esper_core.errors import NotFoundError, PermissionDeniedError, ValidationError
from esper_tasks.protocol import Task

ALLOWLIST_SETTING: Final = "TOLARIA_TASK_ALLOWLIST"
_BUILT_IN: Final[dict[str, tuple[str, str]]] = {
    "letter": ("esper_tasks.letter", "LetterTask"),
    "mnist1d": ("esper_tasks.mnist1d", "Mnist1dTask"),
    "kjv": ("esper_tasks.kjv", "KjvTask"),
    "digits": ("esper_tasks.digits", "DigitsTask"),
}


def known_tasks() -> tuple[str, ...]:
    """Return the names of the built-in tasks; their data may still need an extra."""
    return tuple(_BUILT_IN)


def load_task(name: str, *, allow: Collection[str] = ()) -> Task:
    """Return a task by its name or its reference.

    Parameters
    ----------
    name : str
        A built-in name such as `letter`, or `module:function` for a function without arguments that returns a task.
    allow : Collection[str]
        References that may be imported; the operator's list, never the caller's of a remote request.

    Raises
    ------
    NotFoundError
        If the name is unknown, or the reference names no importable function.
    PermissionDeniedError
        If the reference isn't on the list.
    ValidationError
        If what the function returns is no task.
    """
    if ":" in name:
        return _load_own(name, allow)
    if name not in _BUILT_IN:
        raise NotFoundError(
            f"There is no task {name!r}. Built-in tasks: {', '.join(_BUILT_IN)}; "
            f"a task of your own is written module:function and must be listed in {ALLOWLIST_SETTING}.",
            details={"field": "task", "task": name, "allowed": ", ".join(_BUILT_IN)},
        )
    module, attribute = _BUILT_IN[name]
    return _checked(getattr(importlib.import_module(module), attribute)(), name)


def _load_own(reference: str, allow: Collection[str]) -> Task:
    if reference not in allow:
        raise PermissionDeniedError(
            f"Task {reference!r} may not be loaded: add exactly that text to {ALLOWLIST_SETTING} of the trainer.",
            details={"field": "task", "task": reference, "allowed": ", ".join(sorted(allow))},
        )
    return _checked(_own_factory(reference)(), reference)


def _own_factory(reference: str) -> Callable[[], object]:
    module_name, _, attribute = reference.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute, None)
    except (ImportError, ValueError) as error:
        raise NotFoundError(
            f"Task {reference!r} cannot be loaded: {error}. Install its package where the trainer runs.",
            details={"field": "task", "task": reference},
        ) from error
    if not callable(factory):
        raise NotFoundError(
            f"Module {module_name!r} has no function {attribute!r}.", details={"field": "task", "task": reference}
        )
    return factory  # type: ignore[no-any-return]


def _checked(candidate: object, reference: str) -> Task:
    if isinstance(candidate, Task):
        return candidate
    methods = (name for name, member in vars(Task).items() if callable(member) and not name.startswith("_"))
    wanted = [*Task.__annotations__, *methods]
    missing = [attribute for attribute in wanted if not hasattr(candidate, attribute)]
    raise ValidationError(
        f"{reference!r} returned a {type(candidate).__name__}, which is no task: it lacks {', '.join(missing)}.",
        field="task",
        allowed=wanted,
    )
