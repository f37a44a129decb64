"""Logs are JSON lines with the service's name and without secrets."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

CODE = """
import logging, pathlib, sys
from esper_core.logs import configure_logging, get_logger
early = get_logger("early")
configure_logging("tamiyo", level="INFO", file=pathlib.Path(sys.argv[1]))
log = get_logger("policy", run="r1")
log.debug("not_shown")
log.info("decided", token="t0psecret", url="redis://a:t0psecret@h", nested={"password": "t0psecret"},
         text="esper1.abcdef.ghijkl", items=["redis://a:t0psecret@h"])
early.warning("from_before")
logging.getLogger("library").warning("careful with %s", "esper1.abcdef.ghijkl")
try:
    raise ValueError("broken")
except ValueError:
    log.exception("failed")
"""


def test_lines_are_json_with_service_and_without_secrets(tmp_path: Path) -> None:
    path = tmp_path / "tamiyo.log"
    subprocess.run([sys.executable, "-c", CODE, str(path)], check=True, timeout=30)
    text = path.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["event"] for line in lines] == ["decided", "from_before", "careful with [hidden]", "failed"]
    assert {line["service"] for line in lines} == {"tamiyo"}
    assert "t0psecret" not in text and "abcdef" not in text
    assert lines[0]["component"] == "policy" and lines[0]["run"] == "r1" and lines[0]["level"] == "info"
    assert "ValueError: broken" in lines[3]["exception"]
    assert logging.getLogger("library").level == logging.NOTSET
