"""`FanOut.close`: what was published without waiting is sent, or told of; nothing is lost without a word."""

import asyncio

import pytest

from cloudevents_kit import (
    Event,
    Nack,
    Reject,
    RetryPolicy,
    Undelivered,
    filters,
)
from cloudevents_kit.pubsub import FanOut, Queued, Subscription, Unsent
from tests.support.branches import Seen, Slow, other_tasks
from tests.support.events import new
from tests.support.pubsub import DeadLetters, Hanging, Reports, idle
from tests.support.virtual import LoopClock, virtual

CLOSED = Undelivered(reason="closed", error="the fan-out was closed")


@virtual
async def test_when_closed_all_is_sent_or_told_as_unsent(clock: LoopClock, caplog: pytest.LogCaptureFixture) -> None:
    """K-C7.1, K-D10.1. A queue of 10, and 5 seconds."""
    slow, reports = Slow(2), Reports()
    fan_out = FanOut([Subscription("s", slow, concurrency=1, capacity=10)], report=reports)
    for number in range(6):
        await fan_out.publish_soon(new(id=str(number)))
    unsent = await fan_out.close(5)
    assert clock.monotonic() == pytest.approx(5)
    assert sorted(unsent, key=lambda one: one.event.id) == [
        Unsent(new(id="2"), "s", possibly_delivered=True),
        *(Unsent(new(id=identity), "s") for identity in "345"),
    ]
    assert slow.ends == ["done", "done", "cancelled"]
    assert sorted(reports) == [(str(number), {"s": "ack" if number < 2 else "undelivered"}) for number in range(6)]
    assert "fan_out: given up before s has handled it: id='5'" in caplog.text
    assert (fan_out.unsent, other_tasks(), await fan_out.close()) == (unsent, set(), ())
    assert idle(fan_out)


@virtual
async def test_what_cannot_be_sent_any_more_goes_to_the_dead_letters(clock: LoopClock) -> None:
    dead = DeadLetters()
    subscription = Subscription("s", Slow(100), concurrency=1, dead_letter=dead, retry=RetryPolicy())
    fan_out = FanOut([subscription], grace=0)
    for number in range(3):
        await fan_out.publish_soon(new(id=str(number)))
    assert await fan_out.close() == ()
    assert sorted(dead) == [
        ("0", "s: undelivered, closed: the fan-out was closed (the event may have arrived)"),
        ("1", "s: undelivered, closed: the fan-out was closed"),
        ("2", "s: undelivered, closed: the fan-out was closed"),
    ]
    assert fan_out.counts == {"failed.s": 3, "dead_lettered.s": 3}


@virtual
async def test_dead_letters_that_are_being_written_are_not_cut_off(clock: LoopClock) -> None:
    written: list[str] = []

    async def write(event: Event, error: Exception) -> None:
        await asyncio.sleep(3)
        written.append(event.id)

    fan_out = FanOut([Subscription("s", Seen().failing("s", Reject()), dead_letter=write)], grace=1)
    await fan_out.publish_soon(new())
    assert await fan_out.close() == ()
    assert (written, clock.monotonic()) == (["1"], pytest.approx(3))


@virtual
async def test_a_report_that_hangs_does_not_hold_up_the_close_for_ever(clock: LoopClock) -> None:
    async def report(event: Event, published: object) -> None:
        await asyncio.sleep(1e6)

    async with FanOut([Subscription("s", Slow(1e6))], grace=1, report=report) as fan_out:
        await fan_out.publish_soon(new())
    assert clock.monotonic() == pytest.approx(11)
    assert [one.event.id for one in fan_out.unsent] == ["1"]


@virtual
async def test_a_subscriber_that_does_not_end_when_it_is_cancelled_is_told_as_unsent(clock: LoopClock) -> None:
    async def stubborn(event: Event) -> None:
        try:
            await asyncio.sleep(1e6)
        except asyncio.CancelledError:
            await asyncio.sleep(1e6)

    fan_out = FanOut([Subscription("s", stubborn, retry=RetryPolicy(attempts=1, deadline=None))], grace=1)
    await fan_out.publish_soon(new())
    assert await fan_out.close() == (Unsent(new(), "s", possibly_delivered=True),)
    assert clock.monotonic() == pytest.approx(11)


@virtual
async def test_what_the_last_events_lead_to_is_sent_as_well() -> None:
    seen = Seen()
    fan_out = FanOut(grace=100)

    async def second(event: Event) -> None:
        await asyncio.sleep(1)
        seen.append(event.id)

    async def first(event: Event) -> None:
        await asyncio.sleep(1)
        assert await fan_out.publish_soon(new(id="2", type="second"))

    fan_out.subscribe(Subscription("first", first, filters.exact(type="first")))
    fan_out.subscribe(Subscription("second", second, filters.exact(type="second")))
    async with fan_out:
        await fan_out.publish_soon(new(type="first"))
    assert (seen, fan_out.unsent) == (["2"], ())


@virtual
async def test_a_closed_fan_out_refuses_and_takes_events_again_when_it_is_opened() -> None:
    seen = Seen()
    fan_out = FanOut([Subscription("s", seen.handler("s"))])
    await fan_out.close()
    assert await fan_out.send(new()) == CLOSED
    assert dict(await fan_out.publish(new())) == {}
    queued = await fan_out.publish_soon(new())
    assert (queued, bool(queued)) == (Queued(refused={"s": CLOSED}), False)
    assert not await fan_out.publish_soon(new(type="other"))
    async with fan_out:
        assert await fan_out.send(new())
        assert await fan_out.publish_soon(new())
    assert seen == ["s", "s"]
    with pytest.raises(ValueError, match="grace"):
        await fan_out.close(-1)


@virtual
async def test_whoever_waits_when_it_is_closed_is_told() -> None:
    subscription = Subscription("s", Slow(10), concurrency=1, capacity=1, on_full="wait")
    fan_out = FanOut([subscription], grace=1)
    waiting = [asyncio.create_task(fan_out.publish_soon(new(id=str(number)))) for number in range(3)]
    sending = asyncio.create_task(fan_out.send(new(id="sent")))
    await asyncio.sleep(0)
    await fan_out.close()
    assert [bool(await task) for task in waiting] == [True, True, False]
    assert (await waiting[2]).refused == {"s": CLOSED}
    assert isinstance(await sending, Nack)
    assert {one.event.id for one in fan_out.unsent} == {"0", "1", "2"}
    assert idle(fan_out)


@virtual
async def test_a_close_that_is_cancelled_leaves_nothing_behind() -> None:
    fan_out = FanOut([Subscription("s", Slow(10))])
    await fan_out.publish_soon(new())
    task = asyncio.create_task(fan_out.close(100))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fan_out.unsent == (Unsent(new(), "s", possibly_delivered=True),)
    assert other_tasks() == set()


@virtual
async def test_a_subscriber_that_is_removed_gets_nothing_that_waits_for_it() -> None:
    slow = Slow(10)
    subscription = Subscription("s", slow, concurrency=1, capacity=1, on_full="wait")
    async with FanOut([subscription], grace=60) as fan_out:
        tasks = [asyncio.create_task(fan_out.publish_soon(new(id=str(number)))) for number in range(3)]
        await asyncio.sleep(1)
        fan_out.cancel("s")
        queued = await tasks[2]
        assert queued.refused == {"s": Undelivered(reason="closed", error="the subscription was cancelled")}
    assert (slow.ended, fan_out.unsent) == ([("0", "done")], ())


@virtual
async def test_fifty_callers_of_which_half_are_cancelled_and_every_event_is_accounted_for(clock: LoopClock) -> None:
    slow, dead = Slow(1), DeadLetters()
    fan_out = FanOut(
        [
            Subscription("a", slow, concurrency=3, capacity=2, on_full="wait", key=lambda event: int(event.id) % 7),
            Subscription("b", Slow(0.1), concurrency=1, capacity=5, dead_letter=dead),
        ],
        grace=5,
    )
    async with fan_out:
        tasks = [asyncio.create_task(fan_out.publish_soon(new(id=str(number)))) for number in range(50)]
        await asyncio.sleep(0.3)
        for number in range(0, 50, 2):
            tasks[number].cancel()
        await asyncio.sleep(5)
    queued = await asyncio.gather(*tasks, return_exceptions=True)
    taken = {number for number, one in enumerate(queued) if isinstance(one, Queued) and "a" in one.taken}
    done = {int(identity) for identity, how in slow.ended if how == "done"}
    unsent = {int(one.event.id) for one in fan_out.unsent if one.subscriber == "a"}
    assert taken <= done | unsent
    refused = {number for number, one in enumerate(queued) if isinstance(one, Queued) and "a" in one.refused}
    assert taken | refused >= {*range(1, 50, 2)}
    assert other_tasks() == set()
    assert idle(fan_out)
    assert all(not line.turns._keys for line in fan_out._lines.values())


@virtual
async def test_what_is_taken_in_the_last_moment_is_told_of_as_well(clock: LoopClock) -> None:
    fan_out = FanOut([Subscription("s", Hanging(), retry=RetryPolicy(attempts=1, deadline=None))])
    taken: list[str] = []

    async def publish() -> None:
        for number in range(10):
            if await fan_out.publish_soon(new(id=str(number))):
                taken.append(str(number))
            await asyncio.sleep(0)

    publishing = asyncio.create_task(publish())
    unsent = await fan_out.close(0)
    await publishing
    assert len(taken) > 1
    assert sorted(one.event.id for one in unsent) == taken
    assert clock.monotonic() == 0


@pytest.mark.parametrize("begun", [True, False])
def test_a_program_that_ends_without_closing_it_tells_what_it_has_lost(
    begun: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def program() -> None:
        fan_out = FanOut([Subscription("s", Hanging(), concurrency=2)])
        for number in range(3):
            await fan_out.publish_soon(new(id=str(number)))
        if begun:
            await asyncio.sleep(0)

    asyncio.run(program())
    lost = [line for line in caplog.messages if line.startswith("fan_out: given up before s has handled it: id=")]
    assert sorted(line.split("'")[1] for line in lost) == ["0", "1", "2"]
