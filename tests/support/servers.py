"""Both receivers on real sockets: our own aiohttp server, and the ASGI application under uvicorn in the same loop."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Literal, NoReturn
from urllib.parse import urlsplit

import trustme
import uvicorn

from cloudevents_kit import Event, Handler, Middleware, Receiver
from cloudevents_kit._contract import SyncHandler
from cloudevents_kit.asgi import asgi_app
from tests.support.raw import Line, RawAnswer, exchange, request

Kind = Literal["aiohttp", "asgi"]
KINDS: tuple[Kind, ...] = ("aiohttp", "asgi")

#: Sent where it must not come back from.
SECRET = "/etc/secret-7f3a"

#: A binary event without data.
HEAD: tuple[str, ...] = ("ce-specversion: 1.0", "ce-id: 1", "ce-source: /tests", "ce-type: com.example.tested")
STRUCTURED = "Content-Type: application/cloudevents+json"
BATCH = "Content-Type: application/cloudevents-batch+json"


def event_json(**members: Any) -> dict[str, Any]:
    """Return an event as a structured body has it."""
    return {"specversion": "1.0", "id": "1", "source": "/tests", "type": "com.example.tested", **members}


def structured(**members: Any) -> bytes:
    """Write a request with one structured event."""
    return request(STRUCTURED, body=json.dumps(event_json(**members)))


def batch(*events: dict[str, Any]) -> bytes:
    """Write a request with a batch; ids count from 0 unless given."""
    members = [event_json(**{"id": str(index), **event}) for index, event in enumerate(events)]
    return request(BATCH, body=json.dumps(members))


def binary(*lines: Line, body: Line = b"") -> bytes:
    """Write a request with one binary event."""
    return request(*HEAD, *lines, body=body)


class Uvicorn(uvicorn.Server):
    """A uvicorn server that tells when it is up, stops when told to, and leaves the signals alone."""

    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__(uvicorn.Config(app, port=0, log_config=None, access_log=False, ws="none", **options))
        self.up = asyncio.Event()
        self.leave = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: Any = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.up.set()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.leave.wait()

    @property
    def port(self) -> int:
        """The port listened on."""
        return int(self.servers[0].sockets[0].getsockname()[1])


@asynccontextmanager
async def running(app: Any, *, lifespan: Literal["auto", "on", "off"] = "on") -> AsyncIterator[Uvicorn]:
    """Serve any ASGI application."""
    server = Uvicorn(app, lifespan=lifespan)
    serving = asyncio.ensure_future(server.serve())
    try:
        await asyncio.wait({asyncio.ensure_future(server.up.wait()), serving}, return_when=asyncio.FIRST_COMPLETED)
        server.up.set()
        yield server
    finally:
        server.leave.set()
        await serving


@asynccontextmanager
async def served(
    kind: Kind, handler: Handler | SyncHandler, *stages: Middleware, path: str = "/", **options: Any
) -> AsyncIterator[int]:
    """Serve ``handler`` by the receiver of this kind; yield the port."""
    if kind == "aiohttp":
        async with Receiver(handler, *stages, port=0, path=path, **options) as receiver:
            yield receiver.port
    else:
        async with running(asgi_app(handler, *stages, path=path, **options)) as server:
            yield server.port


Served = Callable[..., AbstractAsyncContextManager[int]]


async def ask(port: int, data: bytes) -> RawAnswer:
    """Send one request over a connection of its own; there must be an answer."""
    answer = await exchange(port, data)
    assert answer is not None, "the connection ended without an answer"
    return answer


async def outcome(kind: Kind, handler: Handler | SyncHandler, data: bytes | None = None, **options: Any) -> RawAnswer:
    """Answer one request, by default one binary event, and stop serving."""
    async with served(kind, handler, **options) as port:
        return await ask(port, binary() if data is None else data)


def problem(answer: RawAnswer) -> dict[str, Any]:
    """Return the problem that an answer describes, having checked its form."""
    assert answer.header("content-type") == "application/problem+json"
    found: dict[str, Any] = json.loads(answer.body)
    assert found["status"] == answer.status
    assert isinstance(found["title"], str)
    assert found["title"]
    assert found["detail"].isprintable()
    assert len(answer.body) < 2000
    return found


def assert_no_secret(answer: RawAnswer) -> None:
    """Check that a problem repeats nothing of what was sent."""
    problem(answer)
    assert b"secret" not in answer.text


async def ignore(event: Event) -> None:
    """Handle an event by doing nothing."""


async def replying(event: Event) -> Event:
    """Answer with an event that tells which one it answers."""
    return event.reply(type="com.example.answered", source="/answerer", data={"to": event.id}, id="2", time=None)


def raising(error: BaseException) -> Any:
    """Return a handler that raises ``error``."""

    async def handler(event: Event) -> NoReturn:
        raise error

    return handler


def returning(end: Any) -> Any:
    """Return a handler that returns ``end``."""

    async def handler(event: Event) -> Any:
        return end

    return handler


def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a context for a server at 127.0.0.1, and one for its clients."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


def port_of(url: str) -> int:
    """Return the port in ``url``."""
    port = urlsplit(url).port
    assert port is not None
    return port
