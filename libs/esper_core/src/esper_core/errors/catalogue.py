"""The one table of error codes: what each means, how gRPC and the shell see it, and what a person should do.

The table is plain data and imports nothing, so that the command line, the gRPC edge and the documentation page all
read the same rows. gRPC statuses are kept by name; only `esper_core.rpc` turns them into `grpc.StatusCode`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

DOCS_PAGE: Final = "docs/errors.md"
EXIT_OK: Final = 0
EXIT_UNEXPECTED: Final = 70


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One row of the error catalogue.

    Attributes
    ----------
    code : str
        Stable public code, `ESP-` and four digits.
    title : str
        Short name of the problem, for people.
    grpc_status : str
        Name of the `grpc.StatusCode` member, for example `INVALID_ARGUMENT`.
    exit_code : int
        Exit status of a process that ends because of this error.
    retryable : bool
        Whether trying the same thing again can help.
    what_to_do : str
        One or two sentences for the person who met the error.
    """

    code: str
    title: str
    grpc_status: str
    exit_code: int
    retryable: bool
    what_to_do: str

    @property
    def anchor(self) -> str:
        """Anchor of the row on the documentation page."""
        return self.code.lower()

    @property
    def docs_link(self) -> str:
        """Page and anchor, as printed beside an error."""
        return f"{DOCS_PAGE}#{self.anchor}"


_ROWS: Final[tuple[CatalogueEntry, ...]] = (
    CatalogueEntry(
        "ESP-1000",
        "Unexpected internal error",
        "INTERNAL",
        EXIT_UNEXPECTED,
        False,
        "This is a defect in Esper. Keep the log of the service that raised it and report it.",
    ),
    CatalogueEntry(
        "ESP-1001",
        "Configuration is wrong",
        "FAILED_PRECONDITION",
        78,
        False,
        "Correct the named file or option and start again; `esper doctor` checks the rest.",
    ),
    CatalogueEntry(
        "ESP-1002",
        "A setting is missing or out of range",
        "FAILED_PRECONDITION",
        78,
        False,
        "Set the environment variable named in the message; docs/settings.md lists unit, default and range.",
    ),
    CatalogueEntry(
        "ESP-1003",
        "A value is not allowed",
        "INVALID_ARGUMENT",
        65,
        False,
        "Change the named field to one of the allowed values.",
    ),
    CatalogueEntry(
        "ESP-1004",
        "A message breaks the Leyline contract",
        "INVALID_ARGUMENT",
        65,
        False,
        "Send version 1 and a specified value for the named field; an old client has to be updated.",
    ),
    CatalogueEntry(
        "ESP-1005",
        "A required input is missing",
        "FAILED_PRECONDITION",
        65,
        False,
        "Supply the named id, kernel or input; Esper never invents a default for it.",
    ),
    CatalogueEntry(
        "ESP-1006",
        "Not found",
        "NOT_FOUND",
        66,
        False,
        "Check the spelling against the list that the message names, then ask again.",
    ),
    CatalogueEntry(
        "ESP-1007",
        "Already exists",
        "ALREADY_EXISTS",
        73,
        False,
        "Choose another id, or use the thing that exists.",
    ),
    CatalogueEntry(
        "ESP-1008",
        "Quarantined",
        "FAILED_PRECONDITION",
        77,
        False,
        "The artefact is not to be used. Choose another one, or lift the quarantine after reviewing its data sheet.",
    ),
    CatalogueEntry(
        "ESP-1009",
        "Data is damaged",
        "DATA_LOSS",
        65,
        False,
        "The bytes do not match their digest or checksum. Fetch or produce them again; check the disk if it recurs.",
    ),
    CatalogueEntry(
        "ESP-1010",
        "Not authenticated",
        "UNAUTHENTICATED",
        77,
        False,
        "Send a valid token: `esper token` prints one. Services need the same keyring file and a correct clock.",
    ),
    CatalogueEntry(
        "ESP-1011",
        "Not permitted",
        "PERMISSION_DENIED",
        77,
        False,
        "The token's role may not do this; use a token of the role named in the message.",
    ),
    CatalogueEntry(
        "ESP-1012",
        "Command rejected",
        "PERMISSION_DENIED",
        77,
        False,
        "The command failed verification for the reason given. Issue a new, freshly signed command.",
    ),
    CatalogueEntry(
        "ESP-1013",
        "Conflicts with the present state",
        "FAILED_PRECONDITION",
        73,
        False,
        "Bring the named thing into the required state first, then repeat the request.",
    ),
    CatalogueEntry(
        "ESP-1014",
        "Port is taken",
        "FAILED_PRECONDITION",
        73,
        False,
        "Stop the process that listens there, or choose another port.",
    ),
    CatalogueEntry(
        "ESP-1015",
        "State folder is in use",
        "FAILED_PRECONDITION",
        73,
        False,
        "Stop the process named in the message with `esper down`, or use another folder with --state-dir.",
    ),
    CatalogueEntry(
        "ESP-1016",
        "Decided on another generation",
        "ABORTED",
        75,
        True,
        "The topology changed in between. Decide again on the current generation.",
    ),
    CatalogueEntry(
        "ESP-1017",
        "A bound is reached",
        "RESOURCE_EXHAUSTED",
        75,
        True,
        "Wait for the time given and try again, or raise the limit named in the message.",
    ),
    CatalogueEntry(
        "ESP-1018",
        "Peer is unavailable",
        "UNAVAILABLE",
        69,
        True,
        "Check the peer with `esper status`; callers retry with back-off until it answers.",
    ),
    CatalogueEntry(
        "ESP-1019",
        "Circuit breaker is open",
        "UNAVAILABLE",
        69,
        True,
        "Several calls failed in a row, so calls are held back. Look at the peer; the breaker probes it by itself.",
    ),
    CatalogueEntry(
        "ESP-1020",
        "Deadline exceeded",
        "DEADLINE_EXCEEDED",
        75,
        True,
        "The work was stopped at its deadline. Try again, or allow more time if it recurs.",
    ),
    CatalogueEntry(
        "ESP-1021",
        "Cancelled",
        "CANCELLED",
        75,
        True,
        "The caller or a shutdown stopped the work; nothing of it remains. Start it again if it is still wanted.",
    ),
    CatalogueEntry(
        "ESP-1022",
        "Storage failed",
        "INTERNAL",
        74,
        True,
        "Check that the folder in the message exists, is writable and its disk is sound.",
    ),
    CatalogueEntry(
        "ESP-1023",
        "Disk is full",
        "RESOURCE_EXHAUSTED",
        74,
        True,
        "Free space on the disk that holds the folder in the message, then try again.",
    ),
    CatalogueEntry(
        "ESP-1024",
        "Not implemented yet",
        "UNIMPLEMENTED",
        69,
        False,
        "This method is part of the contract and arrives with a later release.",
    ),
    CatalogueEntry(
        "ESP-1025",
        "Work failed in its worker process",
        "INTERNAL",
        70,
        True,
        "The process that did the work died; the message has its exit status. Look for memory limits.",
    ),
    CatalogueEntry(
        "ESP-1030",
        "Run failed",
        "ABORTED",
        10,
        False,
        "The run ended with an error. `esper run watch RUN` shows its last events; its checkpoints are kept.",
    ),
    CatalogueEntry(
        "ESP-1031",
        "Run was halted",
        "ABORTED",
        11,
        False,
        "The run stopped with a checkpoint, by an operator or an emergency. Resume it when the cause is gone.",
    ),
)

CATALOGUE: Final[MappingProxyType[str, CatalogueEntry]] = MappingProxyType({row.code: row for row in _ROWS})
"""Code to row, in the order of the codes."""


def entry_of(code: str) -> CatalogueEntry:
    """Return the row of a code.

    Raises
    ------
    KeyError
        If the code is not in the catalogue.
    """
    return CATALOGUE[code]
