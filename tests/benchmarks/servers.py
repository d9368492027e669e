"""The servers under load, each in a process of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import module_from_spec, spec_from_file_location
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from aiohttp import web

from . import samples
from .loops import HAS_OFFICIAL, HAS_UVLOOP, factory
from .process import SubjectError, answer_on_loop

_EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "event_processing.py"
_MAX_BODY: Final = 4 * 1024 * 1024

Server = Callable[[], AbstractAsyncContextManager[int]]
_Handler = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def _application(handler: _Handler) -> AsyncIterator[int]:
    """An aiohttp application with a router, on a free port."""
    application = web.Application(client_max_size=_MAX_BODY)
    application.router.add_post("/", handler)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def bare() -> AbstractAsyncContextManager[int]:
    """Reads the body and answers 204."""

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=204)

    return _application(handle)


def official() -> AbstractAsyncContextManager[int]:
    """Decodes one event with the official SDK and answers 204."""
    from cloudevents.core.bindings.http import HTTPMessage, from_http_event

    async def handle(request: web.Request) -> web.Response:
        event = from_http_event(HTTPMessage(dict(request.headers), await request.read()))
        return web.Response(status=204 if event.get_type() == samples.EVENT_TYPE else 500)

    return _application(handle)


def official_batch() -> AbstractAsyncContextManager[int]:
    """Decodes a batch as far as the official SDK can, see `official.decode_batch`, and answers 204."""
    from .official import decode_batch

    async def handle(request: web.Request) -> web.Response:
        events = decode_batch(await request.read())
        return web.Response(status=204 if len(events) == samples.BATCH_SIZE else 500)

    return _application(handle)


def official_batch_format() -> AbstractAsyncContextManager[int]:
    """Decodes a batch by handing every member to the official SDK's JSON format and answers 204."""
    from .official import decode_batch_by_format

    async def handle(request: web.Request) -> web.Response:
        events = decode_batch_by_format(await request.read())
        return web.Response(status=204 if len(events) == samples.BATCH_SIZE else 500)

    return _application(handle)


@asynccontextmanager
async def kit() -> AsyncIterator[int]:
    """The kit's receiver with a router, all limits at their defaults, and an empty handler."""
    from cloudevents_kit import Event, Receiver, Router

    router = Router()

    @router.on(samples.EVENT_TYPE)
    async def handle(event: Event) -> None:
        """Nothing to do."""

    async with Receiver(router, host="127.0.0.1", port=0) as receiver:
        yield receiver.port


@asynccontextmanager
async def pipeline() -> AsyncIterator[int]:
    """The service of `examples/event_processing.py`, its metrics and pages included."""
    spec = spec_from_file_location("event_processing", _EXAMPLE)
    if spec is None or spec.loader is None:
        raise SubjectError(f"{_EXAMPLE} is not there")
    example = module_from_spec(spec)
    spec.loader.exec_module(example)
    async with example.Service().receiver() as receiver:
        yield receiver.port


# name -> (server, loop, whether its packages are installed)
SERVERS: Final[dict[str, tuple[Server, str, bool]]] = {
    "bare aiohttp": (bare, "asyncio", True),
    "bare aiohttp, uvloop": (bare, "uvloop", HAS_UVLOOP),
    "official SDK": (official, "asyncio", HAS_OFFICIAL),
    "official SDK by hand": (official_batch, "asyncio", HAS_OFFICIAL),
    "official JSONFormat": (official_batch_format, "asyncio", HAS_OFFICIAL),
    "kit": (kit, "asyncio", True),
    "kit, uvloop": (kit, "uvloop", HAS_UVLOOP),
    "pipeline": (pipeline, "asyncio", True),
    "pipeline, uvloop": (pipeline, "uvloop", HAS_UVLOOP),
}


def serve(pipe: Connection, name: str) -> None:
    """Run one server until the pipe is closed: send its port, then its processor time whenever asked."""
    server, loop, _ = SERVERS[name]
    with asyncio.Runner(loop_factory=factory(loop)) as runner:
        runner.run(_serve(pipe, server))


async def _serve(pipe: Connection, server: Server) -> None:
    async with server() as port:
        pipe.send(port)
        await answer_on_loop(pipe, time.process_time)
