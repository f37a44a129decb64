"""The list of rooms in a README: as the modules are, in the order that a person gave it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from support.sources import script

README = """# Hall

## Rooms

| file | what it is for |
|---|---|
{rows}
## Settings

| name | meaning |
|---|---|
"""


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return script("tools/generate_docs.py")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name in ("", "stove", "door", "__main__", "attic/", "attic/chest"):
        path = tmp_path / (f"{name}__init__.py" if name.endswith("/") or not name else f"{name}.py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'"""What {name or "all"} is for.\n\nMore about it.\n"""\n')
    return tmp_path


def rows(tool: ModuleType, package: Path, *before: str) -> list[str]:
    text = README.format(rows="".join(f"| `{name}` | Outdated. |\n" for name in before))
    written = tool.with_rooms(text, package)
    assert tool.with_rooms(written, package) == written
    table, rest = written.split("## Settings")
    assert rest == README.split("## Settings")[1]
    return table.splitlines()[6:-1]


def test_an_empty_list_is_filled_with_modules_and_then_folders(tool: ModuleType, package: Path) -> None:
    assert rows(tool, package) == [
        "| `__main__.py` | What __main__ is for. |",
        "| `door.py` | What door is for. |",
        "| `stove.py` | What stove is for. |",
        "| `attic/` | What attic/ is for. |",
    ]


def test_rows_keep_their_order_and_what_is_gone_goes(tool: ModuleType, package: Path) -> None:
    found = rows(tool, package, "attic/", "stove.py", "cellar.py")
    assert [row.split("`")[1] for row in found] == ["attic/", "stove.py", "__main__.py", "door.py"]


def test_a_folder_that_was_opened_shows_each_of_its_modules(tool: ModuleType, package: Path) -> None:
    found = rows(tool, package, "attic/box.py", "door.py", "stove.py", "__main__.py")
    assert [row.split("`")[1] for row in found] == ["door.py", "stove.py", "__main__.py", "attic/chest.py"]


def test_a_readme_without_a_list_stays_as_it_is(tool: ModuleType, package: Path) -> None:
    assert tool.with_rooms("# Hall\n\nNo rooms.\n", package) == "# Hall\n\nNo rooms.\n"


def test_a_module_that_does_not_say_what_it_is_for_is_named(tool: ModuleType, package: Path) -> None:
    (package / "door.py").write_text("")
    with pytest.raises(ValueError, match=r"door\.py has no docstring"):
        rows(tool, package)
