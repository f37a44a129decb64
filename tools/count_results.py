"""Print one closing line, ``N passed, N failed``, for a JUnit report and the sections of CI that failed beside it."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

TEST_SECTION = "tests"


def main(arguments: list[str]) -> int:
    """Count; return 1 when anything failed."""
    report, failed_sections = Path(arguments[0]), arguments[1:]
    passed, failed, skipped = counts(report) if report.is_file() else (0, 0, 0)
    others = [name for name in failed_sections if name != TEST_SECTION]
    # A test run that ended badly without a failing test (a crash, nothing collected) must not read as green.
    unexplained = int(TEST_SECTION in failed_sections and failed == 0)
    failed += len(others) + unexplained
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


def counts(report: Path) -> tuple[int, int, int]:
    """Return how many tests of a JUnit report passed, failed and were skipped."""
    suites = list(ET.parse(report).getroot().iter("testsuite"))
    total, failures, errors, skipped = (
        sum(int(suite.get(name, "0")) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    return total - failures - errors - skipped, failures + errors, skipped


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
