"""Cancellation of a send, wherever it is, passes through at once and leaves nothing behind."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any, NoReturn

import aiohttp
import pytest

from cloudevents_kit import Event, Result, RetryPolicy, Sender
from tests.support.clock import ManualClock
from tests.support.peer import SILENCE, Certificates, Peer, answer, full_backlog, half, until

STEADY = RetryPolicy(attempts=3, initial=5, jitter=False)
BUSY = answer(503, [("Retry-After", "5")])


def new_event(id: str = "o-1") -> Event:
    return Event(type="com.example.order.created", source="/orders", id=id, data={"id": id})


@pytest.fixture
def clock() -> ManualClock:
    """A clock that passes no time unless told to."""
    return ManualClock(auto=False)


async def cancel(sending: asyncio.Future[Any]) -> None:
    """Cancel, and check that it passes through within 50 ms."""
    began = time.monotonic()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert time.monotonic() - began < 0.05


@pytest.mark.parametrize("call", ["send", "request"])
async def test_in_flight(call: str) -> None:
    """RT-07: the connection is closed, the slot is free, and the sender goes on."""
    async with Peer(SILENCE, answer(204)) as peer, Sender(peer.url, concurrency=1) as sender:
        sending = asyncio.ensure_future(getattr(sender, call)(new_event()))
        await peer.received(1)
        await cancel(sending)
        await peer.left_alone()
        assert await sender.send(new_event("next"))
        assert [request["ce-id"] for request in peer.requests] == ["o-1", "next"]


async def test_in_the_middle_of_an_answer() -> None:
    headers_came = asyncio.Event()

    async def note(*_: object) -> None:
        headers_came.set()

    tracing = aiohttp.TraceConfig()
    tracing.on_request_end.append(note)
    slow = replace(half(200, [("Content-Type", "application/cloudevents+json")]), then="hang")
    async with (
        Peer(slow) as peer,
        aiohttp.ClientSession(trace_configs=[tracing]) as session,
        Sender(peer.url, session=session) as sender,
    ):
        sending = asyncio.ensure_future(sender.request(new_event()))
        await headers_came.wait()
        await cancel(sending)
        await peer.left_alone()


async def test_while_connecting() -> None:
    with full_backlog() as url:
        async with Sender(url) as sender:
            sending = asyncio.ensure_future(sender.send(new_event()))
            for _ in range(10):  # let the connecting begin
                await asyncio.sleep(0)
            await cancel(sending)


async def test_in_the_tls_handshake() -> None:
    async with Peer(replace(SILENCE, at="connect")) as peer:
        async with Sender(peer.url.replace("http:", "https:"), ssl=Certificates().trusting) as sender:
            sending = asyncio.ensure_future(sender.send(new_event()))
            await peer.until(lambda peer: peer.connected == 1)
            await cancel(sending)
        await peer.left_alone()


async def test_in_backoff(clock: ManualClock) -> None:
    """K-C2: no further request is made. RT-07."""
    async with Peer(answer(500)) as peer, Sender(peer.url, retry=STEADY, clock=clock) as sender:
        sending = asyncio.ensure_future(sender.send(new_event()))
        await until(lambda: clock.sleeping == 1)
        await cancel(sending)
        assert clock.sleeping == 0
        await clock.advance(60)
        assert len(peer.requests) == 1


async def test_in_a_real_backoff() -> None:
    """K-C2: on the machine's own clock."""
    async with Peer(answer(500)) as peer, Sender(peer.url, retry=STEADY) as sender:
        sending = asyncio.ensure_future(sender.send(new_event()))
        await peer.received(1)
        await peer.until(lambda peer: not peer.active)
        await cancel(sending)
        assert len(peer.requests) == 1


async def test_while_waiting_for_a_slot() -> None:
    gate = asyncio.Event()
    async with Peer(replace(answer(204), gate=gate)) as peer, Sender(peer.url, concurrency=1) as sender:
        first = asyncio.ensure_future(sender.send(new_event("first")))
        await peer.received(1)
        waiting = asyncio.ensure_future(sender.send(new_event("waiting")))
        third = asyncio.ensure_future(sender.send(new_event("third")))
        await asyncio.sleep(0)
        await cancel(waiting)
        gate.set()
        assert await first
        assert await third
        assert [request["ce-id"] for request in peer.requests] == ["first", "third"]


async def test_while_waiting_out_a_pause(clock: ManualClock) -> None:
    """RT-07: the slot that it held is free again."""
    none = RetryPolicy.none()
    async with Peer(BUSY, answer(204)) as peer, Sender(peer.url, retry=none, clock=clock, concurrency=1) as sender:
        assert not await sender.send(new_event("first"))
        waiting = asyncio.ensure_future(sender.send(new_event("waiting")))
        await until(lambda: clock.sleeping == 1)
        await cancel(waiting)
        assert clock.sleeping == 0
        await clock.advance(5)
        assert await sender.send(new_event("last"))
        assert [request["ce-id"] for request in peer.requests] == ["first", "last"]


async def test_in_the_headers_function() -> None:
    """It is cancelled too, and is no failure of the function."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def token() -> Mapping[str, str]:
        began.set()
        try:
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]
        finally:
            ended.set()

    async with Peer(answer(204)) as peer, Sender(peer.url, headers=token) as sender:
        sending = asyncio.ensure_future(sender.send(new_event()))
        await began.wait()
        await cancel(sending)
        assert ended.is_set()
        assert peer.connections == 0


async def test_of_a_batch_cancels_all_its_requests() -> None:
    async with Peer(SILENCE) as peer, Sender(peer.url, max_batch=2) as sender:
        sending = asyncio.ensure_future(sender.send_batch([new_event(str(n)) for n in range(6)]))
        await peer.received(3)
        await cancel(sending)
        await peer.left_alone()


@pytest.mark.parametrize("endless", [True, False])
async def test_of_a_stream_cancels_what_is_in_flight(endless: bool) -> None:
    async def source() -> AsyncIterator[Event]:
        yield new_event("1")
        yield new_event("2")
        if endless:
            await asyncio.get_running_loop().create_future()

    async def consume(sender: Sender) -> list[tuple[Any, Result]]:
        return [pair async for pair in sender.send_all(source())]

    async with Peer(SILENCE) as peer, Sender(peer.url) as sender:
        consuming = asyncio.ensure_future(consume(sender))
        await peer.received(2)
        await cancel(consuming)
        await peer.left_alone()


async def test_by_a_time_limit_of_the_caller() -> None:
    """The caller's limit is told apart from the sender's own."""
    async with Peer(SILENCE) as peer, Sender(peer.url) as sender:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await sender.send(new_event())
        await peer.left_alone()


async def test_by_a_sibling_that_fails() -> None:
    async def fail(peer: Peer) -> NoReturn:
        await peer.received(1)
        raise LookupError

    async with Peer(SILENCE) as peer, Sender(peer.url) as sender:
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(sender.send(new_event()))
                group.create_task(fail(peer))
        assert caught.group_contains(LookupError)
        await peer.left_alone()


async def test_in_a_session_of_the_caller() -> None:
    """The connection is closed, the session is not."""
    async with (
        Peer(SILENCE, answer(204)) as peer,
        aiohttp.ClientSession() as session,
        Sender(peer.url, session=session) as sender,
    ):
        sending = asyncio.ensure_future(sender.send(new_event()))
        await peer.received(1)
        await cancel(sending)
        await peer.left_alone()
        assert not session.closed
        assert await sender.send(new_event())


async def test_again_and_again_loses_no_slot() -> None:
    """Wherever the cancellation strikes, the sender still has every slot afterwards."""
    async with Peer(answer(204)) as peer, Sender(peer.url, concurrency=2) as sender:
        for turns in range(30):
            sending = [asyncio.ensure_future(sender.send(new_event())) for _ in range(4)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for one in sending:
                one.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
        async with asyncio.timeout(2):
            assert all(await asyncio.gather(*[sender.send(new_event()) for _ in range(4)]))
        assert not sender._destination.slots.locked()
