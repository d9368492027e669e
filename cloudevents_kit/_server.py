"""Between aiohttp's server and `Inbound`: read a body within its limits, write an answer with as little as it takes.

Own servers answer an acknowledged event with bytes that are built once a second; mounted applications use aiohttp's
ordinary responses, because their middlewares and access logs expect them.
"""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from functools import partial
from typing import Any, cast

from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.hdrs import CONTENT_ENCODING, CONTENT_TYPE, EXPECT

from cloudevents_kit import _answer
from cloudevents_kit._answer import Answer
from cloudevents_kit._contract import log
from cloudevents_kit._endpoints import PROBES
from cloudevents_kit._inbound import Inbound

_CONTINUE = "100-continue"
_UNEXPECTED = _answer.problem(417, f"only {_CONTINUE} can be expected", close=True)
_UNFINISHED = _answer.problem(400, "the body ended early", close=True)
_CODED = _answer.problem(
    415, "mounted, this receiver takes no Content-Encoding", headers={"Accept-Encoding": "identity"}
)


class _NoContent(web.StreamResponse):
    """The answer to an acknowledged event on a connection that stays open; one object serves every request."""

    def __init__(self) -> None:
        super().__init__(status=204)
        self._keep_alive = True
        self._second = 0
        self._head = b""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the peer is gone")
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._head = f"HTTP/1.1 204 No Content\r\nDate: {formatdate(second, usegmt=True)}\r\n\r\n".encode()
        transport.write(self._head)
        if request.protocol.writing_paused:
            await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        pass


class _Connection(web.RequestHandler):
    """Answers what is not even HTTP in one line, where aiohttp would quote the request in answer and log.

    After an answer that left a part of the body unread, aiohttp goes on reading, so that the peer gets to see the
    answer; that ends here with the connection, where aiohttp would wait on.
    """

    __slots__ = ("unread",)
    unread: StreamReader | None

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self.unread = None

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._forget()

    def close(self) -> None:
        super().close()
        self._forget()

    def _forget(self) -> None:
        if self.unread is not None:
            self.unread.feed_eof()
            self.unread = None

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - what is wrong with it is known
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - quotes the request
    ) -> web.StreamResponse:
        if status == 500:
            log.error("answering failed", exc_info=exc)
            return _response(_answer.problem(500, "the receiver failed", close=True))
        log.warning("request refused: not valid HTTP, or its head is too large")
        return _response(_answer.problem(status, "the request is not valid HTTP, or its head is too large", close=True))


class EventServer(web.Server):
    """An aiohttp server of `_Connection`."""

    def __init__(self, handler: Any, **options: Any) -> None:
        """See `aiohttp.web.Server`."""
        super().__init__(handler, **options)
        self._options = options

    def __call__(self) -> web.RequestHandler:
        """Make the protocol of a new connection."""
        return _Connection(self, loop=asyncio.get_running_loop(), **self._options)


class AioHttpAdapter:
    """Serves one `Inbound` at ``path``."""

    def __init__(self, inbound: Inbound, path: str) -> None:
        """Answer not ready until the receiver says otherwise."""
        self.ready = False
        self._inbound = inbound
        self._path = path
        self._no_content = _NoContent()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request of an own server."""
        if request.raw_path != self._path:
            other = await self._elsewhere(request)
            if other is not None:
                return _respond(request, other)
        if EXPECT in request.headers and request.headers[EXPECT].lower() != _CONTINUE:
            return _respond(request, _UNEXPECTED)
        answer = await self._handle(request)
        stays_open = request.keep_alive and request.version == HttpVersion11 and not self._inbound.stopping
        if answer is _answer.NO_CONTENT and stays_open:
            return self._no_content
        response = _respond(request, answer)
        if self._inbound.stopping:
            response.force_close()
        return response

    async def _elsewhere(self, request: web.BaseRequest) -> Answer | None:
        """Answer a request whose target is not exactly the path; None if only its query makes the difference."""
        path = request.path
        if path == self._path:
            return None
        query = request.rel_url.raw_query_string
        probe = await self._inbound.probe(request.method, path, ready=self.ready, query=query)
        return probe or _answer.problem(404, f"events are received at {self._path}")

    async def _handle(self, request: web.BaseRequest) -> Answer:
        inbound = self._inbound
        refused = inbound.admit(request.method)
        if refused is not None:
            return refused
        try:
            content = request.content
            if content.is_eof() and content.exception() is None:
                body = content.read_nowait(-1)
            else:
                found = await self._read(request)
                if not isinstance(found, bytes):
                    return found
                body = found
            types = request.headers.getall(CONTENT_TYPE, ())
            known = types[0] if len(types) == 1 and CONTENT_ENCODING not in request.headers else None
            return await inbound.answer(request.raw_headers, body, known)
        finally:
            inbound.leave()

    async def _read(self, request: web.BaseRequest) -> bytes | Answer:
        """Collect a body that is still arriving, or say why not."""
        announced = request.content_length or 0
        waits = EXPECT in request.headers and not isinstance(request, web.Request)  # a mounted application has done it
        if waits and announced <= self._inbound.limits.max_body:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # the answer itself has not begun
        try:
            return await self._inbound.collect(announced, request.content.readany)
        except (web.RequestPayloadError, OSError):
            request.content.feed_eof()  # else aiohttp looks for the rest, and logs the same error again
            return _UNFINISHED

    def application(self) -> web.Application:
        """Return an application that serves the path and the probes."""
        app = web.Application()
        app.router.add_route("*", self._path, self._handle_mounted)
        for path in (*PROBES, *self._inbound.endpoints):
            app.router.add_route("*", path, partial(self._probe_mounted, path))
        app.cleanup_ctx.append(self._lifetime)
        app.on_shutdown.append(self._drain)
        return app

    async def _drain(self, _: web.Application) -> None:
        """Let nothing wait for more events while the server waits for its last answers."""
        self._inbound.lifecycle.drain()

    async def _lifetime(self, _: web.Application) -> Any:
        if self.ready:
            raise RuntimeError("the receiver is started already")
        await self._inbound.lifecycle.open()
        self._inbound.reopen()
        self.ready = True
        yield
        self.ready = False
        self._inbound.close()
        await self._inbound.lifecycle.close()

    async def _handle_mounted(self, request: web.Request) -> web.StreamResponse:
        # aiohttp has undone it already, and does not tell when a compressed body was cut short.
        coded = request.headers.get(CONTENT_ENCODING, "identity").lower() != "identity"
        return _response(_CODED if coded else await self._handle(request))

    async def _probe_mounted(self, path: str, request: web.Request) -> web.StreamResponse:
        query = request.rel_url.raw_query_string
        answer = await self._inbound.probe(request.method, path, ready=self.ready, query=query)
        return _response(answer or _answer.problem(404, "not found"))


def _respond(request: web.BaseRequest, answer: Answer) -> web.Response:
    if not request.content.is_eof():
        cast("_Connection", request.protocol).unread = request.content
    return _response(answer)


def _response(answer: Answer) -> web.Response:
    response = web.Response(status=answer.status, headers=answer.headers, body=answer.body or None)
    if answer.close:
        response.force_close()
    return response
