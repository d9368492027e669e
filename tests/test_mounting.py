"""`Receiver.app` in an aiohttp application: below a prefix or at the root, opened, drained and closed by that one."""

import asyncio
import gzip
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from cloudevents_kit import Ack, Event, Receiver, Sender, stages
from tests.support.parts import Gate, HandlerPart, Part, StagePart
from tests.support.raw import RawAnswer, RawConnection, request
from tests.support.servers import HEAD, ask, binary, ignore, problem, replying


@asynccontextmanager
async def running(app: web.Application, **options: Any) -> AsyncIterator[int]:
    """Serve an application; yield the port."""
    runner = web.AppRunner(app, **options)
    try:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def below(prefix: str, receiver: Receiver) -> web.Application:
    """Return an application with a route of its own and ``receiver`` below a prefix."""

    async def home(_: web.Request) -> web.Response:
        return web.Response(text="home")

    outer = web.Application()
    outer.router.add_get("/", home)
    outer.add_subapp(prefix, receiver.app)
    return outer


async def at(port: int, path: str, method: str = "POST", *lines: str, body: bytes = b"") -> RawAnswer:
    return await ask(port, request(*HEAD, *lines, method=method, path=path, body=body))


# ------------------------------------------------------------------------------------------------------- paths


async def test_events_and_probes_are_below_the_prefix_beside_the_routes_of_the_application() -> None:
    async with running(below("/shop", Receiver(ignore, path="/events"))) as port:
        for path, method, status in (
            ("/shop/events", "POST", 204),
            ("/shop/events?token=1", "POST", 204),
            ("/shop/healthz", "GET", 200),
            ("/shop/readyz", "HEAD", 200),
            ("/", "GET", 200),
            ("/shop/events/", "POST", 404),
            ("/shop/", "POST", 404),
            ("/events", "POST", 404),
            ("/healthz", "GET", 404),
        ):
            assert (await at(port, path, method)).status == status, path


async def test_without_a_path_events_come_to_the_prefix_with_its_slash() -> None:
    """As in FastAPI and Starlette."""
    async with running(below("/events", Receiver(ignore))) as port:
        assert (await at(port, "/events/")).status == 204
        assert (await at(port, "/events")).status == 404


async def test_the_application_can_be_served_as_it_is() -> None:
    async with running(Receiver(replying, path="/in").app) as port, Sender(f"http://127.0.0.1:{port}/in") as sender:
        result = await sender.request(Event(type="t", source="/s", id="7"))
        assert isinstance(result, Ack)
        assert result.reply is not None
        assert result.reply.data == {"to": "7"}
        assert (await at(port, "/readyz", "GET")).body == b"ok\n"


async def test_other_methods_are_405() -> None:
    async with running(below("/shop", Receiver(ignore, path="/events"))) as port:
        for method in ("GET", "OPTIONS", "PUT"):
            answer = await at(port, "/shop/events", method)
            assert (answer.status, answer.header("allow")) == (405, "POST")
        answer = await at(port, "/shop/readyz", "POST")
        assert (answer.status, answer.header("allow")) == (405, "GET, HEAD")


# ------------------------------------------------------------------------------------------------------ bodies


async def test_bodies_have_the_limits_of_the_receiver_not_those_of_the_application() -> None:
    seen: list[int] = []

    async def handler(event: Event) -> None:
        seen.append(len(event.raw or b""))

    app = web.Application(client_max_size=10)
    app.add_subapp("/in", Receiver(handler, max_body=3_000_000, body_timeout=0.1).app)
    async with running(app, lingering_time=0) as port:
        large = b"x" * 3_000_000
        assert (await at(port, "/in/", body=large)).status == 204
        answer = await at(port, "/in/", body=large + b"x")
        assert (answer.status, problem(answer)["detail"]) == (413, "the body is larger than 3000000 bytes")
        assert answer.header("connection") == "close"
        async with RawConnection(port) as connection:
            await connection.send(request(*HEAD, path="/in/", body=b"12345")[:-3])
            late = await connection.answer()
            assert late is not None
            assert (late.status, late.header("connection")) == (408, "close")
    assert seen == [3_000_000]


async def never(event: Event) -> None:
    pytest.fail("the handler was called")


@pytest.mark.parametrize("kept", [None, 5])
async def test_compressed_bodies_are_refused(kept: int | None, caplog: pytest.LogCaptureFixture) -> None:
    """The application's server inflates them unasked, and does not tell when one was cut short."""
    body = gzip.compress(b"hello" * 100)[:kept]
    async with running(Receiver(never, max_body=100_000).app) as port:
        answer = await at(port, "/", "POST", "Content-Encoding: gzip", body=body)
        assert (answer.status, answer.header("accept-encoding")) == (415, "identity")
        assert (await at(port, "/", "POST", "Content-Encoding: x-odd", body=b"x")).status == 415
    async with running(Receiver(ignore).app) as port:
        assert (await at(port, "/", "POST", "Content-Encoding: identity", body=b"x")).status == 204
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_peer_that_waits_for_100_continue_gets_it_once() -> None:
    async with running(Receiver(ignore).app) as port, RawConnection(port) as connection:
        data = binary("Expect: 100-continue", body="12345")
        await connection.send(data[:-5])
        first = await connection.answer()
        assert first is not None
        assert first.text == b"HTTP/1.1 100 Continue\r\n\r\n"
        await connection.send(data[-5:] + binary())
        for _ in range(2):
            answer = await connection.answer()
            assert answer is not None
            assert answer.status == 204


async def test_the_access_log_and_the_middlewares_of_the_application_see_the_requests(
    caplog: pytest.LogCaptureFixture,
) -> None:
    statuses: list[int] = []

    @web.middleware
    async def note(asked: web.Request, handler: Any) -> web.StreamResponse:
        response: web.StreamResponse = await handler(asked)
        response.headers["X-Seen"] = "yes"
        statuses.append(response.status)
        return response

    caplog.set_level(logging.INFO, logger="aiohttp.access")
    middlewares: Any = [note]
    outer = web.Application(middlewares=middlewares)
    outer.add_subapp("/in", Receiver(ignore).app)
    async with running(outer, access_log_format='"%r" %s') as port:
        for status, sent in ((204, binary()), (400, binary("ce-id: 2"))):
            answer = await ask(port, sent.replace(b"POST / ", b"POST /in/ "))
            assert (answer.status, answer.header("x-seen")) == (status, "yes")
    assert statuses == [204, 400]
    said = [record.getMessage() for record in caplog.records if record.name == "aiohttp.access"]
    assert said == ['"POST /in/ HTTP/1.1" 204', '"POST /in/ HTTP/1.1" 400']


# --------------------------------------------------------------------------------------------------- lifecycle


async def test_the_application_opens_and_closes_the_parts() -> None:
    diary: list[str] = []
    receiver = Receiver(
        HandlerPart("handler", diary), StagePart("stage", diary), resources=(Part("pool", diary),), path="/events"
    )
    app = below("/shop", receiver)
    assert not diary
    async with running(app) as port:
        assert diary == ["open pool", "open handler", "open stage"]
        assert receiver.ready
        assert (await at(port, "/shop/events")).status == 204
    assert diary[3:] == ["stage in", "handler runs", "stage out", "close stage", "close handler", "close pool"]
    assert not receiver.ready
    assert receiver.counts == {"ack": 1}


async def test_a_request_in_flight_is_answered_before_the_parts_are_closed() -> None:
    diary: list[str] = []
    gate = Gate()
    runner = web.AppRunner(Receiver(gate, StagePart("stage", diary)).app, shutdown_timeout=5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = int(runner.addresses[0][1])
    asking = asyncio.ensure_future(ask(port, binary()))
    await gate.wait()
    stopping = asyncio.ensure_future(runner.cleanup())
    await asyncio.wait({stopping}, timeout=0.02)
    assert diary == ["open stage", "stage in"]
    gate.leave.set()
    assert (await asking).status == 204
    await stopping
    assert diary == ["open stage", "stage in", "stage out", "close stage"]


async def test_a_part_that_does_not_open_keeps_the_application_from_starting() -> None:
    """K-O6."""
    diary: list[str] = []
    receiver = Receiver(ignore, resources=(Part("a", diary), Part("b", diary, opening=ValueError("no b"))))
    with pytest.raises(ExceptionGroup, match="a part of the receiver did not start") as raised:
        async with running(receiver.app):
            pytest.fail("it started")
    assert [str(error) for error in raised.value.exceptions] == ["no b"]
    assert diary == ["open a", "close a"]
    assert not receiver.ready


async def test_parts_that_do_not_close_are_told_and_the_others_are_closed() -> None:
    """K-O6."""
    diary: list[str] = []
    parts = (Part("a", diary), Part("b", diary, closing=ValueError("b is stuck")), Part("c", diary))
    with pytest.raises(ExceptionGroup, match="parts of the receiver did not stop cleanly") as raised:
        async with running(Receiver(ignore, resources=parts).app):
            assert diary == ["open a", "open b", "open c"]
    assert [str(error) for error in raised.value.exceptions] == ["b is stuck"]
    assert diary[3:] == ["close c", "close b", "close a"]


async def test_several_receivers_in_one_application_have_parts_and_limits_of_their_own() -> None:
    diary: list[str] = []
    outer = web.Application()
    outer.add_subapp("/a", Receiver(HandlerPart("a", diary), max_body=10).app)
    outer.add_subapp("/b", Receiver(HandlerPart("b", diary)).app)
    async with running(outer) as port:
        assert (await at(port, "/a/", body=b"x" * 11)).status == 413
        assert (await at(port, "/b/", body=b"x" * 11)).status == 204
    assert diary[:3] == ["open a", "open b", "b runs"]
    assert sorted(diary[3:]) == ["close a", "close b"]


async def test_a_receiver_runs_once_at_a_time_however_it_is_started() -> None:
    """Its parts would be opened twice and closed under the feet of the other."""
    diary: list[str] = []
    receiver = Receiver(HandlerPart("handler", diary), port=0)
    async with running(receiver.app):
        with pytest.raises(RuntimeError, match="the receiver is started already"):
            async with running(receiver.app):
                pytest.fail("it started")
        with pytest.raises(RuntimeError, match="the receiver is started already"):
            await receiver.start()
        assert receiver.ready
    async with receiver:
        with pytest.raises(RuntimeError, match="the receiver is started already"):
            async with running(receiver.app):
                pytest.fail("it started")
        assert (await ask(receiver.port, binary())).status == 204
    assert diary == ["open handler", "close handler", "open handler", "handler runs", "close handler"]


async def test_a_receiver_that_was_stopped_can_be_mounted_and_the_other_way_round() -> None:
    receiver = Receiver(ignore, port=0)
    for _ in range(2):
        async with receiver:
            assert (await ask(receiver.port, binary())).status == 204
        async with running(receiver.app) as port:
            assert receiver.ready
            assert (await at(port, "/readyz", "GET")).status == 200
            assert (await ask(port, binary())).status == 204
    assert receiver.counts == {"ack": 4}


@pytest.mark.parametrize("mounted", [True, False])
async def test_a_stop_lets_no_event_wait_for_others_that_will_not_come(mounted: bool) -> None:
    """A batch that would be gathered for an hour is done at once."""
    sizes: list[int] = []
    came = asyncio.Event()
    batch = stages.batch(lambda events: sizes.append(len(events)), max_delay=3600)
    receiver = Receiver(ignore, stages.tap(lambda _: came.set()), batch, port=0)
    async with asyncio.timeout(10), running(receiver.app) if mounted else receiver as served:
        port = served if isinstance(served, int) else served.port
        waiting = asyncio.ensure_future(at(port, "/"))
        await came.wait()
    assert (await waiting).status == 204
    assert sizes == [1]
