"""No function is too tangled to read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from radon.complexity import cc_rank, cc_visit

from support.sources import REPOSITORY, name_of, our_modules

WORST_RANK = "C"


def tangled(path: Path) -> Iterator[str]:
    for block in cc_visit(path.read_text()):
        rank = cc_rank(block.complexity)
        if rank > WORST_RANK:
            yield f"{name_of(path)}:{block.lineno} {block.name} has rank {rank}"


@pytest.mark.req("COR-7")
def test_no_function_is_above_complexity_c() -> None:
    tools = sorted((REPOSITORY / "tools").glob("*.py"))
    assert [line for path in [*our_modules(), *tools] for line in tangled(path)] == []


@pytest.mark.req("COR-7")
def test_a_tangled_function_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.sources.REPOSITORY", tmp_path)
    path = tmp_path / "tangled.py"
    branches = "".join(f"    if a == {number}:\n        return {number}\n" for number in range(21))
    path.write_text(f"def knot(a):\n{branches}")
    assert list(tangled(path)) == ["tangled.py:1 knot has rank D"]
