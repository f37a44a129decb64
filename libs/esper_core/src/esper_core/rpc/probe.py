"""Health check from the shell: `python -m esper_core.rpc.probe HOST:PORT [SERVICE]`, exit status 0 when serving."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from esper_core.errors import EsperError, UnavailableError, to_exit_code
from esper_core.rpc.blocking import blocking_channel
from esper_core.rpc.client import tls_from_environment
from esper_core.rpc.rpc_errors import mapped_errors


def probe(address: str, service: str, timeout_s: float) -> str:
    """Ask once; returns the status, `SERVING`.

    Raises
    ------
    EsperError
        If the server cannot be reached, or does not serve.
    """
    with blocking_channel(address, None, "probe", tls_from_environment()) as channel, mapped_errors(address):
        request = health_pb2.HealthCheckRequest(service=service)
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(request, timeout=timeout_s)
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise UnavailableError(f"{address} says {status}; it waits for a dependency. Its log tells which.")
    return status


def main(arguments: list[str]) -> int:
    """Print the status and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m esper_core.rpc.probe", description=__doc__)
    parser.add_argument("address", help="host:port of the gRPC server")
    parser.add_argument("service", nargs="?", default="", help="full service name; the whole server by default")
    parser.add_argument("--timeout", type=float, default=2.0, metavar="SECONDS")
    options = parser.parse_args(arguments)
    try:
        print(probe(options.address, options.service, options.timeout))
    except EsperError as error:
        print(error.message, file=sys.stderr)
        return to_exit_code(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
