"""The receiver as an ASGI application, for FastAPI, Starlette, uvicorn, hypercorn and granian.

    app = asgi_app(router)                       # serve it:  uvicorn module:app
    fastapi_app.mount("/events", asgi_app(router))

Needs no ASGI package. Stages and resources are opened by the lifespan protocol; mounted below another application,
which does not pass lifespan on, they are opened by the first request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from cloudevents_kit import _answer
from cloudevents_kit._answer import Answer
from cloudevents_kit._contract import Handler, Middleware, SyncHandler, log
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
    max_in_flight: int = 1000,
    body_timeout: float = 10.0,
    handler_timeout: float = 30.0,
    resources: tuple[object, ...] = (),
) -> AsgiReceiver:
    """Return an ASGI application that serves ``handler``; see `Receiver` for the arguments.

    With ``path``, other paths are answered 404 and ``/healthz`` and ``/readyz`` are served; without, every path is
    taken, for mounting.
    """
    limits = Limits(
        max_body=max_body,
        max_batch=max_batch,
        max_in_flight=max_in_flight,
        body_timeout=body_timeout,
        handler_timeout=handler_timeout,
    )
    return AsgiReceiver(Inbound(handler, stages, limits, resources), path)


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
        else:
            raise ValueError(f"this application serves http, not {scope['type']}")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._open()
        except Exception as error:  # noqa: BLE001 - told to the server, which ends
            log.error("the receiver did not start", exc_info=error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._inbound.close()
        self._opened = False
        try:
            await self._inbound.lifecycle.close()
        except Exception as error:  # noqa: BLE001 - told to the server, which ends
            log.error("the receiver did not stop cleanly", exc_info=error)
            await send({"type": "lifespan.shutdown.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})

    async def _open(self) -> None:
        self._opening = self._opening or asyncio.Lock()
        async with self._opening:
            if not self._opened:
                await self._inbound.lifecycle.open()
                self._opened = True

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._opened:
            await self._open()
        answer = self._elsewhere(scope) or await self._answer(scope, receive)
        if answer is None:
            return  # the peer is gone, nobody would read the answer
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
        if answer.body or answer.status not in {204, 304}:
            headers.append((b"content-length", str(len(answer.body)).encode("ascii")))
        if answer.close:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    def _elsewhere(self, scope: Scope) -> Answer | None:
        if self._path is None or scope["path"] == self._path:
            return None
        probe = self._inbound.probe(scope["method"], scope["path"], ready=self._opened)
        return probe or _answer.problem(404, f"events are received at {self._path}")

    async def _answer(self, scope: Scope, receive: Receive) -> Answer | None:
        refused = self._inbound.admit(scope["method"])
        if refused is not None:
            return refused
        try:
            found = await self._read(scope, receive)
            if not isinstance(found, bytes):
                return found
            return await self._inbound.answer(list(scope["headers"]), found, self._inbound.inflate)
        finally:
            self._inbound.leave()

    async def _read(self, scope: Scope, receive: Receive) -> bytes | Answer | None:
        """Collect the body, or say why not; None if the peer went away."""
        limit = self._inbound.limits.max_body
        too_large = _answer.problem(413, f"the body is larger than {limit} bytes", close=True)
        if _content_length(scope) > limit:
            return too_large
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._inbound.limits.body_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    chunks.append(message.get("body", b""))
                    size += len(chunks[-1])
                    if size > limit:
                        return too_large
                    if not message.get("more_body", False):
                        return b"".join(chunks)
        except TimeoutError:
            return _answer.problem(408, "the body did not arrive in time", close=True)


def _content_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:20])
    return 0
