"""`FanOut`: everybody who wants an event has it, each has a result, and nobody harms another."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
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
    Handler,
    HandlerSink,
    Nack,
    Receiver,
    Reject,
    Result,
    Retry,
    RetryPolicy,
    Sender,
    Undelivered,
    current_event,
    filters,
    forward,
    settle,
    stages,
    wrap,
)
from cloudevents_kit.pubsub import FanOut, PartialAck, Published, Subscription, quorum
from tests.support.branches import DOWN, SECRET, Seen, Slow, other_tasks
from tests.support.events import new
from tests.support.outcomes import ScriptedSink
from tests.support.pubsub import DeadLetters, Hanging, Reports, idle, outcomes, reason
from tests.support.virtual import LoopClock, virtual

LIMITS = pytest.mark.parametrize("limit", [1, 2, None])
NO_ANSWER = Undelivered(reason="refused")


def three(seen: Seen, result: Result | None = None) -> list[Subscription]:
    """Subscribers of which the second one answers ``result``."""
    return [
        Subscription("a", seen.handler("a")),
        Subscription("b", seen.sink("b", result)),
        Subscription("c", seen.handler("c")),
    ]


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
    """K-C6."""
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
    """K-C6."""
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
    """K-C6: and calls the failure hook."""
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
    """K-C6: limit 2 and 10 subscribers."""
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
    """K-C6: by type prefix and source."""
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


# Nobody harms another.


@LIMITS
async def test_whatever_a_subscriber_does_the_others_have_the_event(
    limit: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """K-P9."""

    class Raises:
        async def send(self, event: Event, /) -> Result:
            raise LookupError(SECRET)

    def broken(event: Event) -> Any:
        raise LookupError(SECRET)

    async def cancelled(event: Event) -> None:
        raise asyncio.CancelledError

    seen = Seen()
    fan_out = FanOut(
        [
            Subscription("first", seen.handler("first")),
            Subscription("raises", Raises()),
            Subscription("no result", ScriptedSink(None)),
            Subscription("handler", seen.failing("handler", RuntimeError(SECRET))),
            Subscription("filter", seen.handler("no"), broken),
            Subscription("key", seen.handler("no"), key=broken),
            Subscription("unhashable", seen.handler("no"), key=lambda event: []),  # type: ignore[arg-type, return-value]
            Subscription("cancelled", cancelled),
            Subscription("last", seen.handler("last")),
        ],
        limit=limit,
    )
    published = await fan_out.publish(new())
    assert [name for name, result in published.items() if result] == ["first", "last"]
    assert all(isinstance(result, Nack) and result.retryable for result in published.failed.values())
    assert {reason(result) for result in published.failed.values()} == {
        "the subscriber failed",
        "the handler failed",
        "the filter of the subscription failed",
        "the key of the subscription failed",
        "the subscriber was cancelled",
    }
    assert (seen, SECRET in str(published)) == (["first", "handler", "last"], False)
    assert "subscriber no result returned NoneType, which is no result" in caplog.text
    assert idle(fan_out)


@virtual
async def test_one_that_hangs_delays_no_other_and_its_caller_no_longer_than_it_asked_to(clock: LoopClock) -> None:
    hanging, quick = Hanging(), Slow(1)
    times: list[float] = []

    async def timed(event: Event) -> None:
        await quick(event)
        times.append(clock.monotonic())

    fan_out = FanOut([Subscription("hanging", hanging), Subscription("quick", timed)])
    results = await asyncio.gather(*(fan_out.publish(new(id=str(number)), timeout=5) for number in range(10)))
    assert clock.monotonic() == pytest.approx(5)
    assert times == [pytest.approx(1)] * 10
    for published in results:
        assert published["quick"] == Ack()
        late = published["hanging"]
        assert isinstance(late, Undelivered)
        assert (late.reason, late.possibly_delivered, late.elapsed) == ("timeout", True, pytest.approx(5))
    assert hanging.ends == ["cancelled"] * 10
    await fan_out.publish(new())
    assert clock.monotonic() == pytest.approx(65)  # the deadline of the policy
    assert idle(fan_out)


@virtual
async def test_who_waits_for_one_that_hangs_is_told_that_it_never_got_there(clock: LoopClock) -> None:
    fan_out = FanOut([Subscription("hanging", Hanging(), concurrency=1)], timeout=3)
    first, second = await asyncio.gather(fan_out.publish(new()), fan_out.publish(new()))
    assert clock.monotonic() == pytest.approx(3)
    assert [one["hanging"].possibly_delivered for one in (first, second)] == [True, False]  # type: ignore[union-attr]
    assert idle(fan_out)


@virtual
async def test_the_time_of_a_caller_is_that_of_all_who_have_it_one_after_the_other(clock: LoopClock) -> None:
    seen = Seen()
    waits = [Subscription(str(number), Slow(2)) for number in range(3)]
    fan_out = FanOut([*waits, Subscription("last", seen.handler("last"))], limit=1)
    published = await fan_out.publish(new(), timeout=3)
    assert clock.monotonic() == pytest.approx(3)
    assert outcomes(published) == {"0": "ack", "1": "undelivered", "2": "undelivered", "last": "undelivered"}
    assert reason(published["2"]) == "timeout"
    assert seen == []
    with pytest.raises(ValueError, match="timeout"):
        await fan_out.publish(new(), timeout=0)


@virtual
async def test_a_policy_without_a_deadline_lets_a_subscriber_take_its_time(clock: LoopClock) -> None:
    policy = RetryPolicy(attempts=1, deadline=None)
    assert await FanOut([Subscription("slow", Slow(1000), retry=policy)]).send(new())
    assert clock.monotonic() == pytest.approx(1000)


@virtual
async def test_as_many_events_as_it_can_take_are_at_work_and_more_wait_or_fail(clock: LoopClock) -> None:
    refusing, patient = Slow(1), Slow(1)
    fan_out = FanOut(
        [
            Subscription("refusing", refusing, concurrency=2, capacity=3),
            Subscription("patient", patient, concurrency=2, capacity=3, on_full="wait"),
        ]
    )
    all_published = await asyncio.gather(*(fan_out.publish(new(id=str(number))) for number in range(10)))
    assert [published["refusing"].is_ack for published in all_published] == [True] * 5 + [False] * 5
    assert {reason(published["refusing"]) for published in all_published[5:]} == {"overload"}
    assert all(published["patient"] for published in all_published)
    assert (refusing.most, patient.most, clock.monotonic()) == (2, 2, pytest.approx(5))
    assert patient.begun == [str(number) for number in range(10)]
    assert idle(fan_out)


@virtual
async def test_fifty_callers_of_which_half_are_cancelled_leave_nothing_behind(clock: LoopClock) -> None:
    subscribers = [Slow(seconds) for seconds in (0.5, 1, 3)]
    dead = DeadLetters()
    fan_out = FanOut(
        [
            Subscription(
                str(number), slow, concurrency=number + 1, on_full="wait", dead_letter=dead,
                key=(lambda event: int(event.id) % 5) if number else None,
            )
            for number, slow in enumerate(subscribers)
        ]
    )  # fmt: skip
    tasks = [asyncio.create_task(fan_out.publish(new(id=str(number)))) for number in range(50)]
    for number, task in enumerate(tasks):
        if number % 2:
            await asyncio.sleep(0.2)
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for number, task in enumerate(tasks):
        assert task.cancelled() is (number % 2 == 1)
        assert task.cancelled() or task.result().result
    for slow in subscribers:
        done = [int(identity) for identity, how in slow.ended if how == "done"]
        assert {number for number in range(50) if number % 2 == 0} <= {*done}
    assert (dead, fan_out.counts, other_tasks()) == ([], {}, set())
    assert idle(fan_out)
    assert all(not line.turns._keys for line in fan_out._lines.values())


@LIMITS
@virtual
async def test_a_caller_that_is_cancelled_ends_what_is_at_work(limit: int | None) -> None:
    slow, dead = Slow(10), DeadLetters()
    fan_out = FanOut([Subscription(str(n), slow, dead_letter=dead) for n in range(5)], limit=limit)
    task = asyncio.create_task(fan_out.publish(new()))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert slow.ends == ["cancelled"] * (limit or 5)
    assert (dead, other_tasks()) == ([], set())
    assert idle(fan_out)


@virtual
async def test_a_subscriber_that_is_removed_while_it_is_sent_to_gets_nothing_more(clock: LoopClock) -> None:
    slow, seen = Slow(10), Seen()
    fan_out = FanOut(
        [
            Subscription("slow", slow, concurrency=1, dead_letter=DeadLetters()),
            Subscription("other", seen.handler("other")),
        ]
    )
    tasks = [asyncio.create_task(fan_out.publish(new(id=str(number)))) for number in range(3)]
    await asyncio.sleep(1)
    fan_out.cancel("slow")
    first, *others = await asyncio.gather(*tasks)
    assert (outcomes(first), clock.monotonic()) == ({"slow": "ack", "other": "ack"}, pytest.approx(10))
    for published in others:
        assert published["slow"] == Undelivered(reason="closed", error="the subscription was cancelled")
    assert (slow.begun, seen) == (["0"], ["other"] * 3)


@pytest.mark.parametrize("limit", [1, None])
@virtual
async def test_a_subscriber_that_is_removed_before_its_turn_gets_nothing(limit: int | None) -> None:
    seen = Seen()
    fan_out = FanOut(limit=limit)

    async def remove(event: Event) -> None:
        fan_out.cancel("removed")

    fan_out.subscribe(Subscription("remover", remove))
    fan_out.subscribe(Subscription("removed", seen.handler("removed")))
    published = await fan_out.publish(new())
    assert (reason(published["removed"]), seen) == ("closed", [])


@virtual
async def test_events_of_one_key_go_one_after_the_other_and_others_meanwhile(clock: LoopClock) -> None:
    begun: list[tuple[str, float]] = []

    async def work(event: Event) -> None:
        begun.append((event.id, clock.monotonic()))
        await asyncio.sleep(1)
        if event.id == "a1":
            raise Reject

    dead = DeadLetters()
    fan_out = FanOut([Subscription("s", work, key=stages.order_key, dead_letter=dead)])
    ids = ["a1", "a2", "a3", "b1", "b2", "-1", "-2"]
    keys = {"a": {"partitionkey": "a"}, "b": {"partitionkey": "b"}, "-": {}}
    events = [new(id=identity, **keys[identity[0]]) for identity in ids]
    results = await asyncio.gather(*map(fan_out.publish, events))
    assert begun == [("a1", 0), ("b1", 0), ("-1", 0), ("-2", 0), ("a2", 1), ("b2", 1), ("a3", 2)]
    assert [bool(published.result) for published in results] == [True] * 7
    assert (dead, clock.monotonic()) == ([("a1", "s: nack 422: rejected")], pytest.approx(3))


@virtual
async def test_events_of_one_key_keep_the_order_of_the_calls_though_others_come_in_between() -> None:
    order: list[str] = []

    async def first(event: Event) -> None: ...

    async def ordered(event: Event) -> None:
        order.append(event.id)

    fan_out = FanOut(
        [
            Subscription("first", first, filters.exact(type="t")),
            Subscription("ordered", ordered, key=lambda event: "one"),
        ]
    )
    await asyncio.gather(*(fan_out.publish(new(id=str(n), type="t" if n % 2 else "u")) for n in range(6)))
    assert order == ["0", "1", "2", "3", "4", "5"]


# Retries and dead letters.


@virtual
async def test_each_has_its_own_retries_and_lists_its_attempts(clock: LoopClock) -> None:
    results: Iterator[Result] = iter([DOWN, NO_ANSWER, Ack()])

    class Flaky:
        async def send(self, event: Event, /) -> Result:
            return next(results)

    seen = Seen()
    fan_out = FanOut(
        [
            Subscription("flaky", Flaky(), retry=RetryPolicy(jitter=False, initial=1)),
            Subscription("busy", seen.failing("busy", Retry(after=2)), retry=RetryPolicy(attempts=2, jitter=False)),
            Subscription("final", seen.failing("final", Reject()), retry=RetryPolicy()),
            Subscription("conflict", seen.failing("conflict", Retry(status=503)),
                         retry=RetryPolicy(attempts=3, initial=0, statuses=frozenset())),
            Subscription("none", seen.failing("none", Retry())),
        ],
        clock=clock,
    )  # fmt: skip
    published = await fan_out.publish(new())
    assert [(one.number, one.status, one.error, one.wait) for one in published["flaky"].attempts] == [
        (1, 503, None, 0.0),
        (2, None, "refused", 7.0),
        (3, 204, None, 2.0),
    ]
    assert published["flaky"].elapsed == clock.monotonic() == pytest.approx(9)
    assert [len(published[name].attempts) for name in ("busy", "final", "conflict", "none")] == [2, 1, 3, 0]
    assert seen.count("busy") == 2


@virtual
async def test_what_the_policy_does_not_retry_is_not_tried_again(clock: LoopClock) -> None:
    sink = ScriptedSink(Nack(status=409, retryable=True))
    policy = RetryPolicy(statuses=frozenset({429}))
    published = await FanOut([Subscription("s", sink, retry=policy)], clock=clock).publish(new())
    assert len(sink.sent) == 1
    assert published["s"].retryable is False  # type: ignore[union-attr]


@virtual
async def test_a_deadline_cuts_an_attempt_short_and_tells_of_those_before(clock: LoopClock) -> None:
    tries: list[float] = []

    async def work(event: Event) -> None:
        tries.append(clock.monotonic())
        if len(tries) > 1:
            await asyncio.sleep(1e6)
        raise Retry

    policy = RetryPolicy(jitter=False, initial=1, deadline=10)
    published = await FanOut([Subscription("s", work, retry=policy)], clock=clock).publish(new())
    result = published["s"]
    assert isinstance(result, Undelivered)
    assert (result.reason, len(result.attempts), tries) == ("timeout", 1, [0, 1])
    assert clock.monotonic() == pytest.approx(10)


async def test_a_dead_letter_that_was_taken_counts_as_stored_and_is_still_told() -> None:
    stored = ScriptedSink(Ack(status=202))
    seen = Seen()
    subscriptions = [
        Subscription("sink", seen.sink("x", DOWN), dead_letter=stored),
        Subscription("hook", seen.sink("x", NO_ANSWER), dead_letter=DeadLetters()),
        Subscription("own", seen.sink("x", Nack(dead_lettered=True))),
        Subscription("well", seen.handler("well"), dead_letter=stored),
    ]
    fan_out = FanOut(subscriptions)
    event = new()
    result = await fan_out.send(event)
    assert isinstance(result, PartialAck)
    assert result.status == 202
    assert [*result.failed] == ["sink", "hook", "own"]
    assert all(failure.dead_lettered for failure in result.failed.values())
    assert stored.sent == [event]
    assert fan_out.counts == {
        "failed.sink": 1, "dead_lettered.sink": 1, "failed.hook": 1, "dead_lettered.hook": 1, "failed.own": 1,
    }  # fmt: skip


def raising(event: Event, error: Exception) -> None:
    raise OSError(SECRET)


async def refusing(event: Event, error: Exception) -> Result:
    return DOWN


async def hanging(event: Event, error: Exception) -> None:
    await asyncio.sleep(1e6)


@pytest.mark.parametrize("dead_letter", [raising, refusing, hanging, ScriptedSink(DOWN), ScriptedSink(None)])
@pytest.mark.parametrize("failure", [Nack(422, "no"), Undelivered(reason="gone", error="x")])
def test_a_dead_letter_that_was_not_taken_makes_the_event_come_again(
    dead_letter: Any, failure: Result, caplog: pytest.LogCaptureFixture
) -> None:
    @virtual
    async def test(clock: LoopClock) -> None:
        fan_out = FanOut([Subscription("s", ScriptedSink(failure), dead_letter=dead_letter)])
        published = await fan_out.publish(new())
        result = published["s"]
        assert isinstance(result, Nack)
        status = 422 if isinstance(failure, Nack) else 502
        assert (result.status, result.retryable, result.dead_lettered) == (status, True, False)
        assert result.reason == f"{reason(failure)}; its dead letter was not taken"
        assert published.result.retryable is True  # type: ignore[union-attr]
        assert fan_out.counts == {"failed.s": 1, "dead_letter_failed.s": 1}
        assert clock.monotonic() == (pytest.approx(5) if dead_letter is hanging else 0)

    test()
    assert "subscriber s: its dead letter was not taken: id='1'" in caplog.text


# The events.


async def test_what_is_published_in_a_handler_belongs_to_the_event_that_is_handled_there() -> None:
    """K-E4: and the outer context is as before."""
    seen: list[Event | None] = []

    async def inner(event: Event) -> None:
        seen.append(current_event())

    def run(**settings: Any) -> Handler:
        fan_out = FanOut([Subscription("a", inner), Subscription("b", inner)], **settings)

        async def outer(event: Event) -> None:
            await fan_out.send(new(id="2"))
            assert current_event() is event

        return outer

    assert await settle(run(), new(id="1", correlationid="c"))
    assert [(event["correlationid"], event["causationid"]) for event in seen if event] == [("c", "1")] * 2
    seen.clear()
    assert await settle(run(inherit=False), new(id="1", correlationid="c"))
    assert seen == [new(id="2")] * 2


async def test_the_fate_of_an_event_at_a_subscriber_is_not_that_of_the_event_that_caused_it() -> None:
    inner = wrap(Seen().handler("x"), stages.keep_if(lambda _: False))
    fan_out = FanOut([Subscription("a", inner)])
    metrics = stages.Metrics()

    async def outer(event: Event) -> None:
        await fan_out.send(new(id="2"))
        await fan_out.publish_soon(new(id="3"))

    async with fan_out:
        assert await settle(stages.observe(outer, metrics), new())
    assert metrics.snapshot()["outcomes"] == {"acked": 1}


async def test_a_report_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def report(event: Event, published: Published) -> None:
        raise OSError

    fan_out = FanOut(three(Seen()), report=report)
    assert await fan_out.send(new())
    assert fan_out.counts == {"report_failed": 1}


async def test_its_handlers_can_be_walked_so_that_their_stages_are_opened() -> None:
    queue = stages.queue()
    fan_out = FanOut(
        [Subscription("a", wrap(Seen().handler("a"), queue)), Subscription("b", HandlerSink(Seen().handler("b")))]
    )
    assert not await fan_out.send(new())
    async with stages.running(forward(fan_out)):
        assert await fan_out.send(new())
    assert "queue" in str(stages.describe(forward(fan_out)))


user: ContextVar[str] = ContextVar("user", default="nobody")


async def test_a_user_s_context_is_known_to_subscribers() -> None:
    found: list[str] = []

    async def look(event: Event) -> None:
        found.append(user.get())

    user.set("somebody")
    await FanOut([Subscription("a", look), Subscription("b", look)]).send(new())
    assert found == ["somebody"] * 2


# What cannot work is said at once.


async def asking(event: Event) -> Any:
    return True


WRONG: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: Subscription(5, raising), TypeError, "name"),  # type: ignore[arg-type]
    (lambda: Subscription("", raising), ValueError, "name"),
    (lambda: Subscription("a", "url"), TypeError, "handler"),  # type: ignore[arg-type]
    (lambda: Subscription("a", ScriptedSink), TypeError, "sink"),  # type: ignore[arg-type]
    (lambda: Subscription("a", lambda: None), TypeError, "handler takes"),
    (lambda: Subscription("a", stages.tap(print)), TypeError, "call_next"),
    (lambda: Subscription("a", asking, asking), TypeError, "filter: must return at once"),  # type: ignore[arg-type]
    (lambda: Subscription("a", asking, "x"), TypeError, "filter"),  # type: ignore[arg-type]
    (lambda: Subscription("a", asking, key=asking), TypeError, "key: must return at once"),  # type: ignore[arg-type]
    (lambda: Subscription("a", asking, retry=3), TypeError, "retry"),  # type: ignore[arg-type]
    (lambda: Subscription("a", asking, dead_letter=3), TypeError, "dead_letter"),  # type: ignore[arg-type]
    (lambda: Subscription("a", asking, order="x"), TypeError, "order"),  # type: ignore[arg-type]
    (lambda: Subscription("a", asking, concurrency=0), ValueError, "concurrency"),
    (lambda: Subscription("a", asking, capacity=-1), ValueError, "capacity"),
    (lambda: Subscription("a", asking, on_full="drop"), ValueError, "on_full"),  # type: ignore[arg-type]
    (lambda: FanOut([asking]), TypeError, "subscription"),  # type: ignore[list-item]
    (lambda: FanOut(policy="some"), ValueError, "policy"),  # type: ignore[arg-type]
    (lambda: FanOut(policy=quorum(0)), ValueError, "count"),
    (lambda: FanOut(limit=0), ValueError, "limit"),
    (lambda: FanOut(timeout=0), ValueError, "timeout"),
    (lambda: FanOut(unhandled="drop"), ValueError, "unhandled"),  # type: ignore[arg-type]
    (lambda: FanOut(grace=-1), ValueError, "grace"),
    (lambda: FanOut(inherit=1), TypeError, "inherit"),  # type: ignore[arg-type]
    (lambda: FanOut(report=1), TypeError, "report"),  # type: ignore[arg-type]
    (lambda: FanOut(clock=1), TypeError, "clock"),  # type: ignore[arg-type]
    (lambda: FanOut(name=1), TypeError, "name"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_cannot_work_is_refused_by_name(number: int) -> None:
    make, error, text = WRONG[number]
    with pytest.raises(error, match=text):
        make()
