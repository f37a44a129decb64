"""Generate the committed Python bindings of Leyline from the .proto files.

Usage
-----
``python tools/generate_protos.py`` writes the bindings; with ``--check`` nothing is written and the exit code is 1
when the committed bindings differ from what the .proto files give.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PROTO_ROOT = REPOSITORY / "proto"
BINDINGS = REPOSITORY / "libs" / "esper_core" / "src" / "esper_core" / "pb"
PACKAGE_PREFIX = "esper_core.pb."
PACKAGE_DOCSTRING = '"""Generated from the .proto files by tools/generate_protos.py; not to be edited."""\n'

# Only import statements and the dotted names that mypy-protobuf writes may change, never the serialised descriptor.
_FROM_IMPORT = re.compile(r"^(\s*from )(esper\.)", re.MULTILINE)
_PLAIN_IMPORT = re.compile(r"^(\s*import )(esper\.)", re.MULTILINE)
_STUB_REFERENCE = re.compile(r"(?<![\w.\"'/])(esper\.[a-z_]+\.v\d+\.\w+_pb2)")


def main() -> int:
    """Generate the bindings, or check them for drift.

    Returns
    -------
    int
        0 when done or without drift, 1 on drift, 2 when there is nothing to generate from or protoc fails.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="report drift instead of writing")
    check = bool(parser.parse_args().check)
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / "pb"
        status = generate(fresh)
        if status:
            return status
        return report_drift(fresh, BINDINGS) if check else replace_tree(fresh, BINDINGS)


def generate(target: Path) -> int:
    """Write all bindings, with our import paths, into `target`.

    Returns
    -------
    int
        0 when done, 2 when there are no .proto files or protoc refuses them.
    """
    protos = sorted(path.relative_to(PROTO_ROOT).as_posix() for path in PROTO_ROOT.rglob("*.proto"))
    if not protos:
        print(f"no .proto files below {PROTO_ROOT}", file=sys.stderr)
        return 2
    target.mkdir(parents=True)
    command = [sys.executable, "-m", "grpc_tools.protoc", *_protoc_options(target), *protos]
    if subprocess.run(command, env=_environment(), cwd=PROTO_ROOT, check=False).returncode:
        return 2
    for path in _bindings(target):
        path.write_text(with_our_imports(path.read_text()))
    _write_package_files(target)
    return 0


def with_our_imports(source: str) -> str:
    """Return generated source with ``esper.`` imports moved below ``esper_core.pb``."""
    source = _FROM_IMPORT.sub(rf"\1{PACKAGE_PREFIX}\2", source)
    source = _PLAIN_IMPORT.sub(rf"\1{PACKAGE_PREFIX}\2", source)
    return _STUB_REFERENCE.sub(rf"{PACKAGE_PREFIX}\1", source)


def report_drift(fresh: Path, committed: Path) -> int:
    """Print every file that differs between the two trees and return 1 if there is one."""
    differing = list(drift(fresh, committed))
    for name in differing:
        print(f"drift: {name}", file=sys.stderr)
    if differing:
        print("run `make proto` and commit the result", file=sys.stderr)
        return 1
    print(f"bindings match the .proto files ({sum(1 for _ in _bindings(fresh))} files)")
    return 0


def drift(fresh: Path, committed: Path) -> Iterator[str]:
    """Yield the relative names of files that are missing, left over or different in `committed`."""
    names = {path.relative_to(root).as_posix() for root in (fresh, committed) for path in _bindings(root)}
    for name in sorted(names):
        pair = (fresh / name, committed / name)
        if not all(path.is_file() for path in pair) or pair[0].read_bytes() != pair[1].read_bytes():
            yield name


def replace_tree(fresh: Path, target: Path) -> int:
    """Put the fresh tree at `target`, touching only files that changed."""
    changed = list(drift(fresh, target))
    for name in changed:
        source, destination = fresh / name, target / name
        if not source.is_file():
            destination.unlink()
            continue
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, destination)
    print(f"{len(changed)} files written below {target.relative_to(REPOSITORY)}")
    return 0


def _protoc_options(target: Path) -> list[str]:
    well_known = resources.files("grpc_tools") / "_proto"
    outputs = ("python_out=", "grpc_python_out=", "mypy_out=quiet:", "mypy_grpc_out=quiet:")
    return [f"-I{PROTO_ROOT}", f"-I{well_known}", *(f"--{output}{target}" for output in outputs)]


def _environment() -> dict[str, str]:
    # protoc looks for its mypy plug-ins on PATH, and make may run us without the environment activated.
    scripts = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join((scripts, os.environ.get("PATH", "")))}


def _bindings(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.suffix in {".py", ".pyi"})


def _write_package_files(target: Path) -> None:
    folders = [target, *(path for path in target.rglob("*") if path.is_dir())]
    for folder in folders:
        (folder / "__init__.py").write_text(PACKAGE_DOCSTRING)


if __name__ == "__main__":
    raise SystemExit(main())
