"""The end of a server: calls in flight finish, streams are cut, nothing waits for ever."""

from __future__ import annotations

import asyncio

import grpc

from esper_core.rpc.server_call import LiveStreams


async def finish_calls(
    server: grpc.aio.Server, streams: LiveStreams, hurry: asyncio.Event, stream_grace_s: float, grace_s: float
) -> None:
    """Stop accepting at once, cut streams after their grace, and end everything after the general one or in a hurry.

    Parameters
    ----------
    server : grpc.aio.Server
        The running server.
    streams : LiveStreams
        Its streaming calls.
    hurry : asyncio.Event
        Set when the operator asks a second time.
    stream_grace_s, grace_s : float
        Time for streams to end by themselves, and for all calls together.
    """
    ending = asyncio.create_task(server.stop(grace_s))
    hurrying = asyncio.create_task(hurry.wait())
    either = {ending, hurrying}
    try:
        await asyncio.wait(either, timeout=stream_grace_s, return_when=asyncio.FIRST_COMPLETED)
        streams.cut()
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            await server.stop(0)
        await ending
    finally:
        hurrying.cancel()
