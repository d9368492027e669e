"""A TCP proxy on 127.0.0.1 before a real server, at which connections are cut, stalled and refused."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """Hands bytes on, both ways: ``async with Proxy.to_port(5432) as proxy``, then connect to ``proxy.port``."""

    def __init__(self, connect: Callable[[], Awaitable[_Streams]], tls: ssl.SSLContext | None = None) -> None:
        self._connect = connect
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._asks, self._answers = asyncio.Event(), asyncio.Event()
        self.port = 0
        self.accepted = 0
        """Connections so far."""
        self.held = asyncio.Event()
        """Set once an answer has come since these are held back."""

    @classmethod
    def to_port(cls, port: int, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Self:
        """Stand before a server that listens at a port; with ``tls``, talk that to clients."""
        return cls(lambda: asyncio.open_connection(host, port), tls)

    @classmethod
    def to_socket(cls, path: object, tls: ssl.SSLContext | None = None) -> Self:
        """Stand before a server that listens at a Unix socket; with ``tls``, talk that to clients."""
        return cls(lambda: asyncio.open_unix_connection(str(path)), tls)

    async def __aenter__(self) -> Self:
        await self.resume()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """End all connections at once, as if a cable was pulled; new ones are taken."""
        for writer in self._writers:
            writer.transport.abort()

    def stall(self, *, answers_only: bool = False) -> None:
        """Hand nothing on any more, also for new connections, and tell nobody; or hand on questions, but no answers."""
        self._answers.clear()
        self.held.clear()
        if not answers_only:
            self._asks.clear()

    def forget(self) -> None:
        """Hand nothing on any more over the connections that there are, and tell nobody; new ones are as before."""
        self._asks.clear()
        self._answers.clear()
        self._asks, self._answers = asyncio.Event(), asyncio.Event()
        self._asks.set()
        self._answers.set()

    async def refuse(self) -> None:
        """End all connections, and listen no more."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self.cut()
        if server is not None:
            await server.wait_closed()

    async def resume(self) -> None:
        """Listen, at the same port, and hand everything on."""
        self._asks.set()
        self._answers.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self._tls)
            self.port = self._server.sockets[0].getsockname()[1]

    async def resume_after_cut(self) -> None:
        """End all connections, so that what was held back is lost; then hand on what comes over new ones."""
        self.cut()
        await self.resume()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.add(writer)
        try:
            with suppress(OSError):
                server_reader, server_writer = await self._connect()
                self._writers.add(server_writer)
                try:
                    ways = [
                        asyncio.ensure_future(self._hand_on(reader, server_writer, self._asks)),
                        asyncio.ensure_future(self._hand_on(server_reader, writer, self._answers, self.held)),
                    ]
                    try:
                        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        for way in ways:
                            way.cancel()
                        await asyncio.wait(ways)
                finally:
                    await self._end(server_writer)
        finally:
            await self._end(writer)

    async def _end(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()

    async def _hand_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        may: asyncio.Event,
        held: asyncio.Event | None = None,
    ) -> None:
        with suppress(OSError):
            while some := await reader.read(65536):
                if held is not None and not may.is_set():
                    held.set()
                await may.wait()
                writer.write(some)
                await writer.drain()
