"""The fastest sink at hand: reads a request as far as its end, answers a prebuilt 204, remembers the last head."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from typing import Final, cast

from .loops import factory
from .process import answer_on_loop

_ANSWER: Final = b"HTTP/1.1 204 No Content\r\n\r\n"
_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"\r\ncontent-length:"


@dataclass
class _Seen:
    count: int = 0
    last: bytes = field(default=b"")


class _Sink(asyncio.Protocol):
    def __init__(self, seen: _Seen) -> None:
        self._seen = seen
        self._partial = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        if self._partial:
            data = self._partial + data
        head_end = data.find(_END)
        if head_end < 0 or len(data) < head_end + len(_END) + _content_length(data[:head_end]):
            self._partial = data
            return
        self._partial = b""
        self._seen.count += 1
        self._seen.last = data
        if self._transport is not None:
            self._transport.write(_ANSWER)


def _content_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(_LENGTH)
    return int(rest.partition(b"\r\n")[0]) if found else 0


def serve(pipe: Connection) -> None:
    """Run the sink until the pipe is closed: send its port, then (count, last request) whenever asked."""
    with asyncio.Runner(loop_factory=factory("fastest")) as runner:
        runner.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    seen = _Seen()
    server = await asyncio.get_running_loop().create_server(partial(_Sink, seen), "127.0.0.1", 0)
    async with server:
        pipe.send(server.sockets[0].getsockname()[1])
        await answer_on_loop(pipe, lambda: (seen.count, seen.last))
