"""The receiver without a server: who is let in, who is waited for, and what the waiting is cut short by."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest

from cloudevents_kit import Event
from cloudevents_kit._answer import Answer
from cloudevents_kit._inbound import Inbound, Limits
from tests.support.parts import Gate
from tests.support.servers import ignore

HEADERS = [(b"ce-specversion", b"1.0"), (b"ce-id", b"1"), (b"ce-source", b"/s"), (b"ce-type", b"t")]
LONG = 60.0


def inbound(handler: Any = ignore, **limits: Any) -> Inbound:
    return Inbound(handler, (), Limits(**limits))


async def serve(found: Inbound) -> int:
    """Take one request, as the servers do."""
    assert found.admit("POST") is None
    try:
        return (await found.answer(HEADERS, b"")).status
    finally:
        found.leave()


async def test_a_body_that_is_too_large_or_too_late_is_counted_and_logged_as_any_other_unreadable_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def never() -> bytes:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    found = inbound(max_body=10, body_timeout=0.05)
    large, late = await found.collect(11, never), await found.collect(10, never)
    found.stopping = True
    cut_off = await found.collect(10, never)
    assert [one.status for one in (large, late, cut_off) if isinstance(one, Answer)] == [413, 408, 503]
    assert found.counts == {"unreadable": 2}
    assert caplog.messages == [
        "request refused: the body is larger than 10 bytes",
        "request refused: the body did not arrive in time",
    ]


async def test_nobody_in_flight_is_nobody_to_wait_for() -> None:
    assert await inbound().wait_idle(LONG)


async def test_a_stop_waits_for_the_last_request() -> None:
    gate = Gate()
    found = inbound(gate)
    requests = [asyncio.ensure_future(serve(found)) for _ in range(2)]
    await gate.wait(2)
    waiting = asyncio.ensure_future(found.wait_idle(LONG))
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.leave.set()
    assert await waiting
    assert await asyncio.gather(*requests) == [204, 204]
    assert found.in_flight == 0


async def test_the_grace_ends_and_what_is_cut_off_is_answered() -> None:
    gate = Gate()
    found = inbound(gate)
    request = asyncio.ensure_future(serve(found))
    await gate.wait()
    assert not await found.wait_idle(0.01)
    found.stopping = True
    assert found.cut_off() == 1
    assert await request == 503
    assert gate.ended == ["cancelled"]
    assert await found.wait_idle(LONG)


@pytest.mark.parametrize("when", ["before", "while"])
async def test_a_hurry_ends_every_wait(when: str) -> None:
    gate = Gate()
    found = inbound(gate)
    request = asyncio.ensure_future(serve(found))
    await gate.wait()
    if when == "before":
        found.hurry()
    waits = [asyncio.ensure_future(found.wait_idle(LONG)), asyncio.ensure_future(found.pause(LONG))]
    await asyncio.sleep(0)
    if when == "while":
        found.hurry()
    async with asyncio.timeout(5):
        idle, _ = await asyncio.gather(*waits)
    assert not idle
    gate.leave.set()
    assert await request == 204


async def test_after_a_restart_there_is_no_hurry() -> None:
    found = inbound()
    found.hurry()
    found.stopping = True
    found.reopen()
    assert not found.stopping
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await found.pause(LONG)


async def test_requests_are_counted_in_and_out() -> None:
    """K-S6."""
    gate = Gate()
    found = inbound(gate, max_in_flight=1)
    request = asyncio.ensure_future(serve(found))
    await gate.wait()
    refused = found.admit("POST")
    assert refused is not None
    assert (refused.status, refused.headers["Retry-After"], refused.close) == (503, "1", True)
    gate.leave.set()
    assert await request == 204
    assert await serve(found) == 204
    assert found.counts == {"ack": 2, "refused_busy": 1}


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS", ""])
async def test_another_method_is_not_counted_in(method: str) -> None:
    found = inbound()
    answer = found.admit(method)
    assert answer is not None
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert found.in_flight == 0


@pytest.mark.parametrize("name", [*Limits.__slots__])
@pytest.mark.parametrize("value", [-1, float("inf"), float("nan"), "1", None, True])
def test_a_limit_is_a_number_above_nothing(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{name}: must be "):
        Limits(**{name: value})


async def test_the_limit_is_for_the_body_as_it_came_and_inflated() -> None:
    found = inbound(max_body=50)

    async def answered(body: bytes) -> int:
        gzipped = [*HEADERS, (b"content-encoding", b"gzip")]
        return (await found.answer(gzipped, body)).status

    assert await answered(gzip.compress(bytes(50))) == 204
    assert await answered(gzip.compress(bytes(51))) == 413
    assert (await found.answer(HEADERS, bytes(51))).status == 413


async def test_a_batch_may_be_as_large_as_the_limit() -> None:
    seen: list[Event] = []

    async def handler(event: Event) -> None:
        seen.append(event)

    found = inbound(handler, max_batch=2)
    member = b'{"specversion":"1.0","id":"1","source":"/s","type":"t"}'
    media = [(b"content-type", b"application/cloudevents-batch+json")]
    for count, status in ((0, 204), (2, 204), (3, 413)):
        answer = await found.answer(media, b"[%b]" % b",".join([member] * count))
        assert answer.status == status
    assert len(seen) == 2


async def test_a_request_that_is_cancelled_passes_that_on() -> None:
    """Nobody swallows a cancellation, and nobody counts it as a failure."""
    gate = Gate()
    found = inbound(gate)
    request = asyncio.ensure_future(serve(found))
    await gate.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert (found.in_flight, found.counts, gate.ended) == (0, {}, ["cancelled"])
