"""`FanOut`: everybody who wants an event has it, each has a result, and all have one."""

import threading
from dataclasses import dataclass
from typing import Any

import pytest
from cloudevents.v1.http import CloudEvent

from cloudevents_kit import (
    ACCEPTED,
    Ack,
    DeliveryError,
    Event,
    EventError,
    Nack,
    Receiver,
    Result,
    RetryPolicy,
    Sender,
    filters,
    forward,
)
from cloudevents_kit.pubsub import FanOut, PartialAck, Subscription, quorum
from tests.support.branches import DOWN, SECRET, Seen, Slow
from tests.support.events import new
from tests.support.outcomes import ScriptedSink
from tests.support.pubsub import LIMITS, NO_ANSWER, Reports, outcomes, reason, three
from tests.support.virtual import LoopClock, virtual

# A result per subscriber, and one for all.


@LIMITS
async def test_every_subscriber_has_its_result_and_all_have_one(limit: int | None) -> None:
    seen, reports = Seen(), Reports()
    reply = new(id="2")
    subscriptions = [*three(seen), Subscription("d", seen.handler("d", reply))]
    fan_out = FanOut(subscriptions, limit=limit, report=reports)
    published = await fan_out.publish(new())
    assert dict(published) == {"a": Ack(), "b": Ack(), "c": Ack(), "d": Ack(status=200, reply=reply)}
    assert [*published] == ["a", "b", "c", "d"]
    assert (published.result, len(published), published.failed) == (Ack(), 4, {})
    published.raise_for_failed()
    assert sorted(seen) == ["a", "b", "c", "d"]
    assert reports == [("1", {"a": "ack", "b": "ack", "c": "ack", "d": "ack"})]
    assert fan_out.counts == {}
    assert await fan_out.send(new()) == Ack()


@LIMITS
@pytest.mark.parametrize("down", [DOWN, NO_ANSWER])
async def test_with_policy_all_one_that_is_down_fails_the_event_with_the_result_of_each(
    limit: int | None, down: Result
) -> None:
    """K-C6.1."""
    seen = Seen()
    fan_out = FanOut(three(seen, down), limit=limit)
    published = await fan_out.publish(new())
    assert dict(published) == {"a": Ack(), "b": down, "c": Ack()}
    assert published.failed == {"b": down}
    assert sorted(seen) == ["a", "b", "c"]
    expected = (
        Nack(503, "1 of 3 subscribers failed: b (503)", retryable=True, retry_after=7.0)
        if down is DOWN
        else Nack(502, "1 of 3 subscribers failed: b (refused)", retryable=True)
    )
    assert published.result == await fan_out.send(new()) == expected
    with pytest.raises(ExceptionGroup) as caught:
        published.raise_for_failed()
    (error,) = caught.value.exceptions
    assert isinstance(error, DeliveryError)
    assert error.result == down
    assert fan_out.counts == {"failed.b": 2}


async def test_a_subscriber_that_is_gone_closes_nothing_but_itself() -> None:
    gone = Nack(410, "moved away", retryable=False)
    published = await FanOut(three(Seen(), gone)).publish(new())
    assert published.failed == {"b": gone}
    assert published.result == Nack(422, "1 of 3 subscribers failed: b (410)", retryable=False)


@pytest.mark.parametrize(("count", "acknowledged"), [(1, True), (2, True), (3, False)])
async def test_a_quorum_is_enough_and_tells_who_failed(
    count: int, acknowledged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """K-C6.1."""
    result = await FanOut(three(Seen(), DOWN), policy=quorum(count)).send(new())
    assert result.is_ack is acknowledged
    if acknowledged:
        assert result == PartialAck(failed={"b": DOWN})
        assert "fan_out: went on without b (503): id='1'" in caplog.text


async def test_a_quorum_that_cannot_be_reached_sends_nothing() -> None:
    seen = Seen()
    fan_out = FanOut(three(seen), policy=quorum(4))
    result = await fan_out.send(new())
    assert result == Nack(503, "quorum(4) cannot be reached: subscribers that want this: 3", retryable=True)
    assert (seen, fan_out.counts) == ([], {"refused": 1})


async def test_best_effort_acknowledges_and_tells_who_failed() -> None:
    """K-C6.1. And calls the failure hook."""
    reports = Reports()
    failing = [Subscription("a", Seen().failing("a", OSError(SECRET))), Subscription("b", ScriptedSink(DOWN))]
    fan_out = FanOut(failing, policy="best_effort", report=reports)
    result = await fan_out.send(new())
    assert isinstance(result, PartialAck)
    assert {name: one.outcome for name, one in result.failed.items()} == {"a": "nack", "b": "nack"}
    assert SECRET not in repr(result)
    assert reports == [("1", {"a": "nack", "b": "nack"})]
    assert result.raise_for_outcome() is result


async def test_what_a_subscriber_has_only_stored_is_told_as_stored() -> None:
    assert await FanOut([*three(Seen()), Subscription("d", Seen().handler("d", ACCEPTED))]).send(new()) == Ack(
        status=202
    )


async def test_it_is_a_sink_over_the_wire() -> None:
    seen = Seen()
    fan_out = FanOut(three(seen, NO_ANSWER))
    async with (
        Receiver(forward(fan_out), port=0) as receiver,
        Sender(receiver.url, retry=RetryPolicy.none()) as sender,
    ):
        refused = await sender.send(new())
        fan_out.cancel("b")
        assert await sender.send(new())
    assert (reason(refused), seen) == ("1 of 3 subscribers failed: b (refused)", ["a", "b", "c", "a", "c"])


@pytest.mark.parametrize(("limit", "seconds"), [(1, 10), (2, 5), (3, 4), (10, 1), (None, 1)])
@virtual
async def test_no_more_than_the_limit_have_an_event_at_once(
    clock: LoopClock, limit: int | None, seconds: float
) -> None:
    """K-C6.2. Limit 2 and 10 subscribers."""
    slow = Slow(1)
    fan_out = FanOut([Subscription(str(number), slow) for number in range(10)], limit=limit)
    assert (await fan_out.publish(new())).result
    assert (slow.most, len(slow.ended)) == (limit or 10, 10)
    assert clock.monotonic() == pytest.approx(seconds)


async def test_an_invalid_event_is_undelivered() -> None:
    seen = Seen()
    fan_out = FanOut(three(seen))
    nothing: Any = object()
    with pytest.raises(TypeError):
        await fan_out.publish(nothing)
    broken: Any = CloudEvent({"type": "t", "source": "/s"}, None)
    broken["Bad_Name"] = "x"
    assert reason(await fan_out.send(broken)) == "invalid-event"
    for publish in (fan_out.publish, fan_out.publish_soon):
        with pytest.raises(EventError):
            await publish(broken)
    assert seen == []
    theirs: Any = CloudEvent({"type": "t", "source": "/s"}, None)
    assert await fan_out.send(theirs)


# Who wants what.


async def test_only_those_who_want_an_event_get_it_and_after_cancel_none() -> None:
    """K-C6.3. By type prefix and source."""
    seen = Seen()
    fan_out = FanOut(
        [
            Subscription("orders", seen.handler("orders"), filters.prefix(type="com.example.order.")),
            Subscription("shop", seen.handler("shop"), filters.exact(source="/shop")),
        ],
        unhandled="ack",
    )

    async def got(**given: str) -> list[str]:
        seen.clear()
        assert await fan_out.send(new(**given))
        return [*seen]

    assert await got(type="com.example.order.created", source="/shop") == ["orders", "shop"]
    assert await got(type="com.example.order.created", source="/x") == ["orders"]
    assert await got(type="com.example.stock", source="/shop") == ["shop"]
    assert await got(type="com.example.stock", source="/x") == []
    assert fan_out.cancel("orders")
    assert await got(type="com.example.order.created", source="/shop") == ["shop"]
    assert fan_out.cancel("shop")
    assert not fan_out.cancel("shop")
    assert await got(type="com.example.order.created", source="/shop") == []
    assert fan_out.counts == {"unhandled": 2}


async def test_an_event_that_nobody_wants_is_no_silent_success(caplog: pytest.LogCaptureFixture) -> None:
    fan_out = FanOut([Subscription("a", Seen().handler("a"), filters.exact(type="other"))])
    published = await fan_out.publish(new())
    assert (dict(published), published.result) == ({}, Nack(422, "no subscriber wants this event"))
    assert not await fan_out.publish_soon(new())
    assert fan_out.counts == {"unhandled": 2}
    assert "fan_out: no subscriber for event: id='1'" in caplog.text
    quiet = FanOut(unhandled="ack")
    assert await quiet.send(new()) == Ack()
    assert await quiet.publish_soon(new())


def test_who_may_get_events_of_a_type_is_told_in_order() -> None:
    def odd(event: Event) -> bool:
        return event.id == "1"

    handler = Seen().handler("x")
    fan_out = FanOut(
        [
            Subscription("late", handler, order=1),
            Subscription("all", handler),
            Subscription("exact", handler, filters.exact(type="a.b")),
            Subscription("prefix", handler, filters.prefix(type="a.", source="/s")),
            Subscription("other", handler, filters.exact(type="z")),
            Subscription("not", handler, filters.not_(filters.suffix(type=".b"))),
            Subscription("sql", handler, filters.sql("source = '/s'")),
            Subscription("not sql", handler, filters.not_(filters.sql("source = '/s'"))),
            Subscription("any", handler, filters.any_of(filters.exact(type="a.b"), filters.exact(source="/s"))),
            Subscription("none of any", handler, filters.any_of(filters.exact(type="x"), filters.exact(type="y"))),
            Subscription("array", handler, filters.from_json([])),
            Subscription("function", handler, odd),
            Subscription("early", handler, order=-1),
        ]
    )
    assert fan_out.subscribers_for("a.b") == (
        "early", "all", "exact", "prefix", "sql", "not sql", "any", "array", "function", "late",
    )  # fmt: skip
    assert "not" in fan_out.subscribers_for("a.c")
    assert "any" in fan_out.subscribers_for("a.c")  # the source decides


async def test_subscriptions_come_and_go_while_it_runs() -> None:
    seen = Seen()
    fan_out = FanOut([Subscription("a", seen.handler("a"))])
    await fan_out.send(new())
    fan_out.subscribe(Subscription("b", seen.handler("b"), order=-1))
    await fan_out.send(new())
    with pytest.raises(ValueError, match=r"b: there is a subscription of this name already"):
        fan_out.subscribe(Subscription("b", seen.handler("b")))
    fan_out.cancel("a")
    await fan_out.send(new())
    fan_out.subscribe(Subscription("a", seen.handler("a")))
    await fan_out.send(new())
    assert seen == ["a", "b", "a", "b", "b", "a"]
    assert [*fan_out.branches] == ["b", "a"]


@dataclass
class Order:
    sku: str


async def test_handlers_subscribe_to_patterns_as_they_do_to_a_router() -> None:
    fan_out = FanOut(limit=1)
    seen: list[Any] = []

    @fan_out.on("com.example.order.*", order=1)
    async def typed(event: Event, order: Order) -> None:
        assert threading.current_thread() is threading.main_thread()
        seen.append(order)

    @fan_out.on("com.example.order.created", source="/shop", subject="order/*", name="mail")
    def plain(event: Event) -> None:
        seen.append("mail")

    @fan_out.on("*", source="*", subject="*")
    async def with_subject(event: Event) -> None:
        seen.append("subject")

    @fan_out.on("*")
    async def everything(event: Event) -> None:
        seen.append("everything")

    event = new(type="com.example.order.created", source="/shop", subject="order/1", data={"sku": "x"})
    assert (await fan_out.publish(event)).result
    assert seen == ["mail", "subject", "everything", Order("x")]
    assert fan_out.subscribers_for("com.example.order") == ("with_subject", "everything")
    published = await fan_out.publish(new(type="com.example.order.x", data=1))
    assert outcomes(published) == {"everything": "ack", "typed": "nack"}
    assert published["typed"].is_nack
    assert isinstance(published["typed"], Nack)
    assert published["typed"].status == 422


@pytest.mark.parametrize("why", ["unwanted", "closed", "quorum"])
async def test_an_event_that_was_sent_to_nobody_is_no_success_however_one_asks(why: str) -> None:
    fan_out = FanOut(policy=quorum(2) if why == "quorum" else "all")
    if why != "unwanted":
        fan_out.subscribe(Subscription("a", Seen().handler("a")))
    if why == "closed":
        await fan_out.close()
    published = await fan_out.publish(new())
    assert (dict(published), bool(published), published.result.is_ack) == ({}, False, False)
    with pytest.raises(ExceptionGroup) as caught:
        published.raise_for_failed()
    (error,) = caught.value.exceptions
    assert isinstance(error, DeliveryError)
    assert error.result == published.result


async def test_what_was_published_is_true_if_it_is_acknowledged() -> None:
    assert await FanOut(three(Seen())).publish(new())
    assert not await FanOut(three(Seen(), DOWN)).publish(new())
    assert await FanOut(three(Seen(), DOWN), policy="best_effort").publish(new())
    published = await FanOut(unhandled="ack").publish(new())
    assert published
    published.raise_for_failed()
