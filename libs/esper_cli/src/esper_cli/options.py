"""Options that many commands share, described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import platformdirs
import typer

DEFAULT_STATE_DIR: Final = platformdirs.user_state_path("esper") / "default"

StateDir = Annotated[
    Path,
    typer.Option(
        "--state-dir",
        envvar="ESPER_STATE_DIR",
        help="State folder of the stack; two stacks side by side have two of them.",
        show_default=str(DEFAULT_STATE_DIR).replace(str(Path.home()), "~"),
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text for people.")]
