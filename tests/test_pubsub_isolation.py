"""`FanOut`: no subscriber harms or delays another, and nothing is left of those that go."""

import asyncio
import threading
from typing import Any

import pytest

from cloudevents_kit import (
    Ack,
    Event,
    Nack,
    Reject,
    Result,
    RetryPolicy,
    Undelivered,
    filters,
    stages,
)
from cloudevents_kit.pubsub import FanOut, Subscription
from tests.support.branches import DOWN, SECRET, Seen, Slow, other_tasks
from tests.support.events import new
from tests.support.outcomes import ScriptedSink
from tests.support.pubsub import LIMITS, DeadLetters, Hanging, idle, outcomes, reason
from tests.support.virtual import LoopClock, virtual


@LIMITS
async def test_whatever_a_subscriber_does_the_others_have_the_event(
    limit: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """K-P9.1."""

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


async def test_a_plain_function_that_blocks_has_threads_of_its_own() -> None:
    """Those of the loop are few: more than they are would hang here."""
    leave = threading.Event()
    done: list[str] = []

    def blocks(event: Event) -> None:
        leave.wait(30)

    def quick(event: Event, data: int) -> None:
        done.append(event.id)

    fan_out = FanOut([Subscription("blocks", blocks, concurrency=40), Subscription("quick", quick)], limit=2)
    waiting = [asyncio.create_task(fan_out.publish(new(id=str(number), data=number))) for number in range(40)]
    try:
        async with asyncio.timeout(10):
            while len(done) < 40:  # noqa: ASYNC110 - it is told in other threads
                await asyncio.sleep(0.001)
        assert not any(task.done() for task in waiting)
    finally:
        leave.set()
    assert all(await asyncio.gather(*waiting))


@LIMITS
@pytest.mark.parametrize("how", ["dead letter", "report"])
async def test_a_hook_that_ends_as_if_it_had_been_cancelled_harms_nobody(limit: int | None, how: str) -> None:
    async def hook(*_: object) -> None:
        raise asyncio.CancelledError

    seen = Seen()
    given: Any = {"dead_letter": hook} if how == "dead letter" else {}
    fan_out = FanOut(
        [Subscription("down", ScriptedSink(DOWN), **given), Subscription("well", seen.handler("well"))],
        limit=limit,
        report=hook if how == "report" else None,
    )
    published = await fan_out.publish(new())
    assert (outcomes(published), seen) == ({"down": "nack", "well": "ack"}, ["well"])
    failed = "dead_letter_failed.down" if how == "dead letter" else "report_failed"
    assert fan_out.counts == {"failed.down": 1, failed: 1}


@virtual
async def test_what_is_at_work_when_its_subscriber_is_removed_still_has_its_dead_letter() -> None:
    dead = DeadLetters()
    async with FanOut([Subscription("s", Slow(5, OSError()), concurrency=1, dead_letter=dead)]) as fan_out:
        for number in range(2):
            await fan_out.publish_soon(new(id=str(number)))
        await asyncio.sleep(1)
        assert fan_out.cancel("s")
    assert dead == [("0", "s: nack 500: the handler failed")]
