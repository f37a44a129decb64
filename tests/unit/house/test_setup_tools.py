"""Setting up, pinning and counting."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from support.sources import REPOSITORY, script


def tool(name: str) -> ModuleType:
    return script(f"tools/{name}.py")


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_a_python_outside_the_range_is_refused_with_a_sentence(version: tuple[int, int]) -> None:
    problem = tool("setup_environment").interpreter_problem(version)
    assert "Esper needs Python 3.11, 3.12 or 3.13" in problem


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13)])
def test_a_python_inside_the_range_is_taken(version: tuple[int, int]) -> None:
    assert tool("setup_environment").interpreter_problem(version) is None


def test_freezing_leaves_out_ours_and_build_tags() -> None:
    frozen = "esper-core==0.1.0\ntorch==2.13.0+cpu\n-e /some/where\nlocal @ file:///some/where\nredis==8.1.0\n"
    assert tool("freeze_constraints").pins_of(frozen) == ["torch==2.13.0", "redis==8.1.0"]


def test_constraints_are_exact_and_agree_with_the_set_up() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[\w.\-]+==[\w.!]+", line)] == []
    assert tool("setup_environment").TORCH in pins


def test_results_are_counted_with_failed_sections(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "tests.xml"
    report.write_text('<testsuites><testsuite tests="9" failures="0" errors="0" skipped="2"/></testsuites>')
    count = tool("count_results")
    assert count.main([str(report)]) == 0
    assert count.main([str(report), "lint", "short demo"]) == 1
    assert capsys.readouterr().out.splitlines() == ["7 passed, 0 failed, 2 skipped", "7 passed, 2 failed, 2 skipped"]


def test_a_test_run_that_crashed_is_not_green(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool("count_results").main([str(tmp_path / "absent.xml"), "tests"]) == 1
    assert capsys.readouterr().out == "0 passed, 1 failed, 0 skipped\n"
