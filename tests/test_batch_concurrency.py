"""A batch whose events are handled several at a time is answered as if they had been handled one by one."""

import asyncio
import json
from typing import Any

import pytest

from cloudevents_kit import ACCEPTED, Event, Reject, Retry, current_event
from cloudevents_kit._inbound import Inbound, Limits
from tests.support.parts import Gate
from tests.support.servers import KINDS, Kind, batch, outcome, problem, replying
from tests.support.virtual import virtual

HEADERS = [(b"content-type", b"application/cloudevents-batch+json")]


def body(count: int) -> bytes:
    return json.dumps(
        [{"specversion": "1.0", "id": str(number), "source": "/s", "type": "t"} for number in range(count)]
    ).encode()


def statuses(answer: Any) -> list[int]:
    return [one["status"] for one in json.loads(answer.body)["results"]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [1, 3, 100])
async def test_results_stand_in_the_order_of_the_events(kind: Kind, most: int) -> None:
    """K-E2."""

    async def handler(event: Event) -> Event | Any | None:
        for _ in range(9 - int(event.id)):  # later ones end first
            await asyncio.sleep(0)
        match event.id:
            case "1":
                raise Reject("no")
            case "2":
                return ACCEPTED
            case "3":
                return await replying(event)
            case "4":
                raise ValueError
        return None

    answer = await outcome(kind, handler, batch(*[{}] * 6), batch_concurrency=most)
    assert answer.status == 500
    found = problem(answer)["results"]
    assert [(one["index"], one["status"]) for one in found] == [*enumerate([204, 422, 202, 200, 500, 204])]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_batch_that_was_handled_whole_is_204_and_an_empty_one_too(kind: Kind) -> None:
    seen: list[str] = []

    async def handler(event: Event) -> None:
        seen.append(event.id)

    for count in (0, 1, 5):
        assert (await outcome(kind, handler, batch(*[{}] * count), batch_concurrency=2)).status == 204
    assert seen == ["0", "0", "1", "2", "3", "4"]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_worst_refusal_and_the_longest_wait_answer_the_batch(kind: Kind) -> None:
    async def handler(event: Event) -> None:
        raise Reject("never") if event.id == "0" else Retry(after=2 + int(event.id))

    answer = await outcome(kind, handler, batch({}, {}, {}), batch_concurrency=3)
    assert (answer.status, answer.header("retry-after")) == (503, "4")


@virtual
async def test_no_more_events_than_allowed_are_handled_at_once_and_they_begin_in_order() -> None:
    begun: list[str] = []
    now = most = 0

    async def handler(event: Event) -> None:
        nonlocal now, most
        begun.append(event.id)
        now, most = now + 1, max(most, now + 1)
        await asyncio.sleep(1 + int(event.id) % 3)
        now -= 1

    found = Inbound(handler, (), Limits(batch_concurrency=4))
    assert (await found.answer(HEADERS, body(20))).status == 204
    assert begun == [str(number) for number in range(20)]
    assert most == 4
    assert found.counts == {"ack": 20}


@virtual
async def test_each_event_is_the_current_one_of_its_own_handler() -> None:
    async def handler(event: Event) -> None:
        await asyncio.sleep(1)
        assert current_event() is event

    found = Inbound(handler, (), Limits(batch_concurrency=4))
    assert (await found.answer(HEADERS, body(9))).status == 204
    assert current_event() is None


@virtual
async def test_one_time_limit_holds_for_the_batch_and_what_was_handled_within_it_is_told() -> None:
    ended: list[str] = []

    async def handler(event: Event) -> None:
        if event.id in {"1", "2"}:
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(event.id)
        await asyncio.sleep(1)

    found = Inbound(handler, (), Limits(batch_concurrency=2, handler_timeout=5))
    answer = await found.answer(HEADERS, body(5))
    assert statuses(answer) == [204, 503, 503, 503, 503]
    assert sorted(ended) == ["1", "2"]
    assert found.counts == {"ack": 1, "nack": 4}


@virtual
async def test_no_event_begins_after_the_time_is_over() -> None:
    handled: list[str] = []

    async def stubborn(event: Event) -> None:
        handled.append(event.id)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise Reject("gave up") from None

    found = Inbound(stubborn, (), Limits(batch_concurrency=2, handler_timeout=5))
    assert statuses(await found.answer(HEADERS, body(4))) == [422, 422, 503, 503]
    assert handled == ["0", "1"]


async def test_a_stop_cuts_off_what_is_left_and_says_so() -> None:
    gate = Gate()
    found = Inbound(gate, (), Limits(batch_concurrency=2))
    request = asyncio.ensure_future(found.answer(HEADERS, body(3)))
    await gate.wait(2)
    found.stopping = True
    found.cut_off()
    answer = await request
    assert [(one["status"], one["reason"]) for one in json.loads(answer.body)["results"]] == [
        (503, "the receiver is stopping")
    ] * 3
    assert gate.ended == ["cancelled"] * 2


async def test_a_request_that_is_cancelled_cancels_all_of_its_events() -> None:
    gate = Gate()
    found = Inbound(gate, (), Limits(batch_concurrency=2))
    request = asyncio.ensure_future(found.answer(HEADERS, body(3)))
    await gate.wait(2)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert (gate.ended, found.counts) == (["cancelled"] * 2, {})


async def test_a_handler_that_ends_as_if_cancelled_fails_alone() -> None:
    async def handler(event: Event) -> None:
        if event.id != "2":
            raise asyncio.CancelledError

    found = Inbound(handler, (), Limits(batch_concurrency=2))
    assert statuses(await found.answer(HEADERS, body(4))) == [500, 500, 204, 500]
