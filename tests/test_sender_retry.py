"""Attempts on the wire: how many, when, with what; pauses, slots and deadlines that all sends of a sender share."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from cloudevents_kit import Ack, Event, Nack, RetryPolicy, Sender, Undelivered
from tests.support.clock import ManualClock
from tests.support.peer import CLOSE, SILENCE, Peer, Request, answer, until, unused_port

STEADY = RetryPolicy(attempts=3, initial=0.2, jitter=False)


def new_event(id: str = "o-1") -> Event:
    return Event(type="com.example.order.created", source="/orders", id=id, data={"id": id})


@pytest.fixture
def slow_clock() -> ManualClock:
    """A clock that passes no time unless told to."""
    return ManualClock(auto=False)


async def test_a_peer_that_is_always_busy_gets_every_attempt_with_growing_gaps(clock: ManualClock) -> None:
    """K-C3: 4 attempts, gaps 0.1, 0.2, 0.3, none after the last, each recorded. RT-02."""
    policy = RetryPolicy(attempts=4, initial=0.1, factor=2, max_delay=0.3, jitter=False)
    arrived: list[float] = []

    def busy(_: Request) -> Any:
        arrived.append(clock.monotonic())
        return answer(503)

    async with Peer(busy) as peer, Sender(peer.url, retry=policy, clock=clock) as sender:
        result = await sender.send(new_event())
    assert arrived == pytest.approx([0, 0.1, 0.3, 0.6])
    assert isinstance(result, Nack)
    assert [(attempt.number, attempt.status, attempt.error) for attempt in result.attempts] == [
        (number, 503, None) for number in (1, 2, 3, 4)
    ]
    assert [attempt.wait for attempt in result.attempts] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert result.elapsed == pytest.approx(0.6)


async def test_jitter_keeps_every_wait_below_its_bound(clock: ManualClock) -> None:
    """K-C3: full jitter with a seed. RT-02."""
    policy = RetryPolicy(attempts=6, initial=1, factor=2, max_delay=4, seed=3)
    async with Peer(answer(500)) as peer, Sender(peer.url, retry=policy, clock=clock) as sender:
        await sender.send(new_event())
    assert [0 <= wait <= bound for wait, bound in zip(clock.waits, [1, 2, 4, 4, 4], strict=True)] == [True] * 5
    assert clock.waits != [1, 2, 4, 4, 4]


async def test_a_peer_that_comes_up_later_gets_the_event(slow_clock: ManualClock) -> None:
    """K-C3: refused, then 200: Ack after two tries."""
    port = unused_port()
    async with Sender(f"http://127.0.0.1:{port}/", retry=STEADY, clock=slow_clock) as sender:
        sending = asyncio.ensure_future(sender.send(new_event()))
        await until(lambda: slow_clock.sleeping == 1)
        async with Peer(answer(200), port=port):
            await slow_clock.advance(0.2)
            result = await sending
    assert isinstance(result, Ack)
    assert [attempt.error or attempt.status for attempt in result.attempts] == ["refused", 200]


@pytest.mark.parametrize("after", ["2", "Thu, 01 Jan 2026 00:00:02 GMT"])
async def test_retry_after_beyond_the_deadline_ends_it_at_once(after: str, clock: ManualClock) -> None:
    """K-C3: with the Retry-After in the result. RT-03."""
    policy = replace(STEADY, deadline=1.5)
    async with (
        Peer(answer(429, [("Retry-After", after)])) as peer,
        Sender(peer.url, retry=policy, clock=clock) as sender,
    ):
        result = await sender.send(new_event())
    assert result == Nack(
        status=429, reason="Too Many Requests", retryable=True, retry_after=2.0, attempts=result.attempts
    )
    assert (len(peer.requests), clock.waits) == (1, [])


@pytest.mark.parametrize(("again", "requests"), [(True, 3), (False, 1)])
async def test_what_may_have_arrived_is_sent_again_only_if_the_policy_says_so(
    again: bool, requests: int, clock: ManualClock
) -> None:
    """K-C3: at least once re-sends the same id and source, at most once does not. RT-06."""
    policy = replace(STEADY, retry_possibly_delivered=again)
    async with Peer(SILENCE) as peer, Sender(peer.url, retry=policy, clock=clock, timeout=0.05) as sender:
        result = await sender.send(new_event())
    assert isinstance(result, Undelivered)
    assert (result.reason, result.possibly_delivered) == ("timeout", True)
    assert [(request["ce-id"], request["ce-source"]) for request in peer.requests] == [("o-1", "/orders")] * requests


async def test_an_event_that_may_have_arrived_once_stays_so_whatever_the_last_attempt_says(clock: ManualClock) -> None:
    """K-C1: a refused connection after a time-out does not make the time-out undone."""
    async with Peer(SILENCE) as peer, Sender(peer.url, retry=STEADY, clock=clock, timeout=0.05) as sender:
        sending = asyncio.ensure_future(sender.send(new_event()))
        await peer.received(1)
        peer.refuse()
        result = await sending
    assert isinstance(result, Undelivered)
    assert [attempt.error for attempt in result.attempts] == ["timeout", "refused", "refused"]
    assert (result.reason, result.possibly_delivered) == ("refused", True)


# Connections that were kept alive.


async def test_a_stale_connection_costs_no_attempt(clock: ManualClock) -> None:
    """RT-06."""
    policy = replace(STEADY, attempts=1)
    async with Peer(answer(204), CLOSE, answer(204)) as peer, Sender(peer.url, retry=policy, clock=clock) as sender:
        assert await sender.send(new_event("warm"))
        result = await sender.send(new_event())
    assert isinstance(result, Ack)
    assert [(attempt.number, attempt.error, attempt.wait) for attempt in result.attempts] == [
        (1, "reset", 0),
        (1, None, 0),
    ]
    assert [request["ce-id"] for request in peer.requests] == ["warm", "o-1", "o-1"]
    assert peer.connections == 2


async def test_a_fresh_connection_that_breaks_too_costs_one(clock: ManualClock) -> None:
    script = [answer(204), CLOSE, CLOSE, answer(204)]
    async with Peer(*script) as peer, Sender(peer.url, retry=STEADY, clock=clock) as sender:
        assert await sender.send(new_event("warm"))
        result = await sender.send(new_event())
    assert isinstance(result, Ack)
    assert [(attempt.number, attempt.wait) for attempt in result.attempts] == [(1, 0), (1, 0), (2, 0.2)]


async def test_a_stale_connection_is_no_excuse_for_sending_twice(clock: ManualClock) -> None:
    """K-C3: at most once is at most once."""
    policy = replace(STEADY, retry_possibly_delivered=False)
    async with Peer(answer(204), CLOSE, answer(204)) as peer, Sender(peer.url, retry=policy, clock=clock) as sender:
        assert await sender.send(new_event("warm"))
        result = await sender.send(new_event())
    assert isinstance(result, Undelivered)
    assert (result.reason, result.possibly_delivered, len(result.attempts)) == ("reset", True, 1)
    assert len(peer.requests) == 2


async def test_closed_connections_are_forgotten() -> None:
    """The memory of connections that may turn out stale is bounded."""
    closing = replace(answer(204, [("Connection", "close")]), then="close")
    async with Peer(closing) as peer, Sender(peer.url, concurrency=1) as sender:
        for _ in range(10):
            assert await sender.send(new_event())
        assert peer.connections == 10
        assert len(sender._client._warm) <= 4


# Time limits.


async def test_a_silent_peer_holds_a_send_no_longer_than_its_timeout() -> None:
    """K-C2: timeout=0.2 returns within 0.3 s."""
    async with Peer(SILENCE) as peer, Sender(peer.url, retry=RetryPolicy.none(), timeout=0.2) as sender:
        began = time.monotonic()
        result = await sender.send(new_event())
        assert 0.2 <= time.monotonic() - began < 0.3
    assert isinstance(result, Undelivered)


@pytest.mark.parametrize(("limit", "requests"), [(0.1, 3), (5.0, 1)])
async def test_the_deadline_holds_over_all_attempts(limit: float, requests: int) -> None:
    """K-C2: it cuts the last attempt short, or the first. RT-07, 18.1-h."""
    policy = RetryPolicy(attempts=99, initial=0.01, factor=1, jitter=False, deadline=0.25)
    async with Peer(SILENCE) as peer, Sender(peer.url, retry=policy, timeout=limit) as sender:
        began = time.monotonic()
        result = await sender.send(new_event())
        assert 0.24 <= time.monotonic() - began < 0.35
    assert isinstance(result, Undelivered)
    assert len(result.attempts) == len(peer.requests) == requests


# What all sends of a sender share.


async def test_no_more_requests_are_open_than_allowed() -> None:
    """RT-08: the others wait for a slot."""
    gate = asyncio.Event()
    async with Peer(replace(answer(204), gate=gate)) as peer, Sender(peer.url, concurrency=3) as sender:
        sending = [asyncio.ensure_future(sender.send(new_event(str(n)))) for n in range(10)]
        await peer.received(3)
        gate.set()
        assert all(await asyncio.gather(*sending))
    assert (peer.most_active, peer.connections, len(peer.requests)) == (3, 3, 10)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("concurrency", [1, 2])
async def test_retry_after_holds_back_every_send(status: int, concurrency: int, slow_clock: ManualClock) -> None:
    """RT-03, WH-16: while the first event waits out its Retry-After, no other is sent."""
    script = [answer(status, [("Retry-After", "2")]), answer(204)]
    async with (
        Peer(*script) as peer,
        Sender(peer.url, retry=STEADY, clock=slow_clock, concurrency=concurrency) as sender,
    ):
        first = asyncio.ensure_future(sender.send(new_event("first")))
        await until(lambda: slow_clock.sleeping == 1)
        second = asyncio.ensure_future(sender.send(new_event("second")))
        await until(lambda: slow_clock.sleeping == 2)
        await slow_clock.advance(1.9)
        assert [request["ce-id"] for request in peer.requests] == ["first"]
        await slow_clock.advance(0.1)
        results = await asyncio.gather(first, second)
    assert all(results)
    assert sorted(request["ce-id"] for request in peer.requests) == ["first", "first", "second"]
    assert [[attempt.wait for attempt in result.attempts] for result in results] == [[0, 2.0], [2.0]]
    assert [result.elapsed for result in results] == [2.0, 2.0]


async def test_a_longer_pause_prolongs_the_one_that_is_waited_out(slow_clock: ManualClock) -> None:
    """RT-03: the destination may ask again, on a request that was already open."""
    gate = asyncio.Event()
    script = [
        replace(answer(429, [("Retry-After", "10")]), gate=gate),
        answer(429, [("Retry-After", "1")]),
        answer(204),
    ]
    async with Peer(*script) as peer, Sender(peer.url, retry=RetryPolicy.none(), clock=slow_clock) as sender:
        slow = asyncio.ensure_future(sender.send(new_event("slow")))
        await peer.received(1)
        assert not await sender.send(new_event("quick"))
        waiting = asyncio.ensure_future(sender.send(new_event("waiting")))
        await until(lambda: slow_clock.sleeping == 1)
        gate.set()
        assert not await slow
        await slow_clock.advance(9.9)
        assert len(peer.requests) == 2
        await slow_clock.advance(0.1)
        result = await waiting
    assert isinstance(result, Ack)
    assert result.attempts[0].wait == pytest.approx(10)


@pytest.mark.parametrize("status", [404, 409, 500])
async def test_other_refusals_hold_back_that_event_alone(status: int, slow_clock: ManualClock) -> None:
    """RT-03: it waits as long as it was asked to, and nobody else does."""
    script = [answer(status, [("Retry-After", "9")]), answer(204)]
    async with Peer(*script) as peer, Sender(peer.url, retry=STEADY, clock=slow_clock) as sender:
        first = asyncio.ensure_future(sender.send(new_event("first")))
        await until(lambda: slow_clock.sleeping == 1)
        assert await sender.send(new_event("second"))
        await slow_clock.advance(9)
        result = await first
    assert [attempt.wait for attempt in result.attempts] == [0, 9]


async def test_a_final_refusal_asks_for_no_other_time(clock: ManualClock) -> None:
    async with Peer(answer(422, [("Retry-After", "9")])) as peer, Sender(peer.url, clock=clock) as sender:
        result = await sender.send(new_event())
    assert isinstance(result, Nack)
    assert (result.retryable, result.retry_after) == (False, None)


async def test_a_pause_beyond_the_deadline_is_not_waited_out(clock: ManualClock) -> None:
    """RT-03, RT-08: other sends learn at once that the destination does not want them now."""
    busy = answer(503, [("Retry-After", "100")])
    async with Peer(busy) as peer, Sender(peer.url, retry=STEADY, clock=clock) as sender:
        assert isinstance(await sender.send(new_event()), Nack)
        result = await sender.send(new_event("next"))
    assert result == Undelivered(reason="overload", error="the destination asked for 100 s of silence")
    assert (len(peer.requests), clock.waits) == (1, [])


async def test_without_a_deadline_any_pause_up_to_the_limit_is_waited_out(clock: ManualClock) -> None:
    """RT-04: a Retry-After beyond `max_retry_after` counts as that long."""
    policy = replace(STEADY, deadline=None, max_retry_after=7000)
    script = [answer(503, [("Retry-After", "999999999999")]), answer(204)]
    async with Peer(*script) as peer, Sender(peer.url, retry=policy, clock=clock) as sender:
        assert await sender.send(new_event())
    assert clock.waits == [7000]


async def test_a_destination_that_is_gone_gets_nothing_more(clock: ManualClock) -> None:
    """RT-01, WH-15, 18.1-i: 410 disables it, for the sends that wait for a slot too."""
    gate = asyncio.Event()
    async with (
        Peer(replace(answer(410), gate=gate)) as peer,
        Sender(peer.url, retry=STEADY, clock=clock, concurrency=1, max_batch=2) as sender,
    ):
        first = asyncio.ensure_future(sender.send(new_event("first")))
        await peer.received(1)
        second = asyncio.ensure_future(sender.send(new_event("second")))
        gate.set()
        results = [await first, await second, await sender.send(new_event()), *await sender.send_batch([new_event()])]
    assert results[0] == Nack(status=410, reason="Gone", attempts=results[0].attempts)
    gone = Undelivered(reason="gone", error="the destination answered 410 Gone; nothing is sent to it any more")
    assert results[1:] == [gone] * 3
    assert (len(peer.requests), clock.waits) == (1, [])


async def test_a_retry_that_gets_no_slot_before_the_deadline_is_not_made(slow_clock: ManualClock) -> None:
    """RT-07, RT-08."""
    gate = asyncio.Event()
    script = [answer(500), replace(answer(204), gate=gate)]
    policy = replace(STEADY, deadline=5)
    async with (
        Peer(*script) as peer,
        Sender(peer.url, retry=policy, clock=slow_clock, concurrency=1) as sender,
    ):
        first = asyncio.ensure_future(sender.send(new_event("first")))
        await until(lambda: slow_clock.sleeping == 1)
        second = asyncio.ensure_future(sender.send(new_event("second")))
        await peer.received(2)
        await slow_clock.advance(6)
        gate.set()
        result = await first
        assert await second
    assert result == Undelivered(
        reason="overload", error="no slot was free before the deadline", attempts=result.attempts, elapsed=6.0
    )
    assert [attempt.status for attempt in result.attempts] == [500]
    assert len(peer.requests) == 2
