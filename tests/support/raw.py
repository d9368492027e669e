"""An HTTP/1.1 client that sends exactly the bytes it is given, for requests that no library would write."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

Line = str | bytes

#: Enough for any answer on this machine; a test that runs into it has found a hang.
PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An answer as it came."""

    status: int
    headers: tuple[tuple[str, str], ...]
    """Names in lower case."""
    body: bytes
    text: bytes
    """The whole answer, head and body."""

    def header(self, name: str) -> str | None:
        """Return the first header ``name``."""
        return next((value for field, value in self.headers if field == name), None)


class RawConnection:
    """One connection to a local server."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()
        self._writer.close()

    async def send(self, data: bytes) -> None:
        """Write ``data`` as it is; a peer that has closed already may have its answer under way."""
        self._writer.write(data)
        try:
            await self._writer.drain()
        except ConnectionError:
            return

    async def answer(self, *, bodiless: bool = False) -> RawAnswer | None:
        """Read one answer, to HEAD if ``bodiless``, or None if the connection ends without one."""
        async with asyncio.timeout(PATIENCE):
            try:
                head = await self._reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return None
            first, *lines = head[:-4].decode("latin-1").split("\r\n")
            headers = tuple((name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines))
            size = next((int(value) for name, value in headers if name == "content-length" and not bodiless), 0)
            body = await self._reader.readexactly(size)
        return RawAnswer(int(first.split(" ")[1]), headers, body, head + body)

    async def ended(self) -> bool:
        """Wait until the peer closes; tell whether it had nothing more to say."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self._reader.read(1) == b""
            except ConnectionError:
                return True


def request(
    *lines: Line, body: Line = b"", method: Line = "POST", path: Line = "/", host: bool = True, length: bool = True
) -> bytes:
    """Write a request of header ``lines``; Host and Content-Length are added unless told otherwise."""
    content = _bytes(body)
    head: list[Line] = [_bytes(method) + b" " + _bytes(path) + b" HTTP/1.1"]
    if host:
        head.append("Host: localhost")
    head.extend(lines)
    if length:
        head.append(f"Content-Length: {len(content)}")
    return b"\r\n".join(map(_bytes, head)) + b"\r\n\r\n" + content


def without(lines: Iterable[str], *names: str) -> list[str]:
    """Return header ``lines`` but for those of ``names``."""
    return [line for line in lines if line.partition(":")[0] not in names]


def response(status: int, *lines: Line, body: Line = b"") -> bytes:
    """Write an answer."""
    content = _bytes(body)
    head: list[Line] = [f"HTTP/1.1 {status} Status", *lines, f"Content-Length: {len(content)}"]
    return b"\r\n".join(map(_bytes, head)) + b"\r\n\r\n" + content


async def exchange(port: int, data: bytes) -> RawAnswer | None:
    """Send ``data`` over a connection of its own and return the answer."""
    async with RawConnection(port) as connection:
        await connection.send(data)
        return await connection.answer()


def _bytes(line: Line) -> bytes:
    return line if isinstance(line, bytes) else line.encode()


NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


class Capture:
    """A server that keeps every request as bytes and gives ``answers`` in turn, the last one for ever."""

    def __init__(self, *answers: bytes) -> None:
        self.requests: list[bytes] = []
        self._answers = answers or (NO_CONTENT,)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await _head(reader):
                fields = (line.partition(b":") for line in head.lower().split(b"\r\n"))
                size = next((int(value) for name, _, value in fields if name == b"content-length"), 0)
                self.requests.append(head + await reader.readexactly(size))
                writer.write(self._answers[min(len(self.requests), len(self._answers)) - 1])
        finally:
            writer.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
