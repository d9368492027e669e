"""Requests whose answers come later, as events of their own: matching, time limits, the bounded table, the ends."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import ANY

import pytest
from cloudevents.core.v1.event import CloudEvent

from cloudevents_kit import (
    ACCEPTED,
    Ack,
    Event,
    Handler,
    HandlerSink,
    Nack,
    Outcome,
    Receiver,
    Result,
    RetryPolicy,
    Router,
    Sender,
    Undelivered,
    current_event,
)
from cloudevents_kit.request_reply import Requests
from tests.support.peer import SILENCE, Peer, answer, until

NONE = RetryPolicy.none()
STRUCTURED = [("Content-Type", "application/cloudevents+json")]


def question(id: str = "q-1", **attributes: Any) -> Event:
    return Event(type="com.example.price.asked", source="/customer", id=id, **attributes)


def told(event: Event, **changes: Any) -> Event:
    return event.reply(type="com.example.price.told", source="/shop", data=12.5).evolve(**changes)


def bare(result: Result) -> Result:
    return replace(result, attempts=(), elapsed=0.0)


class Shop:
    """Takes questions, and sends answers to the customer when the test says so."""

    def __init__(self) -> None:
        self.questions: asyncio.Queue[Event] = asyncio.Queue()
        self.passed: list[Event] = []
        """What reached the customer's own handler."""
        self.customer: Sender

    async def take(self, event: Event) -> Outcome:
        await self.questions.put(event)
        return ACCEPTED

    async def keep(self, event: Event) -> None:
        self.passed.append(event)


@asynccontextmanager
async def shop(handler: Handler | None = None, **settings: Any) -> AsyncIterator[tuple[Shop, Requests]]:
    """Serve a shop and its customer; every arrow between them is HTTP."""
    it = Shop()
    async with Receiver(it.take, port=0) as there, Sender(there.url, retry=NONE) as to_shop:
        requests = Requests(to_shop, **settings)
        async with Receiver(handler or it.keep, requests, port=0) as here, Sender(here.url, retry=NONE) as it.customer:
            yield it, requests
    assert requests.waiting == 0


# Matching.


async def test_an_answer_that_comes_later_is_the_result() -> None:
    async with shop() as (it, requests):
        asking = asyncio.ensure_future(requests.request(question()))
        taken = await it.questions.get()
        assert requests.waiting == 1
        reply = told(taken)
        assert bare(await it.customer.send(reply)) == Ack(status=204)
        result = await asking
    assert bare(result) == Ack(status=202, reply=reply)
    assert [attempt.status for attempt in result.attempts] == [202]
    assert it.passed == []


async def test_answers_find_their_requests_in_any_order() -> None:
    async with shop() as (it, requests):
        asking = [asyncio.ensure_future(requests.request(question(str(n)))) for n in range(5)]
        taken = [await it.questions.get() for _ in asking]
        assert all([await it.customer.send(told(one, data=one.id)) for one in reversed(taken)])
        results = await asyncio.gather(*asking)
    assert [isinstance(result, Ack) and result.reply and result.reply.data for result in results] == [*"01234"]


async def test_a_request_goes_out_with_a_correlation_of_its_own_or_the_one_it_has() -> None:
    async with shop(timeout=0.05) as (it, requests):
        await asyncio.gather(requests.request(question()), requests.request(question("q-2", correlationid="c-1")))
        taken = [await it.questions.get() for _ in range(2)]
    assert sorted((one.id, one["correlationid"]) for one in taken) == [("q-1", "q-1"), ("q-2", "c-1")]


@pytest.mark.parametrize(
    ("changes", "matches"),
    [
        ({}, True),
        ({"causationid": None}, True),  # the correlation is enough: no other request has it
        ({"correlationid": None}, True),
        ({"correlationid": "other"}, False),
        ({"causationid": "other"}, False),  # caused by something else in the same conversation
        ({"causationid": None, "correlationid": None}, False),
        ({"causationid": None, "correlationid": "other"}, False),
    ],
)
async def test_an_answer_names_its_request_in_causationid_or_shares_its_correlation(
    changes: dict[str, Any], matches: bool
) -> None:
    async with shop(timeout=5 if matches else 0.1) as (it, requests):
        asking = asyncio.ensure_future(requests.request(question()))
        reply = told(await it.questions.get(), **changes)
        assert await it.customer.send(reply)
        result = await asking
    assert isinstance(result, Ack)
    assert result.reply == (reply if matches else None)
    assert it.passed == ([] if matches else [reply])


async def test_a_correlation_that_two_requests_share_is_not_enough() -> None:
    async with shop() as (it, requests):
        asking = [asyncio.ensure_future(requests.request(question(id, correlationid="c"))) for id in ("1", "2")]
        taken = [await it.questions.get() for _ in asking]
        either = told(taken[0], causationid=None)
        assert await it.customer.send(either)
        assert it.passed == [either]
        for one in taken:
            assert await it.customer.send(told(one, data=one.id))
        results = await asyncio.gather(*asking)
    assert [isinstance(result, Ack) and result.reply and result.reply.data for result in results] == ["1", "2"]


async def test_a_request_that_a_broker_returns_is_not_its_own_answer() -> None:
    async with shop() as (it, requests):
        asking = asyncio.ensure_future(requests.request(question()))
        taken = await it.questions.get()
        assert await it.customer.send(taken)
        assert it.passed == [taken]
        assert await it.customer.send(told(taken))
        assert await asking


async def test_events_that_nobody_waits_for_pass_on() -> None:
    async with shop() as (it, _):
        assert await it.customer.send(question())
        assert await it.customer.send(told(question()))
    assert [event.type for event in it.passed] == ["com.example.price.asked", "com.example.price.told"]


async def test_an_answer_that_comes_in_the_http_answer_is_taken_too() -> None:
    """The other side decides which form it uses."""

    async def at_once(event: Event) -> Event:
        return told(event, id="r")

    requests = Requests(HandlerSink(at_once))
    result = await requests.request(question())
    assert isinstance(result, Ack)
    assert result.reply is not None
    assert (result.status, result.reply.id, requests.waiting) == (200, "r", 0)


async def test_a_broken_answer_in_the_http_answer_gives_way_to_the_one_that_comes_later() -> None:
    async with Peer(answer(200, STRUCTURED, b"{}")) as peer, Sender(peer.url) as sender:
        requests = Requests(sender)
        asking = asyncio.ensure_future(requests.request(question(correlationid="c")))
        await peer.received(1)
        reply = told(question(correlationid="c"))
        assert await HandlerSink(_nobody, requests).send(reply)
        assert bare(await asking) == Ack(status=200, reply=reply)


async def test_an_answer_may_come_before_the_request_is_acknowledged() -> None:
    gate = asyncio.Event()
    async with Peer(replace(answer(202), gate=gate)) as peer, Sender(peer.url) as sender:
        requests = Requests(sender, timeout=0.05)
        asking = asyncio.ensure_future(requests.request(question()))
        await peer.received(1)
        reply = told(question())
        assert await HandlerSink(_nobody, requests).send(reply)
        gate.set()
        assert bare(await asking) == Ack(status=202, reply=reply)


@pytest.mark.parametrize("step", [answer(500), replace(SILENCE, then="close")])
async def test_an_answer_proves_that_the_request_arrived_whatever_became_of_its_delivery(step: Any) -> None:
    gate = asyncio.Event()
    async with Peer(replace(step, gate=gate)) as peer, Sender(peer.url, retry=NONE) as sender:
        requests = Requests(sender)
        asking = asyncio.ensure_future(requests.request(question()))
        await peer.received(1)
        reply = told(question())
        assert await HandlerSink(_nobody, requests).send(reply)
        gate.set()
        result = await asking
    assert bare(result) == Ack(reply=reply)
    assert len(result.attempts) == 1
    assert result.elapsed > 0


async def test_of_two_answers_the_first_counts_and_the_second_is_not_waited_for() -> None:
    async with shop() as (it, requests):
        asking = asyncio.ensure_future(requests.request(question()))
        taken = await it.questions.get()
        first, second = told(taken, id="1"), told(taken, id="2")
        assert await it.customer.send(first)
        assert bare(await asking) == Ack(status=202, reply=first)
        assert await it.customer.send(second)
    assert it.passed == [second]


async def test_two_answers_in_the_same_moment_are_one() -> None:
    requests = Requests(HandlerSink(_accept))
    asking = asyncio.ensure_future(requests.request(question()))
    await until(lambda: requests.waiting == 1)
    sink = HandlerSink(_nobody, requests)
    first, second = told(question(), id="1"), told(question(), id="2")
    for reply in (first, second):  # before the one who asked can run
        assert await sink.send(reply) == Ack(status=204)
    assert bare(await asking) == Ack(status=202, reply=first)


# Time limits, and other ends without an answer.


async def test_no_answer_in_time_is_an_ack_that_says_so() -> None:
    """The request was delivered, that much is sure; only an Undelivered could be possibly delivered."""
    async with shop(timeout=0.05) as (_, requests):
        result = await requests.request(question())
        assert requests.waiting == 0
    assert bare(result) == Ack(status=202, reply_error="no answer within 0.05 s")
    assert result.elapsed >= 0.05


async def test_the_time_until_the_answer_is_part_of_elapsed() -> None:
    async with shop() as (it, requests):
        asking = asyncio.ensure_future(requests.request(question()))
        taken = await it.questions.get()
        await asyncio.sleep(0.05)
        assert await it.customer.send(told(taken))
        result = await asking
    assert 0.05 <= result.elapsed < 1


async def test_the_time_limit_begins_when_the_request_is_acknowledged() -> None:
    gate = asyncio.Event()
    async with Peer(replace(answer(202), gate=gate)) as peer, Sender(peer.url) as sender:
        requests = Requests(sender, timeout=0.1)
        asking = asyncio.ensure_future(requests.request(question()))
        await peer.received(1)
        await asyncio.sleep(0.15)
        assert not asking.done()
        gate.set()
        result = await asking
    assert isinstance(result, Ack)
    assert result.reply_error is not None
    assert result.elapsed >= 0.24


async def test_a_late_answer_passes_on_to_the_handlers_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    router = Router()
    with caplog.at_level(logging.WARNING):
        async with shop(router, timeout=0.05) as (it, requests):
            assert await requests.request(question())
            result = await it.customer.send(told(await it.questions.get()))
    assert isinstance(result, Nack)
    assert (result.status, result.retryable, router.unhandled_count) == (422, False, 1)


@pytest.mark.parametrize(
    ("step", "result"),
    [
        (answer(422, (), b"no such item"), Nack(status=422, reason="no such item")),
        (answer(503), Nack(status=503, reason="Service Unavailable", retryable=True)),
        (SILENCE, Undelivered(reason="timeout", error="no answer in time", possibly_delivered=True)),
    ],
)
async def test_a_request_that_is_not_acknowledged_ends_at_once(step: Any, result: Result) -> None:
    async with Peer(step) as peer, Sender(peer.url, retry=NONE, timeout=0.05) as sender:
        requests = Requests(sender, timeout=60)
        async with asyncio.timeout(1):
            assert bare(await requests.request(question())) == result
    assert requests.waiting == 0


async def test_a_request_through_a_closed_sender_ends_at_once() -> None:
    async with Sender("http://127.0.0.1:1/") as sender:
        pass
    result = await Requests(sender).request(question())
    assert result == Undelivered(reason="closed", error="the sender is closed", attempts=result.attempts, elapsed=ANY)


async def test_closing_the_sender_does_not_end_the_waiting_for_an_answer() -> None:
    """The request has arrived; its answer comes to the receiver."""
    acknowledged = asyncio.Event()

    class Noting:
        async def send(self, event: Event, /) -> Result:
            result = await sender.send(event)
            acknowledged.set()
            return result

    async with Peer(answer(202)) as peer, Sender(peer.url) as sender:
        requests = Requests(Noting())
        asking = asyncio.ensure_future(requests.request(question()))
        await acknowledged.wait()
    reply = told(question())
    assert await HandlerSink(_nobody, requests).send(reply)
    assert bare(await asking) == Ack(status=202, reply=reply)


@pytest.mark.parametrize("acknowledged", [False, True])
async def test_a_request_that_is_cancelled_leaves_nothing_in_the_table(acknowledged: bool) -> None:
    async with Peer(answer(202) if acknowledged else SILENCE) as peer, Sender(peer.url) as sender:
        requests = Requests(sender)
        asking = asyncio.ensure_future(requests.request(question()))
        await peer.until(lambda peer: bool(peer.requests) and bool(peer.active) is not acknowledged)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert requests.waiting == 0
        passed: list[Event] = []
        assert await HandlerSink(passed.append, requests).send(told(question()))
        assert len(passed) == 1


async def test_an_error_of_the_sink_leaves_nothing_in_the_table() -> None:
    class Broken:
        async def send(self, event: Event, /) -> Result:
            raise LookupError

    requests = Requests(Broken())
    with pytest.raises(LookupError):
        await requests.request(question())
    assert requests.waiting == 0


# The table.


async def test_more_requests_than_the_limit_are_told_so_and_not_sent() -> None:
    async with shop(limit=2) as (it, requests):
        asking = [asyncio.ensure_future(requests.request(question(str(n)))) for n in range(2)]
        await until(lambda: requests.waiting == 2)
        result = await requests.request(question("2"))
        assert result == Undelivered(reason="overload", error="2 requests are waiting for their answers already")
        taken = [await it.questions.get() for _ in asking]
        assert all([await it.customer.send(told(one)) for one in taken])
        assert all(await asyncio.gather(*asking))
        assert it.questions.empty()
        asking = [asyncio.ensure_future(requests.request(question("2")))]  # there is room again
        assert await it.customer.send(told(await it.questions.get()))
        assert await asking[0]


async def test_an_id_may_be_used_again_once_its_request_has_ended() -> None:
    async with shop() as (it, requests):
        asking = asyncio.ensure_future(requests.request(question()))
        taken = await it.questions.get()
        with pytest.raises(ValueError, match=r"^id: "):
            await requests.request(question().evolve(source="/other"))
        assert await it.customer.send(told(taken))
        assert await asking
        asking = asyncio.ensure_future(requests.request(question()))
        assert await it.customer.send(told(await it.questions.get()))
        assert await asking


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timeout": 0}, r"^timeout: must be above 0 and finite, not 0"),
        ({"timeout": float("inf")}, r"^timeout: "),
        ({"timeout": float("nan")}, r"^timeout: "),
        ({"limit": 0}, r"^limit: must be 1 or more, not 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Requests(HandlerSink(_accept), **settings)


# What may be asked, and where.


async def test_an_event_of_the_official_sdk_is_asked_as_it_is() -> None:
    async with shop() as (it, requests):
        asking = asyncio.ensure_future(requests.request(CloudEvent({"id": "s", "source": "/customer", "type": "t"})))
        taken = await it.questions.get()
        assert taken.id == "s"
        assert await it.customer.send(told(taken))
        assert await asking


async def test_an_event_of_the_official_sdk_that_is_broken_is_not_sent() -> None:
    broken = CloudEvent({"id": "s", "source": "/customer", "type": "t"})
    broken._attributes["source"] = ""
    result = await Requests(HandlerSink(_nobody)).request(broken)
    assert result == Undelivered(reason="invalid-event", error="source: must not be empty (for example /orders)")


async def test_what_is_no_event_at_all_raises_at_once() -> None:
    with pytest.raises(TypeError, match="an Event"):
        await Requests(HandlerSink(_nobody)).request("no event")  # type: ignore[arg-type]


async def test_a_request_inside_a_handler_inherits_its_correlation() -> None:
    """K-E4, also where the answer comes later: two requests of one handler share a correlation and are told apart."""
    answers: list[Any] = []

    async def handle(event: Event) -> None:
        asked = [requests.request(question(id, time=None)) for id in ("1", "2")]
        answers.extend(await asyncio.gather(*asked))
        assert current_event() == event

    async with shop(handle) as (it, requests):
        sending = asyncio.ensure_future(it.customer.send(Event(type="t", source="/s", id="o-1", correlationid="c-1")))
        taken = [await it.questions.get() for _ in range(2)]
        assert {(one["correlationid"], one["causationid"]) for one in taken} == {("c-1", "o-1")}
        for one in reversed(taken):
            assert await it.customer.send(told(one, data=one.id))
        assert await sending
    assert [result.reply.data for result in answers] == ["1", "2"]


async def _nobody(event: Event) -> None:
    raise AssertionError("nobody expects this event")


async def _accept(event: Event) -> Outcome:
    return ACCEPTED
