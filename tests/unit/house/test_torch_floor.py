"""PyTorch 2.8 is the oldest there is: every manifest says so, and no code asks which one it got."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from support.sources import REPOSITORY, name_of, nodes_of, our_modules, package_folders

pytestmark = pytest.mark.req("TOL-2")
MISSING = {"ImportError", "ModuleNotFoundError", "AttributeError"}


def of_torch(node: ast.AST) -> bool:
    """Say whether an expression is torch, or something that is reached through it."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id == "torch"


def is_version(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "__version__" and of_torch(node)


def asks_for_an_attribute(node: ast.AST) -> bool:
    """`hasattr(torch.x, ...)`, or `getattr` with something to fall back on."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
        return False
    return of_torch(node.args[0]) and (node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) == 3))


def weighs_the_version(node: ast.AST) -> bool:
    return isinstance(node, ast.Compare | ast.Subscript) and any(map(is_version, ast.walk(node)))


def falls_back(node: ast.AST) -> bool:
    """`try:` an import or an attribute of torch, `except` that it is missing."""
    if not isinstance(node, ast.Try):
        return False
    caught = {
        each for handler in node.handlers if handler.type for each in re.findall(r"\w+", ast.unparse(handler.type))
    }
    return bool(caught & MISSING) and any(uses_torch_itself(each) for body in node.body for each in ast.walk(body))


def uses_torch_itself(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.partition(".")[0] == "torch" for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return str(node.module).partition(".")[0] == "torch"
    return isinstance(node, ast.Attribute) and of_torch(node)


def shims(nodes: Iterable[ast.AST]) -> list[int]:
    """Return the lines on which a source asks what this PyTorch can do."""
    kinds = (asks_for_an_attribute, weighs_the_version, falls_back)
    return sorted({getattr(node, "lineno", 0) for node in nodes if any(is_shim(node) for is_shim in kinds)})


def torch_users() -> list[Path]:
    return [
        folder
        for folder in package_folders()
        if any(
            uses_torch_itself(node)
            for path in our_modules(folder)
            for node in nodes_of(path)
            if isinstance(node, ast.Import | ast.ImportFrom)
        )
    ]


@pytest.mark.parametrize("folder", torch_users(), ids=lambda folder: folder.name)
def test_a_package_that_computes_asks_for_pytorch_2_8_or_later(folder: Path) -> None:
    lines = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["dependencies"]
    (torch,) = [each for each in map(Requirement, lines) if each.name == "torch"]
    assert torch.specifier.contains("2.8.0") and not torch.specifier.contains("2.7.1")


def test_no_code_asks_which_pytorch_it_got() -> None:
    assert [f"{name_of(path)}:{line}" for path in our_modules() for line in shims(nodes_of(path))] == []


def test_the_pinned_version_is_one_of_those() -> None:
    pins = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if line.startswith("torch==")]
    assert [Requirement("torch>=2.8").specifier.contains(pin.removeprefix("torch==")) for pin in pins] == [True]


@pytest.mark.parametrize(
    "source",
    [
        "if hasattr(torch.nn, 'RMSNorm'): ...",
        "compile = getattr(torch, 'compile', None)",
        "new = Version(torch.__version__) >= Version('2.8')",
        "major = torch.__version__.split('.')[0]",
        "try:\n    from torch.amp import GradScaler\nexcept ImportError: ...",
        "try:\n    scaler = torch.amp.GradScaler()\nexcept (TypeError, AttributeError): ...",
    ],
)
def test_a_shim_is_noticed(source: str) -> None:
    assert shims(ast.walk(ast.parse(source))) == [1]


def test_saying_which_version_wrote_a_file_is_no_shim() -> None:
    facts = "facts = {'torch': torch.__version__, 'device': getattr(torch, name)}"
    assert shims(ast.walk(ast.parse(facts))) == []
