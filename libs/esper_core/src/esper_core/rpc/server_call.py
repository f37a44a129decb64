"""One call on the server, and the pipeline of layers that every call passes through."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from esper_core.contract import validate
from esper_core.errors import ContractError
from esper_core.rpc.metrics import MethodMetrics, MethodName


@dataclass(slots=True, eq=False)
class ServerCall:
    """What the layers know of the call they surround."""

    name: MethodName
    context: Any
    metrics: MethodMetrics
    cut: bool = False

    def metadata(self, key: str) -> str:
        """Return the first value of a metadata key as text, or ""."""
        for name, value in self.context.invocation_metadata() or ():
            if name == key:
                return value if isinstance(value, str) else value.decode("latin-1")
        return ""


Layer = Callable[[ServerCall], AbstractAsyncContextManager[None]]
Behaviour = Callable[[Any, Any], Any]
Decode = Callable[[bytes], Any]


@dataclass(frozen=True, slots=True)
class Unfit:
    """Stands for a request that is not what the contract says, until the error layer can tell the client."""

    error: ContractError


@dataclass(slots=True)
class LiveStreams:
    """The streaming calls in flight, so that a drain can end those that would never end by themselves."""

    _calls: dict[ServerCall, asyncio.Task[Any]] = field(default_factory=dict)

    @asynccontextmanager
    async def layer(self, call: ServerCall) -> AsyncIterator[None]:
        """Remember the call while it runs."""
        task = asyncio.current_task()
        if task is None or call.name.is_unary:
            yield
            return
        self._calls[call] = task
        try:
            yield
        finally:
            del self._calls[call]

    def __len__(self) -> int:
        return len(self._calls)

    def cut(self) -> int:
        """Interrupt every stream; its client gets UNAVAILABLE and may reconnect elsewhere. Returns how many."""
        for call, task in self._calls.items():
            call.cut = True
            task.cancel()
        return len(self._calls)


class Pipeline(grpc.aio.ServerInterceptor):
    """Runs every handler inside the layers, the first one outermost.

    One interceptor instead of one per concern: each of gRPC's own would have to wrap the four kinds of handler again.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        metrics_of: Callable[[MethodName], MethodMetrics],
        is_validated: Callable[[str], bool],
    ) -> None:
        self._layers = tuple(layers)
        self._is_validated = is_validated
        self._metrics_of = metrics_of
        self._wrapped: dict[str, tuple[Any, grpc.RpcMethodHandler[Any, Any]]] = {}

    async def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the wrapped handler of the method, or None where there is none."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        path = handler_call_details.method
        known = self._wrapped.get(path)
        if known is None or known[0] is not handler:
            known = self._wrapped[path] = (handler, self._wrap(path, handler))
        return known[1]

    def _wrap(self, path: str, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        name = MethodName.of(
            path, request_streaming=handler.request_streaming, response_streaming=handler.response_streaming
        )
        metrics = self._metrics_of(name)
        decode = _checked(metrics.receiving(handler.request_deserializer), name, self._is_validated(name.service))
        decode = decode if handler.request_streaming else _deferring(decode)
        encode = metrics.sending(handler.response_serializer)
        serve = self._streaming if handler.response_streaming else self._single
        return _FACTORIES[name.kind](serve(name, metrics, _behaviour_of(handler)), decode, encode)

    def _single(self, name: MethodName, metrics: MethodMetrics, behaviour: Behaviour) -> Behaviour:
        async def serve(request: Any, context: Any) -> Any:
            async with self._entered(ServerCall(name, context, metrics)):
                result = behaviour(_fit(request), context)
                return await result if inspect.isawaitable(result) else result

        return serve

    def _streaming(self, name: MethodName, metrics: MethodMetrics, behaviour: Behaviour) -> Behaviour:
        async def serve(request: Any, context: Any) -> None:
            async with self._entered(ServerCall(name, context, metrics)):
                result = behaviour(_fit(request), context)
                if inspect.isawaitable(result):
                    await result
                else:
                    await _write_all(result, context)

        return serve

    @asynccontextmanager
    async def _entered(self, call: ServerCall) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for layer in self._layers:
                await stack.enter_async_context(layer(call))
            yield


_FACTORIES: Final[Mapping[str, Callable[..., grpc.RpcMethodHandler[Any, Any]]]] = {
    "unary": grpc.unary_unary_rpc_method_handler,
    "client_stream": grpc.stream_unary_rpc_method_handler,
    "server_stream": grpc.unary_stream_rpc_method_handler,
    "bidi_stream": grpc.stream_stream_rpc_method_handler,
}


def _behaviour_of(handler: Any) -> Behaviour:
    kinds: tuple[Behaviour | None, ...] = (
        handler.unary_unary,
        handler.unary_stream,
        handler.stream_unary,
        handler.stream_stream,
    )
    return next(behaviour for behaviour in kinds if behaviour is not None)


async def _write_all(responses: AsyncGenerator[Any, None], context: Any) -> None:
    """Send what a handler yields; closing the generator runs its clean-up now, not at the next garbage collection."""
    async with aclosing(responses):
        async for response in responses:
            await context.write(response)


def _checked(decode: Decode, name: MethodName, validated: bool) -> Decode:
    """Turn bytes that are no message into a contract error, and check version and enums where the service asks."""

    def decoded(data: bytes) -> Any:
        try:
            message = decode(data)
        except DecodeError as error:
            raise ContractError(
                f"A request of {name.path} is not the message of the contract: {error}. Update the client.",
                field="request",
            ) from error
        if validated:
            validate(message)
        return message

    return decoded


def _deferring(decode: Decode) -> Decode:
    """Hand a failure on as a request: gRPC decodes a single request before any layer could map the error."""

    def decoded(data: bytes) -> Any:
        try:
            return decode(data)
        except ContractError as error:
            return Unfit(error)

    return decoded


def _fit(request: Any) -> Any:
    if isinstance(request, Unfit):
        raise request.error
    return request
