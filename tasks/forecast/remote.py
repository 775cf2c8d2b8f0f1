"""The coordinator's side of real machines: gRPC, one stream per joiner.

A server of grpcio's asyncio API runs in a thread of its own; `call` sends one command to every
joiner and gathers the answers. Who misses the deadline, leaves or answers nonsense is left out of
that call, by name; who comes back is set up again by the coordinator's `welcome`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...core.errors import DataError, MissingExtraError, UsageError
from .transport import Reply, Traffic, size
from .wire import MAX_BYTES, METHOD, SERVICE, Message, check_rows, pack, unpack

HELLO_SECONDS = 20.0
OPTIONS = (
    ("grpc.max_send_message_length", MAX_BYTES),
    ("grpc.max_receive_message_length", MAX_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)


def grpc_module() -> Any:
    """Return grpcio. Raises `MissingExtraError` where it is not installed."""
    try:
        import grpc
        import grpc.aio
    except ModuleNotFoundError as error:
        raise MissingExtraError("grpcio", "federated") from error
    return grpc


@dataclass
class _Joiner:
    """One connected process: its nodes, what it is to be sent, what it owes an answer to."""

    nodes: list[int]
    outgoing: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    waiting: dict[int, asyncio.Future[Message]] = field(default_factory=dict)


class GrpcTransport:
    """Nodes on other machines. `port` is the one that was bound (0 picks a free one).

    With `tls` (certificate, key) in PEM the connection is encrypted. `say` gets remarks on who
    comes, goes or sends nonsense. Use it as a context manager.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        token: str,
        address: str = "127.0.0.1:0",
        tls: tuple[bytes, bytes] | None = None,
        deadline_s: float = 120.0,
        say: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.grpc = grpc_module()
        self.names, self.token, self.say = tuple(names), token, say
        self.device = torch.device("cpu")
        self.traffic = Traffic()
        self.deadline_s = deadline_s
        self._place = {name: i for i, name in enumerate(names)}
        self._owners: dict[int, _Joiner] = {}
        self._new = torch.zeros(len(names), dtype=torch.bool)
        self._number = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = self._run(self._start(address, tls))

    def __enter__(self) -> GrpcTransport:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _start(self, address: str, tls: tuple[bytes, bytes] | None) -> int:
        grpc = self.grpc
        handler = grpc.stream_stream_rpc_method_handler(self._session)
        self._server = grpc.aio.server(options=OPTIONS)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),)
        )
        try:
            if tls is None:
                port = self._server.add_insecure_port(address)
            else:
                certificate, key = tls
                credentials = grpc.ssl_server_credentials([(key, certificate)])
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise UsageError(
                f"cannot listen on {address}", "is the port taken, or the certificate damaged?"
            ) from error
        await self._server.start()
        return int(port)

    async def _stop(self) -> None:
        await self._server.stop(1.0)
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    # --- joiners come and go ---

    async def _session(self, requests: AsyncIterator[bytes], context: Any) -> None:
        joiner = await self._admit(requests, context)
        reader = asyncio.create_task(self._read(requests, joiner))
        sending: asyncio.Task[bytes] | None = None
        try:
            while True:
                sending = asyncio.create_task(joiner.outgoing.get())
                await asyncio.wait({sending, reader}, return_when=asyncio.FIRST_COMPLETED)
                if reader.done():
                    break
                await context.write(sending.result())
        finally:
            for task in (reader, sending):
                if task is not None:
                    task.cancel()
            self._forget(joiner)

    async def _admit(self, requests: AsyncIterator[bytes], context: Any) -> _Joiner:
        """Check token, protocol and nodes of who wants to join; ends the call otherwise."""
        code = self.grpc.StatusCode
        given = dict(context.invocation_metadata()).get("authorization", "")
        if not hmac.compare_digest(str(given).encode(), f"Bearer {self.token}".encode()):
            await context.abort(code.UNAUTHENTICATED, "wrong token")
        await context.send_initial_metadata((("welcome", "yes"),))
        try:
            data = await asyncio.wait_for(anext(requests), HELLO_SECONDS)
            hello = unpack(data)
            names = [str(name) for name in hello.values["nodes"]]
        except (DataError, KeyError, TypeError, TimeoutError, StopAsyncIteration) as error:
            reason = error.message if isinstance(error, DataError) else "no proper greeting"
            await context.abort(code.FAILED_PRECONDITION, reason)
            raise  # abort has raised already; this tells the type checker
        unknown = [name for name in names if name not in self._place]
        twins = [name for name in names if self._place.get(name) in self._owners]
        if unknown or not names:
            await context.abort(
                code.INVALID_ARGUMENT, f"unknown node {', '.join(unknown[:5]) or '(none given)'}"
            )
        if twins or len(set(names)) < len(names):
            some = ", ".join(twins[:5]) or "given twice"
            await context.abort(code.ALREADY_EXISTS, f"somebody has joined as node {some}")
        joiner = _Joiner([self._place[name] for name in names])
        for node in joiner.nodes:
            self._owners[node] = joiner
            self._new[node] = True
        self.say(f"joined: {', '.join(names[:8])}")
        return joiner

    async def _read(self, requests: AsyncIterator[bytes], joiner: _Joiner) -> None:
        async for data in requests:
            message = unpack(data)
            waiting = joiner.waiting.pop(message.number, None)
            if waiting is not None and not waiting.done():  # later than its deadline otherwise
                waiting.set_result(message)

    def _forget(self, joiner: _Joiner) -> None:
        for node in joiner.nodes:
            self._owners.pop(node, None)
        for waiting in joiner.waiting.values():
            if not waiting.done():
                waiting.set_exception(ConnectionError("left"))
        self.say(f"left: {self._names(joiner)}")

    def _names(self, joiner: _Joiner) -> str:
        return ", ".join(self.names[node] for node in joiner.nodes[:8])

    def joined(self) -> int:
        """Return how many nodes are there."""
        return len(self._owners)

    def wait(self, least: int, seconds: float, tick: Callable[[int], None]) -> None:
        """Wait until `least` nodes have joined. Raises `DataError` after `seconds`."""
        until = time.monotonic() + seconds
        while self.joined() < least:
            if time.monotonic() > until:
                raise DataError(
                    f"only {self.joined()} of {least} nodes have joined in {seconds:g} s",
                    "start the others, or lower --least",
                )
            tick(self.joined())
            time.sleep(0.05)

    def newcomers(self) -> Tensor:
        """Return which nodes have (re)joined since the last call, bool (N,)."""
        new, self._new = self._new, torch.zeros_like(self._new)
        return new

    # --- calls ---

    def call(
        self,
        operation: str,
        *,
        shared: Mapping[str, Tensor] | None = None,
        per_node: Mapping[str, Tensor] | None = None,
        only: Tensor | None = None,
        expect: Mapping[str, tuple[int, ...]] | None = None,
        **numbers: Any,
    ) -> Reply:
        """Send the operation to all joiners at once and put their answers side by side."""
        self._number += 1
        message = Message(
            operation, self._number, numbers, dict(shared or {}), dict(per_node or {})
        )
        answers = self._run(self._ask(message, only))
        alive = torch.zeros(len(self.names), dtype=torch.bool)
        found: dict[str, Tensor] = {}
        for joiner, answer in answers:
            nodes = torch.tensor(joiner.nodes)
            if not self._usable(joiner, operation, answer, expect or {}):
                continue
            alive[nodes] = True
            for name in expect or {}:
                rows = answer.nodes[name]
                if name not in found:
                    found[name] = rows.new_zeros(len(self.names), *rows.shape[1:])
                found[name][nodes] = rows.to(found[name].dtype)
        for name, shape in (expect or {}).items():
            found.setdefault(name, torch.zeros(len(self.names), *shape))
        if only is not None:
            alive &= only
        return Reply(found, alive)

    def _usable(
        self,
        joiner: _Joiner,
        operation: str,
        answer: Message,
        expect: Mapping[str, tuple[int, ...]],
    ) -> bool:
        """Tell whether an answer is what was asked for; says whose is not."""
        reason = ""
        if answer.kind != operation:
            reason = str(answer.values.get("error", f"it answered '{answer.kind}'"))[:200]
        try:
            check_rows(answer.nodes, len(joiner.nodes))
            for name, shape in expect.items():
                if not reason and tuple(answer.nodes[name].shape[1:]) != tuple(shape):
                    got = tuple(answer.nodes[name].shape[1:])
                    reason = f"'{name}' has shape {got}, expected {tuple(shape)}"
        except (DataError, KeyError) as error:
            reason = reason or (error.message if isinstance(error, DataError) else f"no {error}")
        if reason:
            self.say(f"answer to '{operation}' rejected; node {self._names(joiner)}: {reason}")
        return not reason

    async def _ask(self, message: Message, only: Tensor | None) -> list[tuple[_Joiner, Message]]:
        joiners = []
        for joiner in {id(j): j for j in self._owners.values()}.values():
            if only is None or bool(only[joiner.nodes].any()):
                joiners.append(joiner)
        # One joiner's nodes are asked together: `only` is heeded when the answers are merged.
        tasks = [self._ask_one(joiner, message) for joiner in joiners]
        answers = await asyncio.gather(*tasks)
        return [(j, a) for j, a in zip(joiners, answers, strict=True) if a is not None]

    async def _ask_one(self, joiner: _Joiner, message: Message) -> Message | None:
        rows = {name: tensor[joiner.nodes] for name, tensor in message.nodes.items()}
        mine = Message(message.kind, message.number, message.values, message.tensors, rows)
        data = pack(mine)
        if len(data) > MAX_BYTES:
            raise DataError(
                f"a message to {self._names(joiner)} has {len(data):,} bytes, more than "
                f"{MAX_BYTES:,}",
                "spread the nodes over more joiners, or raise --stride",
            )
        waiting: asyncio.Future[Message] = self._loop.create_future()
        joiner.waiting[message.number] = waiting
        joiner.outgoing.put_nowait(data)
        try:
            answer = await asyncio.wait_for(waiting, self.deadline_s)
        except TimeoutError:
            joiner.waiting.pop(message.number, None)
            self.say(
                f"no answer to '{message.kind}' from node {self._names(joiner)} "
                f"within {self.deadline_s:g} s"
            )
            return None
        except ConnectionError:
            return None
        down = size(message.tensors) + size(rows)
        self.traffic.count(message.kind, down, size(answer.nodes))
        return answer

    def dismiss(self) -> None:
        """Tell all joiners that the work is over."""
        self._number += 1
        self._run(self._ask(Message("bye", self._number), None))
