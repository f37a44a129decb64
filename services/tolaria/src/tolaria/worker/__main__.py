"""`python -m tolaria.worker --run-dir DIR`: train one run. Started by Tolaria, or by hand."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from esper_core.errors import EsperError, to_exit_code
from esper_core.logs import configure_logging
from esper_core.settings import load
from tolaria.rundir import RunDirectory
from tolaria.settings import WorkerSettings
from tolaria.worker.run import work
from tolaria.worker.start import let_the_mediator_in, use_one_interop_thread


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tolaria.worker", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder of the run, with its spec.json")
    run_dir = RunDirectory(parser.parse_args().run_dir.resolve())
    try:
        settings = load(WorkerSettings)
        configure_logging("tolaria.worker", level=settings.log_level, file=run_dir.log_path)
        use_one_interop_thread()
        let_the_mediator_in()
        return work(run_dir, settings)
    except EsperError as error:
        print(f"{error.message} ({error.code})", file=sys.stderr)
        return to_exit_code(error)


if __name__ == "__main__":
    sys.exit(main())
