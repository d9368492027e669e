"""What a sender never waits for: its closing and its deadline end every wait, and nothing stays behind."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from multidict import CIMultiDict

from cloudevents_kit import Ack, Event, Nack, Receiver, Reject, RetryPolicy, Sender, Undelivered
from cloudevents_kit._client import _decoded
from cloudevents_kit._deadline import Deadlines
from tests.support.peer import CLOSE, SILENCE, Peer, answer, until

EVENT = Event(type="com.example.order.created", source="/orders", id="o-1", data={"id": 1})
NONE = RetryPolicy.none()


async def hang() -> Mapping[str, str]:
    await asyncio.Event().wait()
    return {}


async def test_a_headers_function_that_hangs_is_cut_off_like_a_request() -> None:
    async with Peer(answer(204)) as peer, Sender(peer.url, retry=NONE, timeout=0.05, headers=hang) as sender:
        result = await sender.send(EVENT)
    assert isinstance(result, Undelivered)
    assert (result.reason, result.possibly_delivered, peer.requests) == ("headers", False, [])


async def test_a_headers_function_is_held_to_the_deadline_over_all_attempts() -> None:
    policy = RetryPolicy(attempts=9, initial=0.01, deadline=0.2)
    async with Peer(answer(204)) as peer, Sender(peer.url, retry=policy, timeout=0.15, headers=hang) as sender:
        began = time.monotonic()
        result = await sender.send(EVENT)
    assert time.monotonic() - began < 0.3
    assert len(result.attempts) == 2


async def test_a_headers_function_may_send_by_the_sender_it_is_for() -> None:
    """To ask for a token, say: without headers of its own that would never end."""
    async with Peer(answer(204)) as peer, Sender(peer.url, retry=NONE) as sender:

        async def ask_first() -> Mapping[str, str]:
            return {"X-Token": "yes" if await sender.send(EVENT.evolve(id="token")) else "no"}

        assert await sender.send(EVENT, headers=ask_first)
    assert [request["ce-id"] for request in peer.requests] == ["token", "o-1"]
    assert peer.requests[1]["X-Token"] == "yes"


async def test_a_refusal_with_410_ends_the_destination_whatever_its_body_says() -> None:
    script = answer(410, [("Content-Type", "application/json")], b'{"results": "none"}')
    async with Peer(script) as peer, Sender(peer.url, retry=NONE, max_batch=2) as sender:
        assert isinstance(await sender.send(EVENT), Nack)
        after = await sender.send(EVENT)
    assert isinstance(after, Undelivered)
    assert (after.reason, len(peer.requests)) == ("gone", 1)


@pytest.mark.parametrize("deadline", [60.0, None])
@pytest.mark.parametrize("script", [answer(503), answer(503, [("Retry-After", "30")]), CLOSE])
async def test_closing_ends_a_wait_before_the_next_attempt(script: Any, deadline: float | None) -> None:
    policy = RetryPolicy(attempts=3, initial=30, jitter=False, deadline=deadline)
    async with Peer(script) as peer, Sender(peer.url, retry=policy) as sender:
        sending = asyncio.ensure_future(sender.send(EVENT))
        await until(lambda: len(peer.requests) == 1)
        await asyncio.sleep(0.02)  # the answer is read, and the wait begins
        await sender.close()
        async with asyncio.timeout(0.5):
            result = await sending
    assert isinstance(result, Undelivered)
    assert (result.reason, len(peer.requests)) == ("closed", 1)
    assert result.possibly_delivered is (script is CLOSE)


async def test_closing_ends_a_pause_that_the_destination_asked_for() -> None:
    async with Peer(answer(429, [("Retry-After", "30")])) as peer, Sender(peer.url, retry=NONE) as sender:
        assert isinstance(await sender.send(EVENT), Nack)
        sending = asyncio.ensure_future(sender.send(EVENT))
        await asyncio.sleep(0.02)
        assert not sending.done()
        await sender.close()
        async with asyncio.timeout(0.5):
            result = await sending
    assert isinstance(result, Undelivered)
    assert (result.reason, result.possibly_delivered) == ("closed", False)


async def test_a_first_attempt_that_gets_no_slot_before_the_deadline_is_not_made() -> None:
    policy = RetryPolicy(attempts=1, deadline=0.1)
    slow = replace(SILENCE, gate=asyncio.Event())
    async with Peer(slow) as peer, Sender(peer.url, retry=policy, concurrency=1, timeout=5) as sender:
        first, *queued = await asyncio.gather(*[sender.send(EVENT) for _ in range(4)])
    assert isinstance(first, Undelivered)
    assert first.reason == "timeout"
    assert len(peer.requests) == 1
    for result in queued:
        assert isinstance(result, Undelivered)
        assert (result.reason, result.possibly_delivered, result.attempts) == ("overload", False, ())
        assert result.elapsed < 0.2


async def test_batches_that_wait_for_their_turn_lose_no_time_of_their_own() -> None:
    """More batches than slots are no overload: the deadline of each begins with its turn."""
    policy = RetryPolicy(attempts=1, deadline=0.3)
    slow = replace(answer(204), piece=1, pause=0.005)  # about 0.15 s
    async with Peer(slow) as peer, Sender(peer.url, retry=policy, concurrency=1, max_batch=1) as sender:
        results = await sender.send_batch([EVENT.evolve(id=str(number)) for number in range(4)])
    assert [type(result) for result in results] == [Ack] * 4
    assert len(peer.requests) == 4


async def test_a_shortened_time_limit_leaves_no_timer_behind() -> None:
    deadlines = Deadlines(60)
    with deadlines:
        deadlines.shorten(30)
        (timer,) = deadlines._shortened.values()
    assert timer.cancelled()
    assert not deadlines._shortened
    deadlines.close()


async def test_one_event_of_a_batch_that_is_refused_with_410_closes_no_destination() -> None:
    async def handler(event: Event) -> None:
        if event.id == "1":
            raise Reject("this order is gone", 410)

    async with Receiver(handler, port=0) as receiver, Sender(receiver.url, max_batch=3) as sender:
        results = await sender.send_batch([EVENT.evolve(id=str(number)) for number in range(3)])
        assert [result.is_ack for result in results] == [True, False, True]
        assert await sender.send(EVENT)
        assert isinstance(await sender.send(EVENT.evolve(id="1")), Nack)
        after = await sender.send(EVENT)
    assert isinstance(after, Undelivered)
    assert after.reason == "gone"


@pytest.mark.parametrize(("coding", "kept"), [("br", 1), ("GZIP", 1), ("x-odd", 2)])
def test_a_coding_that_the_session_has_undone_is_not_undone_again(coding: str, kept: int) -> None:
    """Which ones a session undoes depends on what is installed beside it."""
    headers = [("Content-Type", "application/json"), ("Content-Encoding", coding)]
    raw = tuple((name.encode(), value.encode()) for name, value in headers)
    answered: Any = SimpleNamespace(raw_headers=raw, headers=CIMultiDict(headers))
    assert _decoded(answered) == raw[:kept]
