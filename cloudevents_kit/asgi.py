"""The receiver as an ASGI application, for FastAPI, Starlette, uvicorn, hypercorn and granian.

    app = asgi_app(router)                       # serve it:  uvicorn module:app
    fastapi_app.mount("/events", asgi_app(router))

Needs no ASGI package. Stages and resources are opened by the lifespan protocol. A parent application does not pass
that on: let its own lifespan do ``async with app``, or they are opened by the first request, and never closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Self

from cloudevents_kit import _answer
from cloudevents_kit._answer import Answer
from cloudevents_kit._arguments import check_path
from cloudevents_kit._contract import Handler, Middleware, SyncHandler, log
from cloudevents_kit._endpoints import Endpoints, check_endpoints
from cloudevents_kit._inbound import Inbound, Limits

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def asgi_app(
    handler: Handler | SyncHandler,
    *stages: Middleware,
    path: str | None = None,
    max_body: int = 4 * 2**20,
    max_batch: int = 1000,
    batch_concurrency: int = 1,
    max_in_flight: int = 1000,
    body_timeout: float = 10.0,
    handler_timeout: float = 30.0,
    resources: Sequence[AbstractAsyncContextManager[Any]] = (),
    endpoints: Endpoints | None = None,
) -> AsgiReceiver:
    """Return an ASGI application that serves ``handler``; see `Receiver` for the arguments.

    With ``path``, other paths are answered 404 and ``/healthz``, ``/readyz`` and ``endpoints`` are served; without,
    every path is taken, for mounting.
    """
    if path is not None:
        check_path(path)
    limits = Limits(
        max_body=max_body,
        max_batch=max_batch,
        batch_concurrency=batch_concurrency,
        max_in_flight=max_in_flight,
        body_timeout=body_timeout,
        handler_timeout=handler_timeout,
    )
    return AsgiReceiver(Inbound(handler, stages, limits, resources, check_endpoints(endpoints, path)), path)


class AsgiReceiver:
    """An ASGI 3 application around one `Inbound`."""

    def __init__(self, inbound: Inbound, path: str | None) -> None:
        """Use `asgi_app`."""
        self._inbound = inbound
        self._path = path
        self._opening: asyncio.Lock | None = None
        self._opened = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # before it was accepted: the server answers 403
        else:
            raise ValueError(f"this application serves http, not {scope['type']}")

    async def __aenter__(self) -> Self:
        """Open stages and resources: for the lifespan of a parent application."""
        self._opening = self._opening or asyncio.Lock()
        async with self._opening:
            if not self._opened:
                await self._inbound.lifecycle.open()
                self._opened = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close them in reverse."""
        self._opened = False
        self._inbound.close()
        await self._inbound.lifecycle.close()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.__aenter__()
        except Exception as error:  # noqa: BLE001 - told to the server, which ends
            log.error("the receiver did not start", exc_info=error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await self.__aexit__()
        except Exception as error:  # noqa: BLE001 - told to the server, which ends
            log.error("the receiver did not stop cleanly", exc_info=error)
            await send({"type": "lifespan.shutdown.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._opened:
            await self.__aenter__()
        if self._path is None or (path := _path(scope)) == self._path:
            answer = await self._answer(scope, receive)
        else:
            answer = await self._elsewhere(scope, path)
        if answer is None:
            return  # the peer is gone, nobody would read the answer
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
        if answer.body or not (answer.status in {204, 304} or scope["method"] == "HEAD"):
            headers.append((b"content-length", str(len(answer.body)).encode("ascii")))
        if answer.close and scope.get("http_version", "1.1").startswith("1"):  # later versions have no such header
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _elsewhere(self, scope: Scope, path: str) -> Answer:
        query = scope.get("query_string", b"").decode("latin-1")
        probe = await self._inbound.probe(scope["method"], path, ready=self._opened, query=query)
        return probe or _answer.problem(404, f"events are received at {self._path}")

    async def _answer(self, scope: Scope, receive: Receive) -> Answer | None:
        refused = self._inbound.admit(scope["method"])
        if refused is not None:
            return refused
        try:
            body = await self._inbound.collect(_content_length(scope), _Body(receive).read)
            if not isinstance(body, bytes):
                return body
            return await self._inbound.answer(list(scope["headers"]), body)
        except _Gone:
            return None
        finally:
            self._inbound.leave()


class _Gone(Exception):
    """The peer has left."""


class _Body:
    """The body of a request, read as it arrives."""

    __slots__ = ("_more", "_receive")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._more = True

    async def read(self) -> bytes:
        """Return what has arrived next, nothing at the end."""
        while self._more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            self._more = message.get("more_body", False)
            if chunk := message.get("body", b""):
                return bytes(chunk)
        return b""


def _path(scope: Scope) -> str:
    """Return the path below the prefix at which a parent or a proxy has mounted this application."""
    path: str = scope["path"]
    below = path.removeprefix(scope.get("root_path", "").rstrip("/"))
    return below if below.startswith("/") else path


def _content_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:20])
    return 0
