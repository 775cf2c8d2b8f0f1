"""A joiner's side: answers the coordinator's commands with the nodes that this process owns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from ...core.errors import DataError, MlkitError, UsageError
from .node import NodeGroup
from .remote import OPTIONS, grpc_module
from .transport import OPERATIONS
from .wire import METHOD, SERVICE, Message, pack, unpack

PAUSE_SECONDS = 1.0  # between two attempts to connect


def answer(group: NodeGroup, message: Message) -> Message:
    """Carry a command out. What goes wrong is said in an answer of the kind "error"."""
    if message.kind == "bye":
        return Message("bye", message.number)
    if message.kind not in OPERATIONS:
        return _error(message, f"no operation '{message.kind}'")
    try:
        arguments = {**message.tensors, **message.nodes, **message.values}
        found = getattr(group, message.kind)(**arguments)
    except MlkitError as error:
        return _error(message, error.message)
    except (TypeError, ValueError, KeyError, IndexError, RuntimeError, AttributeError) as error:
        return _error(message, f"{type(error).__name__}: {error}")
    return Message(message.kind, message.number, nodes=found)


def _error(message: Message, reason: str) -> Message:
    return Message("error", message.number, {"error": reason[:500]})


def join(
    group: NodeGroup,
    address: str,
    token: str,
    *,
    certificate: bytes | None = None,
    patience_s: float = 60.0,
    say: Callable[[str], None] = lambda message: None,
    heard: Callable[[Message], None] = lambda message: None,
) -> None:
    """Serve the coordinator at `address` until it says that the work is over.

    A connection that is lost, or not yet there, is tried again for `patience_s` seconds; `heard`
    sees every command. `certificate` (PEM) is what the coordinator's is checked against; without
    it the connection is not encrypted. Raises `UsageError` when it refuses us, `DataError` when
    it cannot be reached.
    """
    asyncio.run(_keep_joining(group, address, token, certificate, patience_s, say, heard))


async def _keep_joining(
    group: NodeGroup,
    address: str,
    token: str,
    certificate: bytes | None,
    patience_s: float,
    say: Callable[[str], None],
    heard: Callable[[Message], None],
) -> None:
    grpc = grpc_module()
    code = grpc.StatusCode
    loop = asyncio.get_running_loop()
    until = loop.time() + patience_s
    last = ""
    while True:
        try:
            async with _channel(grpc, address, certificate) as channel:
                if await _session(channel, group, token, say, heard):
                    return
                reason = "the coordinator closed the connection"
                until = max(until, loop.time() + patience_s)
        except grpc.aio.AioRpcError as error:
            reason = error.details() or error.code().name
            if error.code() == code.ALREADY_EXISTS and loop.time() < until:
                pass  # the coordinator may not have noticed yet that we were gone
            elif error.code() not in (code.UNAVAILABLE, code.CANCELLED, code.UNKNOWN):
                raise UsageError(f"{address} refused: {reason}", _advice(error.code().name)) from (
                    error
                )
        if loop.time() > until:
            raise DataError(
                f"cannot reach {address}: {reason}",
                "is 'mlkit federate serve' running there, with TLS on both sides or on neither?",
            )
        if reason != last:
            say(f"{address}: {reason}; trying again")
            last = reason
        await asyncio.sleep(PAUSE_SECONDS)


def _advice(code: str) -> str:
    return {
        "UNAUTHENTICATED": "give the coordinator's token with --token-file",
        "INVALID_ARGUMENT": "name nodes of the coordinator's graph with --node",
        "ALREADY_EXISTS": "each node joins once; see --node",
        "RESOURCE_EXHAUSTED": "a message was too large; let this process own fewer nodes",
        "FAILED_PRECONDITION": "install the same mlkit on both sides",
    }.get(code, "see the coordinator's messages")


def _channel(grpc: Any, address: str, certificate: bytes | None) -> Any:
    if certificate is None:
        return grpc.aio.insecure_channel(address, options=OPTIONS)
    credentials = grpc.ssl_channel_credentials(root_certificates=certificate)
    return grpc.aio.secure_channel(address, credentials, options=OPTIONS)


async def _session(
    channel: Any,
    group: NodeGroup,
    token: str,
    say: Callable[[str], None],
    heard: Callable[[Message], None],
) -> bool:
    """Answer commands on one connection; returns True when the coordinator said goodbye."""
    outgoing: asyncio.Queue[bytes | None] = asyncio.Queue()
    welcome = asyncio.Event()

    async def requests() -> AsyncIterator[bytes]:
        await welcome.wait()  # a greeting that meets a refusal would hide the reason for it
        while (data := await outgoing.get()) is not None:
            yield data

    outgoing.put_nowait(pack(Message("hello", 0, {"nodes": list(group.names)})))
    call = channel.stream_stream(f"/{SERVICE}/{METHOD}")(
        requests(), metadata=(("authorization", f"Bearer {token}"),)
    )
    if await call.initial_metadata():
        welcome.set()
    first = True
    async for data in call:
        message = unpack(data)
        if first:
            say("joined")
            first = False
        heard(message)
        # Training takes long; the connection must be kept alive meanwhile.
        found = await asyncio.to_thread(answer, group, message)
        outgoing.put_nowait(pack(found))
        if message.kind == "bye":
            outgoing.put_nowait(None)
            await asyncio.sleep(0.2)
            return True
    return False
