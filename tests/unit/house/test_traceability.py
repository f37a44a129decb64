"""The tool that joins requirements and tests."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from support.sources import REPOSITORY, script

LEDGER = """
| id | what must hold | status |
|---|---|---|
| COR-1 | ids are never invented | declared |
| COR-2 | work stops | declared |
| KAS-9 | caches are safe | later |
"""

TESTS = """
import pytest
pytestmark = [pytest.mark.slow, pytest.mark.req("COR-1")]

def test_one(): ...

class TestMore:
    @pytest.mark.req("COR-2", "KAS-9")
    async def test_two(self): ...

@pytest.mark.req("COR-2")
def not_a_test(): ...
"""


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return script("tools/traceability.py")


@pytest.fixture
def tests_file(tmp_path: Path) -> Path:
    path = tmp_path / "test_sample.py"
    path.write_text(TESTS)
    return path


def test_markers_of_module_class_and_function_count(tool: ModuleType, tests_file: Path) -> None:
    found = {(proof.requirement_id, proof.test) for proof in tool.proofs_in(tests_file)}
    assert found == {
        ("COR-1", "test_sample.py::test_one"),
        ("COR-1", "test_sample.py::TestMore::test_two"),
        ("COR-2", "test_sample.py::TestMore::test_two"),
        ("KAS-9", "test_sample.py::TestMore::test_two"),
    }


def test_a_proven_ledger_has_no_problems(tool: ModuleType, tests_file: Path) -> None:
    requirements, proofs = tool.read_ledger(LEDGER), tool.proofs_in(tests_file)
    assert tool.problems(requirements, proofs) == []
    *_, summary = tool.report(requirements, proofs)
    assert summary == "2 of 2 declared requirements have tests; 3 in the ledger"


def test_a_declared_line_without_a_test_is_a_problem(tool: ModuleType) -> None:
    problems = tool.problems(tool.read_ledger(LEDGER), [tool.Proof("COR-1", "a test")])
    assert problems == ["COR-2 is declared but no test proves it: work stops"]


def test_an_unknown_id_is_a_problem(tool: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "test_typo.py"
    path.write_text('import pytest\nNAME = "COR-1"\n@pytest.mark.req("COR-11", NAME)\ndef test_it(): ...\n')
    problems = tool.problems([], tool.proofs_in(path))
    assert problems == ["unknown id COR-11 in test_typo.py::test_it", "unknown id ? in test_typo.py::test_it"]


def test_the_ledger_names_every_line_once(tool: ModuleType) -> None:
    ids = [each.id for each in tool.read_ledger((REPOSITORY / "docs" / "requirements.md").read_text())]
    assert len(ids) == len(set(ids)) == 146
