"""The receiver as an ASGI application: lifespan, mounting, other protocols, and servers that are not uvicorn.

What it has in common with the aiohttp receiver is tested for both in test_receiver.py and test_handlers*.py.
"""

import asyncio
import gzip
import importlib.util
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from cloudevents_kit import Ack, Event, Nack, RetryPolicy, Sender
from cloudevents_kit.asgi import asgi_app
from tests.support import asgi
from tests.support.asgi import http, pieces
from tests.support.parts import HandlerPart, Part, StagePart
from tests.support.peer import until
from tests.support.programs import serving
from tests.support.raw import RawConnection, exchange, request
from tests.support.servers import (
    HEAD,
    STRUCTURED,
    ask,
    binary,
    event_json,
    ignore,
    port_of,
    problem,
    replying,
    running,
)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# ---------------------------------------------------------------------------------------------------- lifespan


async def test_the_server_opens_and_closes_the_parts() -> None:
    diary: list[str] = []
    app = asgi_app(HandlerPart("handler", diary), StagePart("stage", diary), resources=(Part("pool", diary),), path="/")
    for _ in range(2):
        async with running(app) as server:
            assert diary == ["open pool", "open handler", "open stage"]
            assert (await ask(server.port, request(method="GET", path="/readyz"))).status == 200
            assert (await ask(server.port, binary())).status == 204
        assert diary[3:] == ["stage in", "handler runs", "stage out", "close stage", "close handler", "close pool"]
        diary.clear()


async def test_a_part_that_does_not_open_is_told_to_the_server_and_those_before_it_are_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """K-O6."""
    diary: list[str] = []
    app = asgi_app(ignore, resources=(Part("a", diary), Part("b", diary, opening=ValueError("no b"))))
    (failed,) = await asgi.exchange(app, {"type": "lifespan"}, [{"type": "lifespan.startup"}])
    assert failed["type"] == "lifespan.startup.failed"
    assert failed["message"] == "a part of the receiver did not start (1 sub-exception)"
    assert diary == ["open a", "close a"]
    assert errors(caplog) == ["the receiver did not start"]
    assert "ValueError: no b" in caplog.text


async def test_parts_that_do_not_close_are_told_and_the_others_are_closed(caplog: pytest.LogCaptureFixture) -> None:
    """K-O6."""
    diary: list[str] = []
    parts = (Part("a", diary), Part("b", diary, closing=ValueError("b is stuck")), Part("c", diary))
    async with running(asgi_app(ignore, resources=parts)) as server:
        assert (await ask(server.port, binary())).status == 204
    assert diary[3:] == ["close c", "close b", "close a"]
    assert errors(caplog)[:2] == [
        "the receiver did not stop cleanly",
        "parts of the receiver did not stop cleanly (1 sub-exception)",  # the server's own words
    ]
    assert "ValueError: b is stuck" in caplog.text


class Slow(Part):
    """A part that opens when it is let."""

    def __init__(self, diary: list[str]) -> None:
        super().__init__("slow", diary)
        self.waiting = 0
        self.leave = asyncio.Event()

    async def __aenter__(self) -> None:
        self.waiting += 1
        await self.leave.wait()
        await super().__aenter__()


async def test_without_lifespan_the_first_request_opens_the_parts_and_the_others_wait_for_it() -> None:
    diary: list[str] = []
    slow = Slow(diary)
    async with running(asgi_app(ignore, resources=(slow,), path="/"), lifespan="off") as server:
        asking = [asyncio.ensure_future(ask(server.port, binary())) for _ in range(3)]
        await until(lambda: slow.waiting == 1)
        await asyncio.wait(asking, timeout=0.02)
        slow.leave.set()
        assert [answer.status for answer in await asyncio.gather(*asking)] == [204] * 3
    assert (slow.waiting, diary) == (1, ["open slow"])


async def test_without_lifespan_parts_that_do_not_open_are_tried_again_by_the_next_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    diary: list[str] = []
    part = Part("a", diary, opening=ValueError("not yet"))
    async with running(asgi_app(ignore, resources=(part,)), lifespan="off") as server:
        assert (await ask(server.port, binary())).status == 500
        assert "not yet" in caplog.text
        part.opening = None
        assert (await ask(server.port, binary())).status == 204
    assert diary == ["open a"]


async def test_a_parent_opens_and_closes_the_parts_by_async_with() -> None:
    diary: list[str] = []
    app = asgi_app(ignore, resources=(Part("a", diary), Part("b", diary)))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with app:
            yield

    parent = FastAPI(lifespan=lifespan)
    parent.mount("/events", app)
    async with running(parent) as server:
        assert diary == ["open a", "open b"]
        assert (await ask(server.port, request(*HEAD, path="/events/"))).status == 204
    assert diary == ["open a", "open b", "close b", "close a"]


async def test_parts_that_are_open_are_not_opened_again() -> None:
    diary: list[str] = []
    async with asgi_app(ignore, resources=(Part("a", diary),)) as app:
        assert await app.__aenter__() is app
    assert diary == ["open a", "close a"]


# ---------------------------------------------------------------------------------------------------- mounting


async def test_without_a_path_every_path_below_a_mount_takes_events() -> None:
    diary: list[str] = []
    app = FastAPI()
    app.mount("/events", asgi_app(replying, StagePart("stage", diary)))
    async with running(app) as server:
        for path, status in (
            ("/events/", 200),
            ("/events/more", 200),
            ("/events/healthz", 200),
            ("/events", 307),  # the framework's; a sender follows no redirect
            ("/", 404),
        ):
            assert (await ask(server.port, request(*HEAD, path=path))).status == status, path
        async with Sender(f"http://127.0.0.1:{server.port}/events/") as sender:
            result = await sender.request(Event(type="t", source="/s", id="7"))
            assert isinstance(result, Ack)
            assert result.reply is not None
            assert result.reply.data == {"to": "7"}
        async with Sender(f"http://127.0.0.1:{server.port}/events", retry=RetryPolicy.none()) as sender:
            lost = await sender.send(Event(type="t", source="/s"))
            assert isinstance(lost, Nack)
            assert lost.status == 307
    assert diary.count("open stage") == 1


async def test_a_path_is_below_the_mount_and_so_are_the_probes() -> None:
    """The server's path includes the prefix, which ASGI calls root_path."""
    app = Starlette(routes=[Mount("/shop", asgi_app(ignore, path="/events")), Mount("/", asgi_app(ignore, path="/"))])
    async with running(app) as server:
        for path, method, status in (
            ("/shop/events", "POST", 204),
            ("/shop/readyz", "GET", 200),
            ("/shop/healthz", "HEAD", 200),
            ("/shop/", "POST", 404),
            ("/shop/shop/events", "POST", 404),
            ("/events", "POST", 404),
            ("/", "POST", 204),
            ("/readyz", "GET", 200),
        ):
            answer = await ask(server.port, request(*HEAD, path=path, method=method))
            assert answer.status == status, path


@pytest.mark.parametrize(
    ("root_path", "path", "status"),
    [
        ("", "/in", 204),
        ("/api", "/api/in", 204),
        ("/api/", "/api/in", 204),
        ("/api", "/in", 204),  # servers and proxies that have cut the prefix off already
        ("/api", "/apin", 404),
        ("/api", "/api", 404),
        ("/in", "/in", 204),
    ],
)
async def test_a_prefix_that_a_proxy_has_put_before_the_path_is_no_part_of_it(
    root_path: str, path: str, status: int
) -> None:
    answer = await asgi.ask(asgi_app(ignore, path="/in"), http(path=path, root_path=root_path))
    assert answer.status == status


async def test_a_server_need_not_know_of_root_path() -> None:
    scope = http(path="/in")
    del scope["root_path"]
    assert (await asgi.ask(asgi_app(ignore, path="/in"), scope)).status == 204


async def test_head_has_no_body_and_the_headers_of_the_refusal() -> None:
    async with running(asgi_app(ignore, path="/")) as server, aiohttp.ClientSession() as session:
        for path, status, allowed in (("/", 405, "POST"), ("/healthz", 200, None), ("/more", 404, None)):
            async with session.head(f"http://127.0.0.1:{server.port}{path}") as answer:
                assert (answer.status, answer.headers.get("Allow")) == (status, allowed)
                assert await answer.read() == b""


# ----------------------------------------------------------------------------------------------------- messages


async def test_a_body_in_pieces_empty_and_without_members_is_put_together() -> None:
    seen: list[bytes | None] = []

    async def handler(event: Event) -> None:
        seen.append(event.raw)

    app = asgi_app(handler)
    assert (await asgi.ask(app, messages=pieces(b"", b"one ", b"", b"two", b""))).status == 204
    assert (await asgi.ask(app, messages=[{"type": "http.request"}])).status == 204
    assert seen == [b"one two", None]


async def test_a_client_that_disconnects_in_the_middle_of_a_body_gets_no_answer_and_nothing_is_handled() -> None:
    seen: list[Event] = []
    app = asgi_app(seen.append, max_in_flight=1)
    gone: list[asgi.Message] = [{"type": "http.request", "body": b"12", "more_body": True}, {"type": "http.disconnect"}]
    for messages in (gone, gone[1:]):
        assert await asgi.exchange(app, http(), messages) == []
    assert not seen
    assert (await asgi.ask(app)).status == 204


async def test_a_length_that_is_announced_is_judged_before_anything_is_read() -> None:
    app = asgi_app(ignore, max_body=1000)
    for length, status in ((b"1001", 413), (b"9" * 50, 413), (b"1000", 204), (b"many", 204), (b"", 204)):
        headers = [*asgi.HEAD, (b"content-length", length)]
        answer = await asgi.ask(app, http(headers=headers), [] if status == 413 else None)
        assert answer.status == status, length


async def test_only_http_1_is_told_to_close_the_connection() -> None:
    """RFC 9113, 8.2.2: a field that later versions forbid."""
    app = asgi_app(ignore, max_body=10)
    for version, wanted in (("1.0", "close"), ("1.1", "close"), ("2", None), ("3", None)):
        answer = await asgi.ask(app, http(http_version=version), pieces(b"x" * 11))
        assert (answer.status, answer.header("connection")) == (413, wanted)
    scope = http()
    del scope["http_version"]
    assert (await asgi.ask(app, scope, pieces(b"x" * 11))).header("connection") == "close"


async def test_a_websocket_is_refused_before_it_opens() -> None:
    """Whoever asks for one cannot fill the log with tracebacks."""
    sent = await asgi.exchange(asgi_app(ignore), {"type": "websocket", "path": "/"}, [{"type": "websocket.connect"}])
    assert sent == [{"type": "websocket.close"}]


async def test_other_protocols_are_an_error_of_the_server() -> None:
    with pytest.raises(ValueError, match="this application serves http, not smtp"):
        await asgi.exchange(asgi_app(ignore), {"type": "smtp"}, [])


# ------------------------------------------------------------------------------------------------------ granian

GRANIAN = """
import asyncio
from cloudevents_kit import Event
from cloudevents_kit.asgi import asgi_app


class Pool:
    async def __aenter__(self) -> None:
        print("pool opened", flush=True)

    async def __aexit__(self, *_: object) -> None:
        print("pool closed", flush=True)


async def handle(event: Event) -> Event | None:
    if event.subject == "wait":
        await asyncio.sleep(0.2)
        print("waited", flush=True)
        return None
    return event.reply(type="com.example.answered", source="/answerer", id="2", data=event.data)


app = asgi_app(handle, path="/in", max_body=1000, resources=(Pool(),))
"""


@pytest.mark.skipif(importlib.util.find_spec("granian") is None, reason="granian is not installed")
async def test_granian_serves_it_too(tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(GRANIAN)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ("--interface", "asgi", "--host", "127.0.0.1", "--port", str(port), "--working-dir", str(tmp_path))
    async with serving("-m", "granian", *options, "served:app", strict=False) as server:
        assert port_of(server.url) == port
        async with Sender(f"{server.url}/in", gzip_over=100) as sender:
            for mode, data in (("binary", {"n": 1}), ("structured", {"n": 1}), ("binary", "x" * 900)):
                result = await sender.request(Event(type="t", source="/s", data=data), mode=mode)  # type: ignore[arg-type]
                assert isinstance(result, Ack)
                assert result.reply is not None
                assert result.reply.data == data
        zipped = request(*HEAD, "Content-Encoding: gzip", path="/in", body=gzip.compress(bytes(1001)))
        chunked = request(*HEAD, "Transfer-Encoding: chunked", path="/in", length=False, body=b"2\r\n{}\r\n0\r\n\r\n")
        long = request(*HEAD, "Transfer-Encoding: chunked", path="/in", length=False) + b"3e9\r\n" + b"x" * 1001
        for data_, status in (
            (chunked, 200),
            (long + b"\r\n0\r\n\r\n", 413),
            (zipped, 413),
            (request(*HEAD, path="/in", body="x" * 1001), 413),
            (request(*HEAD, path="/elsewhere"), 404),
            (request(*HEAD, path="/in", method="GET"), 405),
            (request(STRUCTURED, path="/in", body="{"), 400),
            (request(method="GET", path="/readyz"), 200),
        ):
            answer = await ask(port, data_)
            assert answer.status == status
            assert status == 200 or problem(answer)
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(f"{server.url}/in")
            assert refused.value.status == 403
        async with RawConnection(port) as connection:
            await connection.send(request(STRUCTURED, path="/in", body=json.dumps(event_json(subject="wait"))))
            assert await exchange(port, request(method="GET", path="/healthz"))
            stopping = asyncio.ensure_future(server.stop())
            last = await connection.answer()
            assert last is not None
            assert last.status == 204
        await stopping
    lines = server.printed.splitlines()
    assert [line for line in lines if line in {"pool opened", "waited", "pool closed"}] == [
        "pool opened",
        "waited",
        "pool closed",
    ]
    assert "Traceback" not in server.printed
