"""The local stack as it lies on disk: where its files are, and which process serves what on which port."""

from esper_core.stack.environment import service_environment
from esper_core.stack.paths import StackPaths
from esper_core.stack.ports import STORE, with_ports
from esper_core.stack.processes import STACK_VARIABLE, ProcessIdentity, members
from esper_core.stack.record import ServiceRecord, StackRecord

__all__ = [
    "STACK_VARIABLE",
    "STORE",
    "ProcessIdentity",
    "ServiceRecord",
    "StackPaths",
    "StackRecord",
    "members",
    "service_environment",
    "with_ports",
]
