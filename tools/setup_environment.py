"""Create the virtual environment and install everything into it, each version as constraints.txt says.

Runs under the system's Python and uses the standard library only. ``TORCH_INDEX`` names a further package index for
torch alone, for instance the CPU builds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
CONSTRAINTS = REPOSITORY / "constraints.txt"
TORCH = "torch==2.13.0"
EVERYTHING = (
    "esper-core[otlp]",
    "esper-runtime[lightning,transformers]",
    "esper-policy",
    "esper-cli[local]",
    "esper-weatherlight[local,docker]",
)
OLDEST, NEWEST = (3, 11), (3, 13)


def main() -> int:
    """Set up the environment whose folder is the first argument."""
    environment = Path(sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / ".venv")
    problem = interpreter_problem(sys.version_info[:2])
    if problem:
        print(problem, file=sys.stderr)
        return 2
    try:
        create(environment)
        install(environment)
    except subprocess.CalledProcessError as failed:
        print(f"setup stopped: {' '.join(map(str, failed.cmd))} ended with {failed.returncode}", file=sys.stderr)
        return 1
    return 0


def interpreter_problem(version: tuple[int, ...]) -> str | None:
    """Return why this Python cannot be used, or None."""
    if not OLDEST <= version <= NEWEST:
        found = ".".join(map(str, version))
        return f"Esper needs Python 3.11, 3.12 or 3.13, this is {found}; name another one: make setup PYTHON=python3.11"
    if sysconfig.get_platform().startswith("linux") and not _has_ensurepip():
        return "this Python cannot create environments; install its venv package (Debian: apt-get install python3-venv)"
    return None


def create(environment: Path) -> None:
    """Create the environment unless its interpreter is there already."""
    if not _python(environment).exists():
        print(f"creating {environment}", flush=True)
        _run(sys.executable, "-m", "venv", environment)


def install(environment: Path) -> None:
    """Install torch, then the tools, then our packages with all they need."""
    # torch comes first and alone, so that no other requirement and no other index can choose its build.
    _pip(environment, "torch", [TORCH, *_torch_index()])
    _pip(environment, "tools", ["-r", REPOSITORY / "requirements-dev.txt"])
    # Ours first without what they need, so that they find each other here and never on a package index.
    ours = [part for folder in package_folders() for part in ("-e", folder)]
    _pip(environment, "Esper's packages", ["--no-build-isolation", "--no-deps", *ours])
    _pip(environment, "what they need", EVERYTHING)


def package_folders() -> list[Path]:
    """Return the folders of our packages, libraries first."""
    return [
        path.parent for place in ("libs", "services") for path in sorted(REPOSITORY.glob(f"{place}/*/pyproject.toml"))
    ]


def _torch_index() -> list[str]:
    index = os.environ.get("TORCH_INDEX", "")
    return ["--extra-index-url", index] if index else []


def _pip(environment: Path, what: str, arguments: Sequence[str | Path]) -> None:
    print(f"installing {what}", flush=True)
    _run(_python(environment), "-m", "pip", "install", "--quiet", "-c", CONSTRAINTS, *arguments)


def _run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=REPOSITORY)


def _python(environment: Path) -> Path:
    return environment / "bin" / "python"


def _has_ensurepip() -> bool:
    try:
        import ensurepip
    except ImportError:
        return False
    return bool(ensurepip.version())


if __name__ == "__main__":
    raise SystemExit(main())
