"""Print the requirements ledger with the tests that prove each line, and fail where the two disagree.

The ledger is docs/requirements.md. Tests are read, not run: a test proves the ids of its ``pytest.mark.req`` markers,
of its class's and of its module's.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
LEDGER = REPOSITORY / "docs" / "requirements.md"
TESTS = REPOSITORY / "tests"
DECLARED = "declared"
UNMEASURED = "unmeasured"
CLAIMED = (DECLARED, UNMEASURED)

_ROW = re.compile(r"^\| (?P<id>[A-Z]{3}-\d+) \| (?P<text>.+) \| (?P<status>[a-z]+) \|$")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Requirement:
    """One line of the ledger."""

    id: str
    text: str
    status: str


@dataclass(frozen=True, slots=True)
class Proof:
    """A test that says it proves a requirement."""

    requirement_id: str
    test: str


def main() -> int:
    """Print the ledger; return 1 when an id is unknown or a claimed one has no test."""
    requirements = read_ledger(LEDGER.read_text())
    proofs = [proof for path in sorted(TESTS.rglob("test_*.py")) for proof in proofs_in(path)]
    for line in report(requirements, proofs):
        print(line)
    found = problems(requirements, proofs)
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


def read_ledger(text: str) -> list[Requirement]:
    """Return the ledger's lines in their order."""
    rows = (_ROW.match(line) for line in text.splitlines())
    return [Requirement(row["id"], row["text"], row["status"]) for row in rows if row]


def proofs_in(path: Path) -> list[Proof]:
    """Return what the tests of one file prove."""
    module = ast.parse(path.read_text(), filename=str(path))
    name = path.relative_to(REPOSITORY).as_posix() if path.is_relative_to(REPOSITORY) else path.name
    return list(_proofs_of(module.body, name, _module_ids(module)))


def report(requirements: list[Requirement], proofs: list[Proof]) -> Iterator[str]:
    """Yield the ledger as lines for people, and a summary."""
    tests = _by_requirement(proofs)
    for requirement in requirements:
        proving = tests.get(requirement.id, [])
        yield f"{requirement.id:<7} {requirement.status:<10} {requirement.text}"
        yield from (f"{'':<18} · {test}" for test in proving)
    declared = [each for each in requirements if each.status == DECLARED]
    proven = sum(1 for each in declared if each.id in tests)
    yield f"{proven} of {len(declared)} declared requirements have tests; {len(requirements)} in the ledger"


def problems(requirements: list[Requirement], proofs: list[Proof]) -> list[str]:
    """Return a sentence for every unknown id and for every claimed requirement without a test."""
    tests = _by_requirement(proofs)
    known = {each.id for each in requirements}
    unknown = [
        f"unknown id {each.requirement_id} in {each.test}" for each in proofs if each.requirement_id not in known
    ]
    unproven = [
        f"{each.id} is {each.status} but no test proves it: {each.text}"
        for each in requirements
        if each.status in CLAIMED and each.id not in tests
    ]
    return unknown + unproven


def _proofs_of(body: list[ast.stmt], place: str, inherited: list[str]) -> Iterator[Proof]:
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from _proofs_of(node.body, f"{place}::{node.name}", inherited + _ids(node.decorator_list))
        elif isinstance(node, Function) and node.name.startswith("test"):
            for each in dict.fromkeys(inherited + _ids(node.decorator_list)):
                yield Proof(each, f"{place}::{node.name}")


def _module_ids(module: ast.Module) -> list[str]:
    marks = [node.value for node in module.body if isinstance(node, ast.Assign) and _assigns(node, "pytestmark")]
    return _ids(marks)


def _assigns(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)


def _ids(expressions: list[ast.expr]) -> list[str]:
    calls = (node for expression in expressions for node in ast.walk(expression) if isinstance(node, ast.Call))
    return [_literal(argument) for call in calls if _is_req(call.func) for argument in call.args]


def _is_req(function: ast.expr) -> bool:
    return ast.unparse(function).endswith("mark.req")


def _literal(argument: ast.expr) -> str:
    # An id that is computed cannot be traced by reading; it shows up as unknown.
    return argument.value if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else "?"


def _by_requirement(proofs: list[Proof]) -> dict[str, list[str]]:
    tests: dict[str, list[str]] = {}
    for proof in proofs:
        tests.setdefault(proof.requirement_id, []).append(proof.test)
    return tests


if __name__ == "__main__":
    raise SystemExit(main())
