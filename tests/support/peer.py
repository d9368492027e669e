"""A raw HTTP peer on a real socket that plays a script of answers, broken ones included, and records every request."""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import trustme

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What arrived."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def values(self, name: str) -> list[str]:
        """Return the values of every header `name`, in order."""
        return [value for header, value in self.headers if header.lower() == name.lower()]

    def __getitem__(self, name: str) -> str:
        """Return the value of the only header `name`."""
        (value,) = self.values(name)
        return value


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the peer does with a request: wait for `gate`, write `data`, then `then`."""

    data: bytes = b""
    then: Literal["keep", "close", "reset", "hang"] = "keep"
    piece: int = 0
    """Above 0: write this many bytes at a time."""
    pause: float = 0.0
    """Real seconds after each piece."""
    gate: asyncio.Event | None = None
    at: Literal["request", "connect"] = "request"
    """Act on a whole request, or as soon as somebody connects, reading nothing."""


Script = Step | Callable[[Request], Step]


def answer(status: int, headers: Headers = (), body: bytes = b"", *, length: int | None = None) -> Step:
    """Answer properly; `length` is what Content-Length claims, if not the truth."""
    head = [f"HTTP/1.1 {status} Status", *[f"{name}: {value}" for name, value in headers]]
    if status not in {204, 304}:
        head.append(f"Content-Length: {len(body) if length is None else length}")
    return Step(data="\r\n".join([*head, "", ""]).encode() + body)


SILENCE = Step(then="hang")
CLOSE = Step(then="close")
RESET = Step(then="reset")


def half(status: int = 200, headers: Headers = (), body: bytes = b"{}") -> Step:
    """Answer with headers that promise more than `body`, and close after it."""
    return replace(answer(status, headers, body, length=2 * len(body) + 2), then="close")


def chunked(status: int, headers: Headers, *chunks: bytes) -> Step:
    """Answer with a chunked body."""
    head = answer(status, [*headers, ("Transfer-Encoding", "chunked")]).data.replace(b"Content-Length: 0\r\n", b"")
    return Step(data=head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n")


def zeros(size: int) -> bytes:
    """Return `size` MiB of zeros as gzip, without ever holding them all."""
    stream = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = bytes(2**20)
    return b"".join([stream.compress(block) for _ in range(size)]) + stream.flush()


class Peer:
    """Plays its script, one step for each request; the last step repeats."""

    def __init__(self, *script: Script, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._script = list(script)
        self._wanted_port = port
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self.requests: list[Request] = []
        self.connections = 0
        """How many were ever opened."""
        self.connected = 0
        """How many are open now."""
        self.active = 0
        """Requests that are being answered now."""
        self.most_active = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._wanted_port, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}/in"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def refuse(self) -> None:
        """Refuse connections from now on; those that are open live on."""
        self._server.close()

    async def stop(self) -> None:
        """Refuse connections from now on, and close those that are open."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def until(self, reached: Callable[[Self], bool]) -> None:
        """Wait until `reached(self)`."""
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(lambda: reached(self))

    async def received(self, count: int) -> None:
        """Wait until `count` requests have arrived."""
        await self.until(lambda peer: len(peer.requests) >= count)

    async def left_alone(self) -> None:
        """Wait until nobody is connected."""
        await self.until(lambda peer: not peer.connected)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _note(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.connected += 1
        try:
            await self._note()
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # the other side has left
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()
            self.connected -= 1
            await self._note()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read one request and act; return whether the connection lives on."""
        first = self._script[0]
        if isinstance(first, Step) and first.at == "connect":
            return await _act(self._take(None), reader, writer)
        request = await _read(reader)
        self.requests.append(request)
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            await self._note()
            return await _act(self._take(request), reader, writer)
        finally:
            self.active -= 1
            await self._note()

    def _take(self, request: Request | None) -> Step:
        step = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if isinstance(step, Step):
            return step
        assert request is not None
        return step(request)


async def _act(step: Step, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    if step.gate is not None:
        await _first(step.gate.wait(), reader.read(1))
    piece = step.piece or len(step.data) or 1
    for at in range(0, len(step.data), piece):
        writer.write(step.data[at : at + piece])
        await writer.drain()
        await asyncio.sleep(step.pause)
    if step.then == "hang":
        await reader.read()  # until the other side leaves
    if step.then == "reset":
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
    return step.then == "keep"


async def _first(*works: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *fields = head[:-4].split("\r\n")
    method, target, _ = line.split(" ")
    headers = tuple((name, value.strip()) for name, _, value in (text.partition(":") for text in fields))
    request = Request(method=method, target=target, headers=headers, body=b"")
    return replace(request, body=await reader.readexactly(int(request["Content-Length"])))


class Certificates:
    """A certificate for 127.0.0.1, and a context that trusts it."""

    def __init__(self) -> None:
        authority = trustme.CA()
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self.server)
        self.trusting = ssl.create_default_context()
        authority.configure_trust(self.trusting)


async def until(reached: Callable[[], bool]) -> None:
    """Let the loop turn until `reached()`."""
    async with asyncio.timeout(5):
        while not reached():  # noqa: ASYNC110 - a clock or a semaphore has no event to wait for
            await asyncio.sleep(0)


def unused_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def full_backlog() -> Iterator[str]:
    """Listen and never accept, with the queue of connections full: whoever connects to this URL waits for ever."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


@contextlib.contextmanager
def in_thread(peer: Peer) -> Iterator[Callable[[Callable[[Peer], bool]], None]]:
    """Run `peer` on a loop of its own; yields a blocking `peer.until`."""
    with asyncio.Runner() as runner:
        stopping = asyncio.Event()
        started: Future[asyncio.AbstractEventLoop] = Future()

        async def serve() -> None:
            async with peer:
                started.set_result(asyncio.get_running_loop())
                await stopping.wait()

        thread = threading.Thread(target=runner.run, args=(serve(),))
        thread.start()
        loop = started.result()
        try:
            yield lambda reached: asyncio.run_coroutine_threadsafe(peer.until(reached), loop).result()
        finally:
            loop.call_soon_threadsafe(stopping.set)
            thread.join()
