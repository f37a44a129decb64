"""The local stack as it lies on disk: where its files are, and which process serves what on which port."""

from esper_core.stack.paths import StackPaths
from esper_core.stack.processes import STACK_VARIABLE, ProcessIdentity, members
from esper_core.stack.record import ServiceRecord, StackRecord

__all__ = ["STACK_VARIABLE", "ProcessIdentity", "ServiceRecord", "StackPaths", "StackRecord", "members"]
