"""Where one sender ends and the network begins: TLS, connections, sessions of the caller, opening and closing."""

import asyncio
from dataclasses import replace
from http import HTTPStatus

import aiohttp
import pytest

from cloudevents_kit import Ack, Event, Nack, Result, RetryPolicy, Sender, Undelivered
from tests.support.clock import ManualClock
from tests.support.peer import SILENCE, Certificates, Peer, answer, chunked, half, until

NONE = RetryPolicy.none()
STEADY = RetryPolicy(attempts=3, initial=0.2, jitter=False)
EVENT = Event(type="com.example.order.created", source="/orders", id="o-1", data={"id": 1})
CLOSED = Undelivered(reason="closed", error="the sender is closed")
NOT_OPEN = Undelivered(reason="closed", error="the sender is not open; use it inside `async with`")
CUT = Undelivered(reason="closed", error="the sender was closed", possibly_delivered=True)


def bare(result: Result) -> Result:
    return replace(result, attempts=(), elapsed=0.0)


# TLS.


async def test_a_context_that_trusts_the_peer_makes_tls_work() -> None:
    certificates = Certificates()
    async with (
        Peer(answer(204), tls=certificates.server) as peer,
        Sender(peer.url, ssl=certificates.trusting) as sender,
    ):
        assert await sender.send(EVENT)
    assert peer.url.startswith("https:")


async def test_a_handshake_that_hangs_is_a_connect_timeout() -> None:
    async with Peer(replace(SILENCE, at="connect")) as peer:
        url = peer.url.replace("http:", "https:")
        async with Sender(url, retry=NONE, connect_timeout=0.05) as sender:
            result = await sender.send(EVENT)
    assert bare(result) == Undelivered(reason="connect-timeout", error="no connection in time")


# Connections and sessions.


async def test_sends_share_few_connections() -> None:
    """K-C8: 100 in a row take one, 100 at once no more than the limit."""
    async with (
        Peer(answer(200, [("Content-Type", "text/plain")], b"thanks")) as peer,
        Sender(peer.url, concurrency=5) as sender,
    ):
        for _ in range(100):
            assert await sender.send(EVENT)
        assert peer.connections == 1
        assert all(await asyncio.gather(*[sender.send(EVENT) for _ in range(100)]))
        assert 1 < peer.connections <= 5


async def test_an_answer_read_to_its_end_keeps_the_connection() -> None:
    async with Peer(chunked(200, [], b"a", b"b"), answer(400, (), b"no")) as peer, Sender(peer.url) as sender:
        for _ in range(3):
            await sender.send(EVENT)
        assert peer.connections == 1


async def test_a_session_of_the_caller_is_used_and_never_closed() -> None:
    """K-C8."""
    async with aiohttp.ClientSession(headers={"X-Session": "yes"}) as session, Peer(answer(204)) as peer:
        async with Sender(peer.url, session=session) as sender:
            assert await sender.send(EVENT)
        assert not session.closed
        assert bare(await sender.send(EVENT)) == CLOSED
        async with sender:
            assert await sender.send(EVENT)
    assert [request["X-Session"] for request in peer.requests] == ["yes", "yes"]


async def test_a_session_of_the_caller_does_not_change_what_a_status_means() -> None:
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        Peer(answer(422), answer(302)) as peer,
        Sender(peer.url, session=session) as sender,
    ):
        results = [bare(await sender.send(EVENT)) for _ in range(2)]
    assert results == [Nack(status=422, reason=HTTPStatus(422).phrase), Nack(status=302, reason="Found")]


async def test_a_session_that_its_owner_has_closed_is_closed() -> None:
    async with aiohttp.ClientSession() as session, Peer(SILENCE) as peer, Sender(peer.url, session=session) as sender:
        sending = asyncio.ensure_future(sender.send(EVENT))
        await peer.received(1)
        await session.close()
        in_flight, later = await sending, await sender.send(EVENT)
    assert bare(in_flight) == CUT
    assert bare(later) == Undelivered(reason="closed", error="the sender was closed")


@pytest.mark.parametrize("error", [RuntimeError("bug"), LookupError("bug"), KeyError("bug")], ids=repr)
async def test_an_error_in_the_callers_own_hooks_is_told_and_not_raised(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise error

    tracing = aiohttp.TraceConfig()
    tracing.on_request_start.append(fail)
    async with (
        aiohttp.ClientSession(trace_configs=[tracing]) as session,
        Sender("http://x/", session=session, retry=RetryPolicy.none(), max_batch=1) as sender,
    ):
        for result in [await sender.send(EVENT), *await sender.send_batch([EVENT, EVENT])]:
            assert isinstance(result, Undelivered)
            assert (result.reason, result.possibly_delivered) == ("unknown", False)
    assert caplog.text.count("bug") >= 3


@pytest.mark.parametrize("name", ["Content-Type", "CE-Id"])
async def test_a_session_whose_headers_would_change_events_is_refused(name: str) -> None:
    async with aiohttp.ClientSession(headers={name: "x"}) as session:
        with pytest.raises(ValueError, match=f"^session: its default header {name} would change every event"):
            Sender("http://x/", session=session)


# Opening and closing.


async def test_a_sender_that_is_not_open_says_so(clock: ManualClock) -> None:
    async with Peer(answer(204)) as peer:
        sender = Sender(peer.url, clock=clock)
        assert bare(await sender.send(EVENT)) == NOT_OPEN
        async with sender:
            assert await sender.send(EVENT)
        assert bare(await sender.request(EVENT)) == CLOSED
        await sender.close()  # a second time does no harm
        async with sender:
            assert await sender.send(EVENT)
    assert clock.waits == []
    assert len(peer.requests) == 2


@pytest.mark.parametrize("own_session", [False, True])
async def test_closing_ends_what_is_in_flight_and_says_that_it_may_have_arrived(own_session: bool) -> None:
    async with aiohttp.ClientSession() as session, Peer(SILENCE) as peer:
        sender = await Sender(peer.url, session=session if own_session else None).__aenter__()
        sending = asyncio.ensure_future(sender.send(EVENT))
        await peer.received(1)
        await sender.close()
        async with asyncio.timeout(0.05):
            result = await sending
        await peer.left_alone()
    assert bare(result) == CUT
    assert len(peer.requests) == 1


async def test_closing_keeps_an_answer_that_was_there() -> None:
    """RT-10."""
    headers_came = asyncio.Event()

    async def note(*_: object) -> None:
        headers_came.set()

    tracing = aiohttp.TraceConfig()
    tracing.on_request_end.append(note)
    unfinished = replace(half(200), then="hang")
    async with aiohttp.ClientSession(trace_configs=[tracing]) as session, Peer(unfinished) as peer:
        async with Sender(peer.url, session=session) as sender:
            sending = asyncio.ensure_future(sender.send(EVENT))
            await headers_came.wait()
        assert bare(await sending) == Ack(status=200)


async def test_a_send_that_waits_to_retry_ends_as_closed() -> None:
    clock = ManualClock(auto=False)
    async with Peer(answer(503)) as peer:
        async with Sender(peer.url, retry=STEADY, clock=clock) as sender:
            sending = asyncio.ensure_future(sender.send(EVENT))
            await until(lambda: clock.sleeping == 1)
        await clock.advance(0.2)
        result = await sending
    assert bare(result) == CLOSED
    assert [attempt.error or attempt.status for attempt in result.attempts] == [503, "closed"]
