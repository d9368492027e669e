"""`FanOut.publish_soon`: bounded, detached from who caused it, and nothing is lost without a word."""

import asyncio
from contextvars import ContextVar

import pytest

from cloudevents_kit import (
    Event,
    Nack,
    Receiver,
    RetryPolicy,
    Sender,
    Undelivered,
    current_event,
)
from cloudevents_kit.pubsub import FanOut, Queued, Subscription
from tests.support.branches import DOWN, Seen, Slow, other_tasks
from tests.support.events import new
from tests.support.outcomes import ScriptedSink
from tests.support.parts import Gate
from tests.support.pubsub import DeadLetters, Hanging, Reports, idle
from tests.support.virtual import LoopClock, virtual


@virtual
async def test_the_caller_goes_on_at_once_and_everybody_has_the_event(clock: LoopClock) -> None:
    slow, reports = Slow(5), Reports()
    subscriptions = [Subscription("a", slow), Subscription("b", slow), Subscription("c", ScriptedSink(DOWN))]
    async with FanOut(subscriptions, report=reports) as fan_out:
        queued = await fan_out.publish_soon(new())
        assert (queued, bool(queued)) == (Queued(taken=("a", "b", "c")), True)
        assert (clock.monotonic(), reports) == (0, [])
    assert clock.monotonic() == pytest.approx(5)
    assert reports == [("1", {"a": "ack", "b": "ack", "c": "nack"})]
    assert (fan_out.unsent, fan_out.counts, other_tasks()) == ((), {"failed.c": 1}, set())
    assert idle(fan_out)


@virtual
async def test_a_failure_that_nobody_waits_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with FanOut([Subscription("a", ScriptedSink(DOWN))]) as fan_out:
        await fan_out.publish_soon(new())
    assert "fan_out: went on without a (503): id='1'" in caplog.text


user: ContextVar[str] = ContextVar("user")


async def test_the_end_of_the_request_does_not_cancel_it_and_its_context_is_kept() -> None:
    """K-C7.2."""
    gate = Gate()
    found: list[object] = []

    async def subscriber(event: Event) -> None:
        await gate(event)
        found.extend((current_event(), user.get()))

    fan_out = FanOut([Subscription("s", subscriber)])

    async def handler(event: Event) -> None:
        user.set(f"user of {event.id}")
        assert await fan_out.publish_soon(new(id="2", type="caused"))

    async with (
        fan_out,
        Receiver(handler, port=0) as receiver,
        Sender(receiver.url, retry=RetryPolicy.none()) as sender,
    ):
        assert await sender.send(new(correlationid="c"))
        await gate.entered.acquire()
        gate.leave.set()
    assert gate.ended == ["done"]
    assert found == [new(id="2", type="caused", correlationid="c", causationid="1"), "user of 1"]


@virtual
async def test_a_caller_that_is_cancelled_afterwards_does_not_cancel_it() -> None:
    """K-C7.2."""
    slow = Slow(10)

    async def request() -> None:
        await fan_out.publish_soon(new())
        await asyncio.sleep(100)

    async with FanOut([Subscription("s", slow)]) as fan_out:
        task = asyncio.create_task(request())
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert slow.ends == ["done"]


@virtual
async def test_when_a_queue_is_full_the_caller_is_refused_for_that_subscriber_alone() -> None:
    """K-C7.1. A queue of 10."""
    slow, seen = Slow(1), Seen()
    subscriptions = [
        Subscription("slow", slow, concurrency=1, capacity=10),
        Subscription("quick", seen.handler("quick")),
    ]
    async with FanOut(subscriptions, grace=60) as fan_out:
        queued = [await fan_out.publish_soon(new(id=str(number))) for number in range(12)]
        assert [bool(one) for one in queued] == [True] * 11 + [False]
        error = "10 events wait for the subscriber already"
        assert queued[11] == Queued(("quick",), {"slow": Undelivered(reason="overload", error=error)})
    assert (slow.begun, len(seen)) == ([str(number) for number in range(11)], 12)


@virtual
async def test_what_is_refused_goes_to_the_dead_letters(clock: LoopClock) -> None:
    dead = DeadLetters()
    async with FanOut([Subscription("s", Slow(1), concurrency=1, capacity=0, dead_letter=dead)]) as fan_out:
        assert (await fan_out.publish_soon(new(id="1"))).taken == ("s",)
        queued = await fan_out.publish_soon(new(id="2"))
        assert (queued.taken, bool(queued)) == ((), True)  # stored
    assert dead == [("2", "s: undelivered, overload: 0 events wait for the subscriber already")]


@pytest.mark.parametrize("capacity", [0, 10])
@virtual
async def test_when_a_queue_is_full_callers_wait_in_order(clock: LoopClock, capacity: int) -> None:
    """K-C7.1. A queue of 10."""
    slow = Slow(1)
    subscription = Subscription("s", slow, concurrency=2, capacity=capacity, on_full="wait")
    async with FanOut([subscription], grace=60) as fan_out:
        tasks = [asyncio.create_task(fan_out.publish_soon(new(id=str(number)))) for number in range(50)]
        await asyncio.sleep(0.5)
        assert sum(task.done() for task in tasks) == 2 + capacity
        assert all(await asyncio.gather(*tasks))
        assert clock.monotonic() == pytest.approx(24 - capacity // 2)
    assert (slow.begun, slow.most) == ([str(number) for number in range(50)], 2)
    assert slow.ends == ["done"] * 50


@virtual
async def test_a_caller_that_is_cancelled_while_it_waits_for_room_takes_its_event_back() -> None:
    slow, seen, reports = Slow(1), Seen(), Reports()
    subscriptions = [
        Subscription("quick", seen.handler("quick")),
        Subscription("slow", slow, concurrency=1, capacity=1, on_full="wait"),
    ]
    async with FanOut(subscriptions, report=reports) as fan_out:
        tasks = [asyncio.create_task(fan_out.publish_soon(new(id=str(number)))) for number in range(4)]
        await asyncio.sleep(0.5)
        assert [task.done() for task in tasks] == [True, True, False, False]
        tasks[2].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[2]
        assert await tasks[3]
    assert (slow.begun, len(seen), fan_out.unsent) == (["0", "1", "3"], 4, ())
    assert ("2", {"quick": "ack", "slow": "undelivered"}) in reports
    assert idle(fan_out)


@pytest.mark.parametrize("how", ["room", "removal"])
@virtual
async def test_a_caller_may_be_cancelled_in_the_very_moment_in_which_it_gets_an_answer(how: str) -> None:
    begun: list[str] = []

    async def work(event: Event) -> None:
        begun.append(event.id)
        await asyncio.sleep(1)
        if event.id == "0":
            tasks[2].cancel()
            if how == "removal":
                fan_out.cancel("s")

    subscription = Subscription("s", work, concurrency=1, capacity=1, on_full="wait")
    async with FanOut([subscription]) as fan_out:
        tasks = [asyncio.create_task(fan_out.publish_soon(new(id=str(number)))) for number in range(4)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[2], asyncio.CancelledError)
    assert begun == (["0", "1", "3"] if how == "room" else ["0"])
    assert other_tasks() == set()


@virtual
async def test_a_dead_subscriber_holds_up_nobody(clock: LoopClock) -> None:
    quick = Slow(0.01)
    times: list[float] = []

    async def timed(event: Event) -> None:
        await quick(event)
        times.append(clock.monotonic())

    subscriptions = [Subscription("dead", Hanging(), concurrency=1, capacity=5), Subscription("quick", timed)]
    async with FanOut(subscriptions, grace=1) as fan_out:
        for number in range(100):
            await fan_out.publish_soon(new(id=str(number)))
            await asyncio.sleep(0.1)
        assert [late - 0.1 * number for number, late in enumerate(times)] == [pytest.approx(0.01)] * 100
    assert [one.subscriber for one in fan_out.unsent] == ["dead"] * 6
    assert fan_out.counts["failed.dead"] == 100


@virtual
async def test_the_deadline_of_an_event_begins_with_its_turn(clock: LoopClock) -> None:
    slow = Slow(50)
    async with FanOut([Subscription("s", slow, concurrency=1)], grace=1000) as fan_out:
        for number in range(4):
            await fan_out.publish_soon(new(id=str(number)))
    assert (slow.ends, clock.monotonic()) == (["done"] * 4, pytest.approx(200))


@virtual
async def test_events_of_one_key_keep_their_order_whoever_publishes_them() -> None:
    begun: list[str] = []

    async def work(event: Event) -> None:
        begun.append(event.id)
        await asyncio.sleep(1)

    async with FanOut([Subscription("s", work, key=lambda event: event.source)]) as fan_out:
        for number in range(3):
            await fan_out.publish_soon(new(id=str(number)))
        assert await fan_out.send(new(id="last"))
    assert begun == ["0", "1", "2", "last"]


@virtual
async def test_groups_in_memory_get_every_event_once_and_one_that_fails_goes_to_the_dead_letters(
    clock: LoopClock,
) -> None:
    """K-D10.1, K-D10.2. And the others go on."""
    got: dict[str, list[str]] = {"billing": [], "search": []}

    def group(name: str) -> Subscription:
        async def take(event: Event) -> None:
            got[name].append(event.id)
            if event.id == "3":
                raise OSError

        return Subscription(name, take, retry=RetryPolicy(attempts=3), dead_letter=dead)

    dead = DeadLetters()
    async with FanOut([group("billing"), group("search")], clock=clock) as fan_out:
        for number in range(6):
            await fan_out.publish_soon(new(id=str(number)))
    for ids in got.values():
        assert sorted(ids) == ["0", "1", "2", "3", "3", "3", "4", "5"]
    assert sorted(dead) == [("3", f"{name}: nack 500: the handler failed") for name in ("billing", "search")]


def test_results_say_what_they_are() -> None:
    assert Queued()
    assert not Queued(unhandled=True)
    assert Queued(refused={"a": Nack(dead_lettered=True)})
    assert not Queued(refused={"a": Nack()})
