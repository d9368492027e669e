"""Whether an event may have arrived that nobody acknowledged: all attempts decide, never the last one alone."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace

import pytest
from cloudevents.core.v1.event import CloudEvent

from cloudevents_kit import Ack, DeliveryError, Event, Nack, Result, RetryPolicy, Sender, Undelivered
from tests.support.clock import ManualClock
from tests.support.peer import CLOSE, RESET, SILENCE, Peer, Request, Step, answer, half, until, unused_port

STEADY = RetryPolicy(attempts=3, initial=0.2, jitter=False)
EVENT = Event(type="com.example.order.created", source="/orders", id="o-1", data={"id": 1})
BUSY = answer(503)
CUT_REPLY = half(200, [("Content-Type", "application/cloudevents+json")])


@pytest.fixture
def slow_clock() -> ManualClock:
    """A clock that passes no time unless told to."""
    return ManualClock(auto=False)


def new_events(count: int) -> list[Event]:
    return [Event(type="com.example.order.created", source="/orders", id=str(n)) for n in range(count)]


def listing(*statuses: int) -> Step:
    results = [{"index": index, "status": status} for index, status in enumerate(statuses)]
    body = json.dumps({"status": 503, "results": results}).encode()
    return answer(503, [("Content-Type", "application/problem+json")], body)


def ends(result: Result) -> list[str | int | None]:
    return [attempt.error or attempt.status for attempt in result.attempts]


def maybe(result: Result) -> bool:
    assert isinstance(result, Undelivered)
    return result.possibly_delivered


async def send_until_it_is_refused(peer: Peer, sender: Sender, clock: ManualClock) -> Result:
    """Send, with the peer gone after its first answer or silence."""
    sending = asyncio.ensure_future(sender.send(EVENT))
    await peer.received(1)
    peer.refuse()
    await until(lambda: clock.sleeping == 1)
    await clock.advance(0.2)
    await until(lambda: clock.sleeping == 1)
    await clock.advance(0.4)
    return await sending


# One event: an attempt that may have delivered it, then one that cannot have.


@pytest.mark.parametrize(("first", "reason"), [(SILENCE, "timeout"), (CLOSE, "reset"), (RESET, "reset")])
async def test_an_earlier_attempt_without_an_answer_may_have_delivered(
    first: Step, reason: str, slow_clock: ManualClock
) -> None:
    async with Peer(first) as peer, Sender(peer.url, retry=STEADY, clock=slow_clock, timeout=0.05) as sender:
        result = await send_until_it_is_refused(peer, sender, slow_clock)
    assert ends(result) == [reason, "refused", "refused"]
    assert maybe(result)


async def test_an_earlier_attempt_whose_reply_was_cut_off_may_have_delivered(slow_clock: ManualClock) -> None:
    """It was answered 200, and its attempt says so."""
    async with Peer(CUT_REPLY) as peer, Sender(peer.url, retry=STEADY, clock=slow_clock) as sender:
        sending = asyncio.ensure_future(sender.request(EVENT))
        await until(lambda: slow_clock.sleeping == 1)
        peer.refuse()
        await slow_clock.advance(0.2)
        await until(lambda: slow_clock.sleeping == 1)
        await slow_clock.advance(0.4)
        result = await sending
    assert ends(result) == [200, "refused", "refused"]
    assert maybe(result)


async def test_an_earlier_refusal_by_the_peer_has_not_delivered(slow_clock: ManualClock) -> None:
    refusing = replace(BUSY, then="close")
    async with Peer(refusing) as peer, Sender(peer.url, retry=STEADY, clock=slow_clock) as sender:
        result = await send_until_it_is_refused(peer, sender, slow_clock)
    assert ends(result) == [503, "refused", "refused"]
    assert not maybe(result)


async def test_nothing_was_delivered_where_nobody_ever_listened(clock: ManualClock) -> None:
    async with Sender(f"http://127.0.0.1:{unused_port()}/", retry=STEADY, clock=clock) as sender:
        result = await sender.send(EVENT)
    assert ends(result) == ["refused"] * 3
    assert not maybe(result)


async def test_a_stale_connection_may_have_delivered_even_if_the_fresh_one_is_refused() -> None:
    gate = asyncio.Event()
    script = [answer(204), replace(CLOSE, gate=gate)]
    async with Peer(*script) as peer, Sender(peer.url, retry=RetryPolicy.none()) as sender:
        assert await sender.send(EVENT)
        sending = asyncio.ensure_future(sender.send(EVENT))
        await peer.received(2)
        peer.refuse()
        gate.set()
        result = await sending
    assert ends(result) == ["reset", "refused"]
    assert maybe(result)


@pytest.mark.parametrize("lost", [True, False])
async def test_a_sender_closed_in_backoff_tells_of_the_attempts_before(lost: bool, slow_clock: ManualClock) -> None:
    async with Peer(CLOSE if lost else BUSY) as peer:
        async with Sender(peer.url, retry=STEADY, clock=slow_clock) as sender:
            sending = asyncio.ensure_future(sender.send(EVENT))
            await until(lambda: slow_clock.sleeping == 1)
        await slow_clock.advance(0.2)
        result = await sending
    assert ends(result) == ["reset" if lost else 503, "closed"]
    assert maybe(result) is lost


@pytest.mark.parametrize("lost", [True, False])
async def test_a_destination_that_is_gone_meanwhile_may_have_taken_it_before(
    lost: bool, slow_clock: ManualClock
) -> None:
    script = [CLOSE if lost else BUSY, answer(410)]
    async with Peer(*script) as peer, Sender(peer.url, retry=STEADY, clock=slow_clock) as sender:
        sending = asyncio.ensure_future(sender.send(EVENT))
        await until(lambda: slow_clock.sleeping == 1)
        assert isinstance(await sender.send(EVENT), Nack)
        await slow_clock.advance(0.2)
        result = await sending
    assert isinstance(result, Undelivered)
    assert (result.reason, ends(result)) == ("gone", ["reset" if lost else 503])
    assert maybe(result) is lost


@pytest.mark.parametrize("lost", [True, False])
async def test_a_pause_beyond_the_deadline_does_not_undo_the_attempt_before(
    lost: bool, slow_clock: ManualClock
) -> None:
    script = [CLOSE if lost else BUSY, answer(429, [("Retry-After", "100")])]
    async with Peer(*script) as peer, Sender(peer.url, retry=STEADY, clock=slow_clock) as sender:
        sending = asyncio.ensure_future(sender.send(EVENT))
        await until(lambda: slow_clock.sleeping == 1)
        assert isinstance(await sender.send(EVENT), Nack)
        await slow_clock.advance(0.2)
        result = await sending
    assert isinstance(result, Undelivered)
    assert result.reason == "overload"
    assert maybe(result) is lost


@pytest.mark.parametrize("lost", [True, False])
async def test_a_headers_function_that_fails_later_does_not_undo_the_attempt_before(
    lost: bool, clock: ManualClock
) -> None:
    calls = 0

    async def once() -> Mapping[str, str]:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise LookupError
        return {}

    async with Peer(CLOSE if lost else BUSY) as peer, Sender(peer.url, retry=STEADY, clock=clock) as sender:
        result = await sender.send(EVENT, headers=once)
    assert ends(result) == ["reset" if lost else 503, "headers", "headers"]
    assert maybe(result) is lost


async def test_at_most_once_stops_at_the_first_attempt_that_may_have_delivered(clock: ManualClock) -> None:
    policy = replace(STEADY, retry_possibly_delivered=False)
    async with Peer(BUSY, CLOSE, answer(204)) as peer, Sender(peer.url, retry=policy, clock=clock) as sender:
        result = await sender.send(EVENT)
    assert ends(result) == [503, "reset"]
    assert maybe(result)
    assert len(peer.requests) == 2


# Batches: each event by the attempts that it was in.


async def test_a_batch_that_was_lost_once_may_have_arrived_whole(slow_clock: ManualClock) -> None:
    async with Peer(CLOSE) as peer, Sender(peer.url, retry=STEADY, clock=slow_clock, max_batch=9) as sender:
        sending = asyncio.ensure_future(sender.send_batch(new_events(2)))
        await until(lambda: slow_clock.sleeping == 1)
        peer.refuse()
        await slow_clock.advance(0.2)
        await until(lambda: slow_clock.sleeping == 1)
        await slow_clock.advance(0.4)
        results = await sending
    assert [(ends(result), maybe(result)) for result in results] == [(["reset", "refused", "refused"], True)] * 2


@pytest.mark.parametrize("step", [SILENCE, CLOSE])
async def test_of_a_batch_only_what_was_sent_again_may_have_arrived(step: Step, clock: ManualClock) -> None:
    """The first answer told the events apart; its verdicts on the others stand."""
    policy = replace(STEADY, attempts=2)
    async with (
        Peer(listing(204, 422, 503), step) as peer,
        Sender(peer.url, retry=policy, clock=clock, max_batch=9, timeout=0.05) as sender,
    ):
        taken, refused, lost = await sender.send_batch(new_events(3))
    assert isinstance(taken, Ack)
    assert isinstance(refused, Nack)
    assert maybe(lost)
    assert len(peer.requests) >= 2


async def test_of_a_batch_what_the_peer_refused_before_it_went_away_has_not_arrived(slow_clock: ManualClock) -> None:
    refusing = replace(listing(204, 503), then="close")
    policy = replace(STEADY, attempts=2)
    async with Peer(refusing) as peer, Sender(peer.url, retry=policy, clock=slow_clock, max_batch=9) as sender:
        sending = asyncio.ensure_future(sender.send_batch(new_events(2)))
        await until(lambda: slow_clock.sleeping == 1)
        peer.refuse()
        await slow_clock.advance(0.2)
        taken, lost = await sending
    assert isinstance(taken, Ack)
    assert ends(lost) == [503, "refused"]
    assert not maybe(lost)


async def test_each_batch_is_judged_by_its_own_attempts() -> None:
    def lose_the_second(request: Request) -> Step:
        return CLOSE if b'"id":"1"' in request.body else BUSY

    async with Peer(lose_the_second) as peer, Sender(peer.url, retry=RetryPolicy.none(), max_batch=1) as sender:
        first, second = await sender.send_batch(new_events(2))
    assert isinstance(first, Nack)
    assert maybe(second)


async def test_an_invalid_event_of_a_batch_that_was_lost_has_not_arrived() -> None:
    broken = CloudEvent({"id": "1", "source": "/orders", "type": "t"})
    broken._attributes["source"] = ""
    async with Peer(CLOSE) as peer, Sender(peer.url, retry=RetryPolicy.none(), max_batch=9) as sender:
        lost, never_sent = await sender.send_batch([EVENT, broken])
    assert (maybe(lost), maybe(never_sent)) == (True, False)


async def test_the_error_that_a_result_raises_carries_it() -> None:
    async with Peer(CLOSE) as peer, Sender(peer.url, retry=RetryPolicy.none()) as sender:
        result = await sender.send(EVENT)
    with pytest.raises(DeliveryError, match=r"undelivered, reset.*may have arrived") as raised:
        result.raise_for_outcome()
    assert maybe(raised.value.result)
