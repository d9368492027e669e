"""Many events: in batches, with one result each, and as a stream, a bounded number at a time."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import pytest
from cloudevents.core.v1.event import CloudEvent

from cloudevents_kit import (
    ACCEPTED,
    Ack,
    Attempt,
    Event,
    Nack,
    Receiver,
    Reject,
    Result,
    Retry,
    RetryPolicy,
    Sender,
    Undelivered,
)
from cloudevents_kit._contract import Outcome
from cloudevents_kit._tasks import run_bounded
from tests.support.clock import ManualClock
from tests.support.peer import CLOSE, SILENCE, Peer, Request, Step, answer

STEADY = RetryPolicy(attempts=3, initial=0.2, jitter=False)
NONE = RetryPolicy.none()
BATCH = "application/cloudevents-batch+json"
PROBLEM = [("Content-Type", "application/problem+json")]


def new_events(count: int) -> list[Event]:
    return [Event(type="com.example.order.created", source="/orders", id=str(n), time=None) for n in range(count)]


def ids(request: Request) -> list[int]:
    return [int(one["id"]) for one in json.loads(request.body)]


def bare(result: Result) -> Result:
    return replace(result, attempts=(), elapsed=0.0)


def listing(*statuses: int, status: int = 503) -> Step:
    results = [{"index": index, "status": one, "reason": f"r{one}"} for index, one in enumerate(statuses)]
    return answer(status, PROBLEM, json.dumps({"status": status, "results": results}).encode())


# Batches.


async def test_batches_are_split_by_count_and_results_keep_the_order() -> None:
    """K-C5: 250 events, 100 in a batch: 3 requests, 250 results."""
    async with Peer(answer(204)) as peer, Sender(peer.url, max_batch=100) as sender:
        results = await sender.send_batch(event for event in new_events(250))
    assert [bare(result) for result in results] == [Ack(status=204)] * 250
    batches = sorted(map(ids, peer.requests))
    assert [len(batch) for batch in batches] == [100, 100, 50]
    assert [one for batch in batches for one in batch] == [*range(250)]
    assert {request["Content-Type"] for request in peer.requests} == {BATCH}


async def test_a_batch_that_fails_fails_only_its_own_events() -> None:
    """K-C5: if the second request fails, only its 100 are not acknowledged."""

    def refuse_second(request: Request) -> Step:
        return answer(422) if 100 in ids(request) else answer(200)

    async with Peer(refuse_second) as peer, Sender(peer.url, max_batch=100) as sender:
        results = await sender.send_batch(new_events(250))
    assert [n for n, result in enumerate(results) if not result] == [*range(100, 200)]
    assert bare(results[150]) == Nack(status=422, reason=HTTPStatus(422).phrase)


async def test_batches_are_split_by_size_too_and_a_large_event_travels_alone() -> None:
    small, large = (Event(type="t", source="/s", id="1", time=None, data="x" * size) for size in (100, 900))
    async with Peer(answer(204)) as peer, Sender(peer.url, max_batch=100, max_batch_bytes=600) as sender:
        assert all(await sender.send_batch([small, small, small, large, small]))
    batches = sorted((len(ids(request)), len(request.body)) for request in peer.requests)
    assert [count for count, _ in batches] == [1, 1, 1, 2]
    assert all(size <= 600 for count, size in batches if count > 1)


async def test_no_more_batches_are_open_than_allowed() -> None:
    """RT-08."""
    gate = asyncio.Event()
    async with Peer(replace(answer(204), gate=gate)) as peer, Sender(peer.url, max_batch=1, concurrency=2) as sender:
        sending = asyncio.ensure_future(sender.send_batch(new_events(6)))
        await peer.received(2)
        gate.set()
        assert all(await sending)
    assert (peer.most_active, len(peer.requests)) == (2, 6)


async def test_an_empty_batch_makes_no_request() -> None:
    async with Peer(answer(204)) as peer, Sender(peer.url, max_batch=2) as sender:
        assert await sender.send_batch([]) == []
    assert peer.connections == 0


async def test_batches_are_only_sent_where_they_were_asked_for() -> None:
    async with Sender("http://127.0.0.1:1/") as sender:
        with pytest.raises(ValueError, match=r"^max_batch: "):
            await sender.send_batch(new_events(1))


async def test_an_invalid_event_does_not_keep_the_others_back() -> None:
    events: list[Any] = new_events(3)
    events[1] = CloudEvent({"id": "1", "source": "/orders", "type": "t"})
    events[1]._attributes["source"] = ""
    async with Peer(answer(204)) as peer, Sender(peer.url, max_batch=10) as sender:
        results = await sender.send_batch(events)
    assert [bare(result) for result in results] == [
        Ack(),
        Undelivered(reason="invalid-event", error="source: must not be empty (for example /orders)"),
        Ack(),
    ]
    assert ids(peer.requests[0]) == [0, 2]


async def test_a_batch_takes_headers_and_compression() -> None:
    async with Peer(answer(204)) as peer, Sender(peer.url, max_batch=10, gzip_over=10) as sender:
        assert all(await sender.send_batch(new_events(2), headers={"X-Call": "yes"}))
    (request,) = peer.requests
    assert (request["X-Call"], request["Content-Encoding"]) == ("yes", "gzip")
    assert len(json.loads(gzip.decompress(request.body))) == 2


async def test_an_answer_that_tells_the_events_apart_gives_each_its_own_result(clock: ManualClock) -> None:
    """What was taken, or refused for good, is not sent again."""
    script = [listing(204, 422, 503, 202), listing(500), answer(204)]
    async with Peer(*script) as peer, Sender(peer.url, max_batch=10, retry=STEADY, clock=clock) as sender:
        results = await sender.send_batch(new_events(4))
    assert [bare(result) for result in results] == [
        Ack(status=204),
        Nack(status=422, reason="r422"),
        Ack(status=204),
        Ack(status=202),
    ]
    assert [ids(request) for request in peer.requests] == [[0, 1, 2, 3], [2], [2]]
    assert results[0].attempts == (Attempt(number=1, status=204),)
    assert results[1].attempts == (Attempt(number=1, status=422),)
    assert results[2].attempts == (Attempt(1, 503), Attempt(2, 500, wait=0.2), Attempt(3, 204, wait=0.4))
    assert results[2].elapsed == pytest.approx(0.6)


async def test_a_batch_of_final_refusals_is_not_sent_again(clock: ManualClock) -> None:
    async with Peer(listing(204, 422)) as peer, Sender(peer.url, max_batch=10, retry=STEADY, clock=clock) as sender:
        results = await sender.send_batch(new_events(2))
    assert [bare(result) for result in results] == [Ack(status=204), Nack(status=422, reason="r422")]
    assert (len(peer.requests), clock.waits) == (1, [])


@pytest.mark.parametrize(
    "step",
    [
        listing(204),  # not all of them
        listing(204, 204, 204),  # too many
        answer(503, PROBLEM, b'{"results":"none"}'),
        answer(503, PROBLEM, b"{"),
        replace(listing(204, 503), data=listing(204, 503).data.replace(b"problem+json", b"other__+json")),
        answer(503),
    ],
)
async def test_any_other_refusal_is_the_result_of_every_event(step: Step, clock: ManualClock) -> None:
    async with Peer(step) as peer, Sender(peer.url, max_batch=10, retry=STEADY, clock=clock) as sender:
        results = await sender.send_batch(new_events(2))
    assert [(result.is_nack, len(result.attempts)) for result in results] == [(True, 3)] * 2
    assert [ids(request) for request in peer.requests] == [[0, 1]] * 3


async def test_a_batch_that_is_lost_is_sent_again_whole(clock: ManualClock) -> None:
    """RT-06: the same bytes."""
    async with Peer(CLOSE, answer(204)) as peer, Sender(peer.url, max_batch=10, retry=STEADY, clock=clock) as sender:
        results = await sender.send_batch(new_events(2))
    assert [[attempt.error or attempt.status for attempt in result.attempts] for result in results] == [
        ["reset", 204]
    ] * 2
    assert peer.requests[0].body == peer.requests[1].body


async def test_a_batch_that_is_lost_every_time_may_have_arrived(clock: ManualClock) -> None:
    async with Peer(SILENCE) as peer, Sender(peer.url, max_batch=10, retry=NONE, clock=clock, timeout=0.05) as sender:
        results = await sender.send_batch(new_events(2))
    assert [bare(result) for result in results] == [
        Undelivered(reason="timeout", error="no answer in time", possibly_delivered=True)
    ] * 2


async def test_each_event_knows_of_the_stale_connection(clock: ManualClock) -> None:
    async with (
        Peer(answer(204), CLOSE, answer(200)) as peer,
        Sender(peer.url, max_batch=10, retry=NONE, clock=clock) as sender,
    ):
        assert all(await sender.send_batch(new_events(2)))
        results = await sender.send_batch(new_events(2))
    assert [result.attempts for result in results] == [(Attempt(1, error="reset"), Attempt(1, 200))] * 2


async def test_a_pause_beyond_the_deadline_is_the_result_of_every_event(clock: ManualClock) -> None:
    busy = answer(429, [("Retry-After", "100")])
    async with Peer(busy) as peer, Sender(peer.url, max_batch=10, retry=STEADY, clock=clock) as sender:
        refused = await sender.send_batch(new_events(2))
        results = await sender.send_batch(new_events(2))
    assert [(result.is_nack, result.attempts) for result in refused] == [(True, (Attempt(1, 429),))] * 2
    assert results == [Undelivered(reason="overload", error="the destination asked for 100 s of silence")] * 2


# Batches, answered by the receiver of the kit.


async def test_the_receiver_tells_what_became_of_each_event(clock: ManualClock) -> None:
    """K-C5, with replies: each finds the event that caused it."""
    seen: list[str] = []

    async def handle(event: Event) -> Outcome:
        seen.append(event.id)
        if event.id == "1":
            raise Reject("no such order")
        if event.id == "2" and seen.count("2") == 1:
            raise Retry(after=7)
        return ACCEPTED if event.id == "3" else event.reply(type="taken", source="/shop") if event.id == "4" else None

    async with (
        Receiver(handle, port=0) as receiver,
        Sender(receiver.url, max_batch=10, retry=STEADY, clock=clock) as sender,
    ):
        results = await sender.send_batch(new_events(5))
    assert [result.outcome for result in results] == ["ack", "nack", "ack", "ack", "ack"]
    assert bare(results[1]) == Nack(status=422, reason="no such order", retry_after=7.0)
    assert seen == ["0", "1", "2", "3", "4", "2"]
    assert clock.waits == [7.0]
    taken = results[4]
    assert isinstance(taken, Ack)
    assert taken.reply is not None
    assert taken.reply["causationid"] == "4"


async def test_replies_to_a_batch_find_the_events_that_caused_them() -> None:
    async def handle(event: Event) -> Event | None:
        return None if event.id == "1" else event.reply(type="taken", source="/shop", data=event.id)

    async with Receiver(handle, port=0) as receiver, Sender(receiver.url, max_batch=10) as sender:
        results = await sender.send_batch(new_events(3))
    assert [result.reply and result.reply.data for result in results if isinstance(result, Ack)] == ["0", None, "2"]


@pytest.mark.parametrize(
    ("status", "content_type", "body", "error"),
    [
        (200, BATCH, b"[{}]", True),
        (202, BATCH, b"[{}]", False),
        (200, "text/plain", b"thanks", False),
        (200, "application/cloudevents+json", b'{"specversion":"1.0","id":"r","source":"/p","type":"t"}', False),
    ],
)
async def test_a_reply_that_fits_no_event_changes_nothing_about_their_delivery(
    status: int, content_type: str, body: bytes, error: bool
) -> None:
    step = answer(status, [("Content-Type", content_type)], body)
    async with Peer(step) as peer, Sender(peer.url, max_batch=10) as sender:
        results = await sender.send_batch(new_events(2))
    assert [isinstance(result, Ack) and result.reply is None for result in results] == [True, True]
    assert [isinstance(result, Ack) and result.reply_error is not None for result in results] == [error, error]
    assert len(peer.requests) == 1


# Streams.


async def test_a_stream_yields_every_event_with_its_result() -> None:
    def refuse_odd(request: Request) -> Step:
        return answer(204) if int(request["ce-id"]) % 2 == 0 else answer(422)

    events = new_events(200)
    async with Peer(refuse_odd) as peer, Sender(peer.url) as sender:
        pairs = [pair async for pair in sender.send_all(events, concurrency=7, headers={"X-Call": "yes"})]
    assert {id(event) for event, _ in pairs} == {id(event) for event in events}
    assert all(bool(result) is (int(event.id) % 2 == 0) for event, result in pairs)
    assert (len(pairs), peer.most_active <= 7) == (200, True)
    assert all(request["X-Call"] == "yes" for request in peer.requests)


@pytest.mark.parametrize("concurrency", [None, 2])
async def test_no_more_is_taken_from_the_source_than_is_in_flight(concurrency: int | None) -> None:
    """RT-08: back-pressure."""
    taken = 0

    async def source() -> AsyncIterator[Event]:
        nonlocal taken
        for event in new_events(20):
            taken += 1
            yield event

    gate = asyncio.Event()
    async with Peer(replace(answer(204), gate=gate)) as peer, Sender(peer.url, concurrency=3) as sender:
        stream = sender.send_all(source(), concurrency=concurrency)
        first = asyncio.ensure_future(anext(stream))
        await peer.received(concurrency or 3)
        for _ in range(20):
            await asyncio.sleep(0)
        assert taken == (concurrency or 3)
        gate.set()
        assert await first
        assert len([pair async for pair in stream]) == 19


async def test_results_come_as_they_are_known() -> None:
    gate = asyncio.Event()

    def first_is_slow(request: Request) -> Step:
        return replace(answer(204), gate=gate if request["ce-id"] == "0" else None)

    async with Peer(first_is_slow) as peer, Sender(peer.url) as sender:
        order = []
        async for event, _ in sender.send_all(new_events(4), mode="binary"):
            order.append(event.id)
            if len(order) == 3:
                gate.set()
    assert (sorted(order[:3]), order[3]) == (["1", "2", "3"], "0")


@pytest.mark.parametrize("closing", ["aclose", "break"])
async def test_leaving_early_cancels_what_is_in_flight(closing: str) -> None:
    def answer_first(request: Request) -> Step:
        return answer(204) if request["ce-id"] == "0" else SILENCE

    async with Peer(answer_first) as peer, Sender(peer.url) as sender:
        stream = sender.send_all(iter(new_events(100)), concurrency=4)
        if closing == "aclose":
            async with aclosing(stream):
                await anext(stream)
                await peer.received(4)
        else:
            async for _ in stream:
                await peer.received(4)
                break
            del stream
        await peer.until(lambda peer: peer.active == 0)
        assert len(peer.requests) <= 5


async def test_a_source_that_fails_ends_the_stream_after_the_results_that_are_known() -> None:
    async def source() -> AsyncIterator[Event]:
        yield new_events(1)[0]
        await peer.until(lambda peer: peer.requests != [] and peer.active == 0)
        yield Event(type="t", source="/s", id="stuck")
        await peer.received(2)
        raise LookupError("source")

    def answer_first(request: Request) -> Step:
        return SILENCE if request["ce-id"] == "stuck" else answer(204)

    seen = []
    async with Peer(answer_first) as peer, Sender(peer.url) as sender:
        with pytest.raises(LookupError, match="source"):
            async for event, result in sender.send_all(source()):
                seen.append((event.get_id(), bool(result)))
        await peer.until(lambda peer: peer.active == 0)
    assert seen == [("0", True)]


async def test_a_result_known_in_the_same_moment_as_the_failure_of_the_source_is_not_lost() -> None:
    both = asyncio.Event()

    async def source() -> AsyncIterator[int]:
        yield 1
        await both.wait()
        raise LookupError

    async def work(item: int) -> int:
        both.set()
        await asyncio.sleep(0)
        return item

    stream = run_bounded(source(), work, 5)
    assert await anext(stream) == 1
    with pytest.raises(LookupError):
        await anext(stream)


async def test_a_plain_source_that_fails_ends_the_stream_too() -> None:
    def source() -> Iterator[Event]:
        yield from new_events(2)
        raise LookupError

    async with Peer(answer(204)) as peer, Sender(peer.url) as sender:
        with pytest.raises(LookupError):
            [pair async for pair in sender.send_all(source())]


@pytest.mark.parametrize("concurrency", [0, -1])
async def test_a_stream_of_no_events_at_a_time_is_refused(concurrency: int) -> None:
    async with Sender("http://127.0.0.1:1/") as sender:
        with pytest.raises(ValueError, match=r"^concurrency: "):
            sender.send_all(new_events(1), concurrency=concurrency)


async def test_an_empty_stream_ends_at_once() -> None:
    async with Sender("http://127.0.0.1:1/") as sender:
        none: list[Event] = []
        assert [pair async for pair in sender.send_all(none)] == []


async def test_one_event_is_not_many() -> None:
    (event,) = new_events(1)
    async with Sender("http://127.0.0.1:1/", max_batch=2) as sender:
        with pytest.raises(TypeError, match="events: must be an iterable of events, not one Event"):
            await sender.send_batch(event)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="events: must be an iterable of events, not one Event"):
            sender.send_all(event)  # type: ignore[type-var]
