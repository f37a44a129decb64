"""Settings are typed objects that are read once; each has one name and one reader, and none keeps an old way alive."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pydantic
import pytest
from pydantic.fields import FieldInfo

from esper_core.errors import SettingsError
from esper_core.settings import EsperSettings, load
from support.sources import GENERATED, REPOSITORY, name_of, nodes_of, our_modules
from tolaria.settings import TolariaSettings, WorkerSettings

HANDS_THE_ENVIRONMENT_ON = {
    "libs/esper_cli/src/esper_cli/keeper.py": "to Weatherlight",
    "libs/esper_cli/src/esper_cli/stack_control.py": "to the keeper",
    "services/tolaria/src/tolaria/service/wiring.py": "to workers",
    "services/weatherlight/src/weatherlight/launch.py": "to services",
}
READS_THE_ENVIRONMENT = {"libs/esper_core/src/esper_core/settings/base.py"}
RESOLVES_SETTINGS = {
    "libs/esper_core/src/esper_core/rpc/service_main.py",
    "libs/esper_core/src/esper_core/rpc/client.py",
    "libs/esper_core/src/esper_core/rpc/server_config.py",
    "services/tolaria/src/tolaria/worker/__main__.py",
}
"""Start-ups, and the network's own settings, which belong to no service."""
OLD_WAYS = {"legacy", "compat", "deprecated", "deprecationwarning", "obsolete"}


def settings_classes() -> list[type[EsperSettings]]:
    modules = sorted(path.parent.name for path in REPOSITORY.glob("services/*/src/*/settings.py"))
    members = (each for name in modules for _, each in inspect.getmembers(importlib.import_module(f"{name}.settings")))
    found = {each for each in members if inspect.isclass(each) and issubclass(each, EsperSettings)}
    return sorted(found, key=lambda each: (each.__module__, each.__name__))


def parts_of(annotation: Any) -> Iterator[Any]:
    yield get_origin(annotation) or annotation
    for part in get_args(annotation):
        yield from parts_of(part)


def reads_environment(path: Path) -> bool:
    return any(
        isinstance(node, ast.Attribute)
        and node.attr in ("environ", "environb", "getenv", "getenvb")
        and isinstance(node.value, ast.Name)
        for node in nodes_of(path)
    )


def names_read() -> tuple[set[str], set[str]]:
    """Return the attributes that any code reads, and the fixed parts of those it asks for by a composed name."""
    attributes: set[str] = set()
    composed: set[str] = set()
    for node in (node for path in our_modules() for node in nodes_of(path)):
        if isinstance(node, ast.Attribute):
            attributes.add(node.attr)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "getattr"
            and isinstance(node.args[1], ast.JoinedStr)
        ):
            composed |= {str(part.value) for part in node.args[1].values if isinstance(part, ast.Constant)}
    return attributes, {part for part in composed if part.strip("._")}


@pytest.mark.req("TOL-29")
@pytest.mark.parametrize("settings_class", settings_classes(), ids=lambda each: each.__name__)
def test_every_setting_has_a_type_and_none_can_be_changed_or_invented(settings_class: type[EsperSettings]) -> None:
    assert settings_class.model_config["frozen"] and settings_class.model_config["extra"] == "forbid"
    vague = {Any, object, dict}
    fields = settings_class.model_fields.items()
    assert [name for name, info in fields if vague & set(parts_of(info.annotation))] == []


@pytest.mark.req("TOL-29")
def test_a_worker_refuses_a_setting_of_the_wrong_type_and_keeps_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLARIA_SNAPSHOT_INTERVAL_STEPS", "often")
    with pytest.raises(SettingsError, match="TOLARIA_SNAPSHOT_INTERVAL_STEPS"):
        load(WorkerSettings)
    with pytest.raises(pydantic.ValidationError):
        WorkerSettings(snapshot_interval_steps=5).snapshot_interval_steps = 6  # type: ignore[misc]
    assert issubclass(TolariaSettings, WorkerSettings)


@pytest.mark.req("TOL-29")
def test_the_environment_is_read_by_the_settings_alone_and_handed_on_to_processes_only() -> None:
    found = {name_of(path) for path in our_modules() if reads_environment(path)}
    assert found == READS_THE_ENVIRONMENT | set(HANDS_THE_ENVIRONMENT_ON)


@pytest.mark.req("TOL-29")
def test_settings_are_resolved_where_a_process_starts() -> None:
    found = {
        name_of(path)
        for path in our_modules()
        for node in nodes_of(path)
        if isinstance(node, ast.ImportFrom) and node.module == "esper_core.settings"
        if any(alias.name == "load" for alias in node.names)
    }
    assert found == RESOLVES_SETTINGS


@pytest.mark.req("TOL-23")
def test_a_setting_has_one_name() -> None:
    def aliases(info: FieldInfo) -> list[object]:
        return [each for each in (info.alias, info.validation_alias, info.serialization_alias) if each is not None]

    several = [
        f"{each.__name__}.{name}"
        for each in settings_classes()
        for name, info in each.model_fields.items()
        if len(set(map(str, aliases(info)))) > 1 or not all(isinstance(alias, str) for alias in aliases(info))
    ]
    assert several == []


@pytest.mark.req("TOL-23")
def test_a_setting_that_nobody_reads_does_not_exist() -> None:
    attributes, composed = names_read()
    assert {"_address", "stream_"} == composed
    unread = [
        f"{each.__name__}.{name}"
        for each in settings_classes()
        for name in each.model_fields
        if name not in attributes and not any(name.startswith(part) or name.endswith(part) for part in composed)
    ]
    assert unread == []


@pytest.mark.req("TOL-23")
def test_no_name_in_the_code_keeps_an_old_way_alive() -> None:
    assert [f"{name_of(path)}: {name}" for path in our_modules() for name in old_names(nodes_of(path))] == []


def old_names(nodes: Iterable[ast.AST]) -> list[str]:
    """Return what a source defines or is asked with, where its name says that it is there for old times' sake."""
    names: list[str] = []
    for node in nodes:
        if isinstance(node, ast.arg):
            names.append(node.arg)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.Name | ast.Attribute):
            names.append(node.id if isinstance(node, ast.Name) else node.attr)
    return sorted({name for name in names if OLD_WAYS & set(name.lower().split("_"))})


@pytest.mark.req("TOL-23")
def test_an_old_way_is_noticed() -> None:
    old = ast.parse("def train(use_legacy_loop): warnings.warn('old', DeprecationWarning)")
    assert old_names(ast.walk(old)) == ["DeprecationWarning", "use_legacy_loop"]
    assert old_names(ast.walk(ast.parse("def compatible(compare): ..."))) == []


@pytest.mark.req("TOL-23")
def test_no_field_of_a_contract_is_deprecated() -> None:
    found = [
        f"{message.full_name}.{field.name}"
        for path in GENERATED.rglob("*_pb2.py")
        for message in importlib.import_module(_import_name(path)).DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
        if field.GetOptions().deprecated
    ]
    assert found == []


def _import_name(path: Path) -> str:
    return "esper_core.pb." + ".".join(path.relative_to(GENERATED).with_suffix("").parts)
