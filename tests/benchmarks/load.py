"""A load generator: kept-alive connections that write prebuilt requests and check every status."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, cast

from .process import SubjectError
from .rounds import Sample

_EXPECTED: Final = b"HTTP/1.1 204"
_END: Final = b"\r\n\r\n"
_CONNECT_SECONDS: Final = 5.0
_WARM_SECONDS: Final = 0.2
_REPORT_BYTES: Final = 400


Request = bytes | Callable[[], bytes]


class _Connection(asyncio.Protocol):
    """Writes its request, waits for a whole 204, and writes the request again, or the next one that it makes."""

    def __init__(self, request: Request, took: list[float] | None) -> None:
        self.count = 0
        self.error: str | None = None
        self._next = request if callable(request) else lambda: request
        self._took = took
        self._sent = 0.0
        self._partial = b""
        self._running = True
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._write()

    def data_received(self, data: bytes) -> None:
        if self._partial:
            data = self._partial + data
        if not data.endswith(_END):
            self._partial = data
            if not _EXPECTED.startswith(data[: len(_EXPECTED)]):
                self._fail(data)
            return
        self._partial = b""
        if not data.startswith(_EXPECTED):
            self._fail(data)
            return
        self.count += 1
        if self._took is not None:
            self._took.append(time.perf_counter() - self._sent)
        if self._running:
            self._write()

    def _write(self) -> None:
        if self._transport is not None:
            request = self._next()
            if self._took is not None:
                self._sent = time.perf_counter()
            self._transport.write(request)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._running and self.error is None:
            self.error = f"connection closed early ({exc})"

    def stop(self) -> None:
        """Send nothing more and close."""
        self._running = False
        if self._transport is not None:
            self._transport.close()

    def _fail(self, data: bytes) -> None:
        self.error = "wrong answer: " + data[:_REPORT_BYTES].decode("latin-1")
        self.stop()


async def drive(
    port: int,
    requests: Sequence[Request],
    seconds: float,
    cpu: Callable[[], float],
    units: int = 1,
    *,
    took: list[float] | None = None,
) -> Sample:
    """Load a server on one connection per request; `cpu` tells the processor time its process has used.

    A request that is a function makes a new one each time. ``took`` collects the seconds that each answer took.
    """
    loop = asyncio.get_running_loop()
    connections: list[_Connection] = []
    try:
        for request in requests:
            opening = loop.create_connection(partial(_Connection, request, took), "127.0.0.1", port)
            connections.append((await asyncio.wait_for(opening, _CONNECT_SECONDS))[1])
        await asyncio.sleep(_WARM_SECONDS)
        if took is not None:
            took.clear()
        before, cpu_before, began = _total(connections), cpu(), time.perf_counter()
        await asyncio.sleep(seconds)
        done, cpu_after, ended = _total(connections) - before, cpu(), time.perf_counter()
    except OSError as error:
        raise SubjectError(f"cannot connect: {error}") from error
    finally:
        for connection in connections:
            connection.stop()
        await asyncio.sleep(0)
    if not done:
        raise SubjectError("no request was answered")
    return Sample(done * units, ended - began, cpu_after - cpu_before)


def _total(connections: Sequence[_Connection]) -> int:
    """Requests answered on all connections; raises if any of them went wrong."""
    for connection in connections:
        if connection.error is not None:
            raise SubjectError(connection.error)
    return sum(connection.count for connection in connections)
