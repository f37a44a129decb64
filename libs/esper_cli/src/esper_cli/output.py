"""What commands print: text for people on a terminal, one JSON object for programs, progress on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

OUT: Final = Console(highlight=False, soft_wrap=True)
ERR: Final = Console(stderr=True, highlight=False)


def print_json(value: Mapping[str, Any] | Message) -> None:
    """Print one JSON object on one line."""
    document = as_dict(value) if isinstance(value, Message) else value
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def as_dict(message: Message) -> dict[str, Any]:
    """Return a message as plain data, with the field names of the proto and absent numbers left out."""
    document: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return document


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table for people."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    OUT.print(table)


def say(text: str) -> None:
    """Tell a person how things go, on standard error so that output stays clean for pipes."""
    # A line in a log stays one line; only a terminal has a width.
    ERR.print(text, soft_wrap=not ERR.is_terminal)
