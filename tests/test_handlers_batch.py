"""The handler's end for each event of a batch decides the answer to the batch, by both receivers."""

import asyncio
import json
from typing import Any

import pytest

from cloudevents_kit import ACCEPTED, Event, Reject, Retry
from tests.support.servers import KINDS, Kind, batch, outcome, problem, raising, replying, returning

pytestmark = pytest.mark.parametrize("kind", KINDS)


async def test_a_batch_answers_204_when_every_event_was_handled_and_once_each(kind: Kind) -> None:
    seen: list[str] = []

    def handler(event: Event) -> None:
        seen.append(event.id)

    assert (await outcome(kind, handler, batch({}, {}, {}))).status == 204
    assert seen == ["0", "1", "2"]


async def test_an_empty_batch_is_204_without_a_call(kind: Kind) -> None:
    assert (await outcome(kind, raising(RuntimeError()), batch())).status == 204


async def test_a_batch_tells_per_event_which_one_failed(kind: Kind) -> None:
    """K-E2; but a batch with a broken member is refused whole, before any handler runs (design.md, section 4)."""
    seen: list[str] = []

    async def handler(event: Event) -> Event | Any | None:
        seen.append(event.id)
        if event.id == "1":
            raise Reject("bad\norder")
        if event.id == "2":
            return ACCEPTED
        return await replying(event) if event.id == "3" else None

    answer = await outcome(kind, handler, batch({}, {}, {}, {}))
    assert answer.status == 422
    found = problem(answer)
    assert found["detail"] == "1 of 4 events were refused"
    assert [(one["index"], one["status"]) for one in found["results"]] == [(0, 204), (1, 422), (2, 202), (3, 200)]
    assert found["results"][1]["reason"] == "bad"
    assert seen == ["0", "1", "2", "3"]


async def test_a_batch_with_a_broken_member_is_refused_with_its_index_before_any_handler_runs(kind: Kind) -> None:
    """K-E2, as design.md, section 4 decides."""
    seen: list[str] = []
    answer = await outcome(kind, lambda event: seen.append(event.id), batch({}, {"id": ""}, {}))
    assert answer.status == 400
    assert "1" in problem(answer)["detail"]
    assert not seen


async def test_a_batch_answers_with_the_refusal_that_is_to_be_tried_again(kind: Kind) -> None:
    async def handler(event: Event) -> None:
        raise Reject("never") if event.id == "0" else Retry(after=2 + int(event.id))

    answer = await outcome(kind, handler, batch({}, {}, {}))
    assert (answer.status, answer.header("retry-after")) == (503, "4")


async def test_a_batch_answers_with_the_replies_or_with_202(kind: Kind) -> None:
    answer = await outcome(kind, replying, batch({}, {}))
    assert (answer.status, answer.header("content-type")) == (200, "application/cloudevents-batch+json")
    assert [event["causationid"] for event in json.loads(answer.body)] == ["0", "1"]
    assert (await outcome(kind, returning(ACCEPTED), batch({}, {}))).status == 202


async def test_a_batch_has_one_time_limit_and_lists_what_was_handled_within_it(kind: Kind) -> None:
    handled: list[str] = []

    async def slow(event: Event) -> None:
        if event.id == "1":
            await asyncio.Event().wait()
        handled.append(event.id)

    answer = await outcome(kind, slow, batch({}, {}, {}), handler_timeout=0.05)
    late = {"status": 503, "reason": "the handler ran out of time"}
    assert answer.status == 503
    assert problem(answer)["results"] == [{"index": 0, "status": 204}, {"index": 1, **late}, {"index": 2, **late}]
    assert handled == ["0"]


async def test_a_batch_does_not_go_on_after_its_time_is_over(kind: Kind) -> None:
    handled: list[str] = []

    async def stubborn(event: Event) -> None:
        handled.append(event.id)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise Reject("gave up") from None

    async with asyncio.timeout(2):
        answer = await outcome(kind, stubborn, batch({}, {}), handler_timeout=0.05)
    assert [one["status"] for one in problem(answer)["results"]] == [422, 503]
    assert handled == ["0"]
