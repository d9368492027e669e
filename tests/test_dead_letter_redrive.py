"""The way back: letters are listed, sent again and thrown away."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from cloudevents_kit import Ack, Event, HandlerSink, Nack, Reject, Result, Undelivered, filters, stages, wrap
from cloudevents_kit.dead_letter import DeadLetter, Redriven, dead_letters, letters, purge, redrive
from cloudevents_kit.stores.memory_dead_letters import MemoryDeadLetterStore
from cloudevents_kit.testing._dead_letters import AT, letter, stored
from cloudevents_kit.testing._events import EVENTS, exact
from tests.support.clock import START, ManualClock
from tests.support.events import new
from tests.support.virtual import LoopClock, virtual


class Target:
    """A sink that ends as told for each event's id, by default in an Ack."""

    def __init__(self, **ends: Result | BaseException) -> None:
        self.ends = ends
        self.got: list[Event] = []

    @property
    def ids(self) -> list[str]:
        return [event.id for event in self.got]

    async def send(self, event: Event, /) -> Result:
        self.got.append(event)
        await asyncio.sleep(0)
        end = self.ends.get(event.id, Ack())
        if isinstance(end, BaseException):
            raise end
        return end


@pytest.fixture
async def store(clock: ManualClock) -> MemoryDeadLetterStore:
    """Three letters: a, b, c."""
    found = MemoryDeadLetterStore(clock=clock)
    for name in "abc":
        await found.add(letter(id=name))
    return found


async def ids(store: MemoryDeadLetterStore) -> list[str]:
    return [found.event.id for found in await stored(store)]


def counts(report: Redriven) -> dict[str, int]:
    names = ("selected", "delivered", "failed", "quarantined", "busy", "overtaken", "left_alone", "newer")
    return {name: found for name in names if (found := getattr(report, name))}


# Looking.


async def test_letters_are_listed_in_order_over_many_pages() -> None:
    """K-D2: inspect."""
    store = MemoryDeadLetterStore()
    for number in range(250):
        await store.add(letter(id=f"{number}"))
    assert [found.event.id async for found in letters(store)] == [f"{number}" for number in range(250)]
    by_type = letters(store, filters.exact(id="7"))
    assert [found.event.id async for found in by_type] == ["7"]
    chosen = letters(store, lambda found: found.status == 422)
    assert [found async for found in chosen] == []


async def test_a_filter_must_be_one(store: MemoryDeadLetterStore) -> None:
    with pytest.raises(TypeError, match="filter: must be callable"):
        await redrive(store, "a")  # type: ignore[arg-type]


async def test_a_filter_that_answers_later_chooses_nothing(store: MemoryDeadLetterStore) -> None:
    """What it returns would always be true."""

    async def choose(letter: DeadLetter) -> bool:
        return False

    target = Target()
    for choice in (choose, partial(choose), lambda letter: choose(letter or letter)):
        with pytest.raises(TypeError, match="must be a plain"):
            await redrive(store, choice, to=target, dry_run=False)  # type: ignore[arg-type]
    assert target.got == []


# Dry runs.


async def test_a_dry_run_is_the_default_and_changes_nothing(store: MemoryDeadLetterStore, clock: ManualClock) -> None:
    """K-D2."""
    before, target = await stored(store), Target()
    seen: list[tuple[int, str, Result | None]] = []

    def progress(report: Redriven, letter: DeadLetter, result: Result | None) -> None:
        seen.append((report.selected, letter.event.id, result))

    report = await redrive(store, to=target, rate=0.001, limit=2, progress=progress, clock=clock)
    assert (report.dry_run, counts(report), target.got, clock.waits) == (True, {"selected": 2}, [], [])
    assert await stored(store) == before
    assert seen == [(1, "a", None), (2, "b", None)]
    assert str(await redrive(store)) == "dry run: 3 dead letters would be sent again, 0 are quarantined"


async def test_a_real_run_needs_to_know_where_to(store: MemoryDeadLetterStore) -> None:
    with pytest.raises(ValueError, match="to: must be given"):
        await redrive(store, dry_run=False)


# Delivery.


async def test_letters_are_sent_once_each_and_removed_when_they_are_acknowledged(
    store: MemoryDeadLetterStore, clock: ManualClock
) -> None:
    """K-D2: success removes."""
    target = Target()
    report = await redrive(store, to=target, dry_run=False, clock=clock)
    assert (counts(report), target.ids, await ids(store)) == ({"selected": 3, "delivered": 3}, [*"abc"], [])
    assert str(report) == "3 dead letters: 3 delivered, 0 failed, in 0.0 s"
    told = Redriven(False, 9, 1, 2, 2, 1, 4, 5, 6, 0.25)
    expected = "1 delivered, 2 failed, 2 quarantined, 4 overtaken, 1 busy, 5 left alone, 6 newer, in 0.2 s"
    assert str(told) == f"9 dead letters: {expected}"


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
async def test_an_event_is_sent_as_it_was(event: Event) -> None:
    """K-D2: the same id, and the same bytes."""
    store, target = MemoryDeadLetterStore(), Target()
    await store.add(letter(event))
    await redrive(store, to=target, dry_run=False)
    assert [exact(found) for found in target.got] == [exact(event)]


async def test_a_letter_is_there_until_its_event_is_acknowledged(
    store: MemoryDeadLetterStore, clock: ManualClock
) -> None:
    """K-D2: no redrive deletes first."""
    seen: list[list[str]] = []

    async def handler(event: Event) -> None:
        seen.append(await ids(store))

    await redrive(store, to=HandlerSink(handler), dry_run=False, clock=clock)
    assert seen == [[*"abc"], [*"bc"], ["c"]]


async def test_what_fails_stays_and_its_attempts_are_counted(store: MemoryDeadLetterStore, clock: ManualClock) -> None:
    """K-D2: failure raises its attempt count."""
    target = Target(b=Nack(status=503, reason="still busy"))
    await clock.sleep(60)
    report = await redrive(store, to=target, dry_run=False, clock=clock)
    assert (counts(report), await ids(store)) == ({"selected": 3, "delivered": 2, "failed": 1}, ["b"])
    [found] = await stored(store)
    assert (found.redrives, found.attempts, found.status, found.reason) == (1, 2, 503, "still busy")
    assert (found.first_at, found.last_at, found.times) == (AT, START + timedelta(minutes=1), 1)
    assert [tried.status for tried in found.tries] == [500, 503]
    assert (found.direction, found.destination, found.quarantined) == ("inbound", "orders", False)


async def test_no_answer_in_a_redrive_may_have_arrived(store: MemoryDeadLetterStore, clock: ManualClock) -> None:
    target = Target(b=Undelivered(reason="timeout", error="late", possibly_delivered=True))
    await redrive(store, to=target, dry_run=False, clock=clock)
    [found] = await stored(store)
    assert (found.possibly_delivered, found.error, found.reason, found.status) == (True, "timeout", "late", None)


async def test_a_handler_takes_letters_too_and_its_errors_are_told(
    store: MemoryDeadLetterStore, clock: ManualClock
) -> None:
    def handler(event: Event) -> None:
        if event.id == "b":
            raise KeyError("still broken")

    report = await redrive(store, to=wrap(handler, stages.tap(print)), dry_run=False, clock=clock)  # type: ignore[arg-type]
    assert counts(report) == {"selected": 3, "delivered": 2, "failed": 1}
    [found] = await stored(store)
    assert (found.status, found.error, found.reason) == (500, "KeyError", "'still broken'")
    assert (await redrive(store, to=handler, dry_run=False, clock=clock)).failed == 1


@pytest.mark.parametrize("error", [OSError("a bad sink"), asyncio.CancelledError("of its own")], ids=repr)
async def test_a_sink_that_raises_is_a_failure_of_that_letter(
    store: MemoryDeadLetterStore, clock: ManualClock, error: BaseException
) -> None:
    report = await redrive(store, to=Target(a=error), dry_run=False, clock=clock)
    assert (counts(report), await ids(store)) == ({"selected": 3, "delivered": 2, "failed": 1}, ["a"])
    assert str(error) in (await stored(store))[0].reason


@pytest.mark.parametrize("returned", [None, True, new()], ids=repr)
async def test_what_is_no_result_is_a_failure_of_that_letter(
    store: MemoryDeadLetterStore, clock: ManualClock, returned: Any
) -> None:
    report = await redrive(store, to=Target(a=returned), dry_run=False, clock=clock)
    assert (counts(report), await ids(store)) == ({"selected": 3, "delivered": 2, "failed": 1}, ["a"])
    assert "which is no result" in (await stored(store))[0].reason


async def test_a_sink_may_answer_at_once(store: MemoryDeadLetterStore, clock: ManualClock) -> None:
    class Blocking:
        def send(self, event: Event) -> Result:
            return Ack()

    report = await redrive(store, to=Blocking(), dry_run=False, clock=clock)  # type: ignore[arg-type]
    assert counts(report) == {"selected": 3, "delivered": 3}


async def test_a_class_is_no_sink(store: MemoryDeadLetterStore) -> None:
    with pytest.raises(TypeError, match=r"to: .*parentheses"):
        await redrive(store, to=Target, dry_run=False)  # type: ignore[arg-type]


# Which, how many, how fast.


async def test_only_what_the_filter_passes_is_sent(clock: ManualClock) -> None:
    """K-D2.2."""
    store = MemoryDeadLetterStore(clock=clock)
    for name, kind in (("a", "com.example.x"), ("b", "com.other.x"), ("c", "com.example.y")):
        await store.add(letter(new(id=name, type=kind), status=503 if name == "c" else 500))
    target = Target()
    await redrive(store, filters.prefix(type="com.example."), to=target, dry_run=False, limit=1, clock=clock)
    await redrive(store, lambda found: found.status == 503, to=target, dry_run=False, clock=clock)
    assert (target.ids, await ids(store)) == (["a", "c"], ["b"])


async def test_no_more_than_the_limit_are_sent(store: MemoryDeadLetterStore, clock: ManualClock) -> None:
    target = Target(a=Nack())
    assert (await store.lease(letter(id="b").id, 100)) is not None
    report = await redrive(store, to=target, dry_run=False, limit=2, clock=clock)
    assert target.ids == ["a", "c"]  # b is somebody else's, and does not count
    assert counts(report) == {"selected": 3, "delivered": 1, "failed": 1, "busy": 1}


async def test_they_are_sent_no_faster_than_the_rate(store: MemoryDeadLetterStore, clock: ManualClock) -> None:
    times: list[float] = []

    async def handler(event: Event) -> None:
        times.append(clock.monotonic())
        if event.id == "b":
            await clock.sleep(5)

    report = await redrive(store, to=handler, dry_run=False, rate=0.5, clock=clock)
    assert times == [0, 2, 7]
    assert report.seconds == 7


async def test_several_are_on_their_way_at_once(clock: ManualClock) -> None:
    store, most, now = MemoryDeadLetterStore(clock=clock), 0, 0
    for number in range(20):
        await store.add(letter(id=f"{number}"))

    async def handler(event: Event) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        for _ in range(50):
            await asyncio.sleep(0)
        now -= 1

    report = await redrive(store, to=handler, dry_run=False, concurrency=4, clock=clock)
    assert (report.delivered, most, len(store)) == (20, 4, 0)


# Quarantine.


async def test_what_fails_too_often_is_left_alone(
    store: MemoryDeadLetterStore, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """K-D2: a poisonous letter does not come again for ever."""
    target = Target(b=Nack())
    found = [await redrive(store, to=target, dry_run=False, attempts=2, clock=clock) for _ in range(3)]
    assert [counts(report) for report in found] == [
        {"selected": 3, "delivered": 2, "failed": 1},
        {"selected": 1, "failed": 1, "quarantined": 1},
        {"left_alone": 1},
    ]
    assert target.ids.count("b") == 2
    assert (await stored(store))[0].quarantined
    assert "redrive: quarantined after 2: id='b' source='/s' type='t'" in caplog.messages


async def test_quarantined_letters_are_sent_on_request(store: MemoryDeadLetterStore, clock: ManualClock) -> None:
    target = Target(b=Nack())
    await redrive(store, to=target, dry_run=False, attempts=1, clock=clock)
    again = await redrive(store, to=target, dry_run=False, attempts=1, quarantined=True, clock=clock)
    assert counts(again) == {"selected": 1, "failed": 1, "quarantined": 1}
    assert (await stored(store))[0].redrives == 2
    last = await redrive(store, to=Target(), dry_run=False, attempts=1, quarantined=True, clock=clock)
    assert (counts(last), len(store)) == ({"selected": 1, "delivered": 1}, 0)


async def test_a_letter_that_ends_every_redrive_is_quarantined_without_another(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It kills the process each time, perhaps: leases that nobody settled count."""
    store, target = MemoryDeadLetterStore(clock=clock), Target()
    await store.add(letter())
    for _ in range(3):
        assert await store.lease(letter().id, 10)
        await clock.sleep(11)
    seen: list[Any] = []
    report = await redrive(
        store, to=target, dry_run=False, attempts=3, progress=lambda *given: seen.append(given[2].error), clock=clock
    )
    assert (counts(report), target.got) == ({"selected": 1, "failed": 1, "quarantined": 1}, [])
    assert seen == ["3 redrives came to no end"]
    [found] = await stored(store)  # nobody has tried it, so nothing is known that was not
    assert (found.reason, found.attempts, found.redrives, found.failures) == ("broken", 1, 4, 0)
    assert found.possibly_delivered
    assert "redrive: 3 redrives came to no end, so it is not sent: id='1' source='/s' type='t'" in caplog.messages
    again = await redrive(store, to=target, dry_run=False, quarantined=True, clock=clock)
    assert (counts(again), len(target.got)) == ({"selected": 1, "delivered": 1}, 1)


async def test_a_letter_that_failed_is_sent_again_although_fewer_attempts_are_wanted_now(
    store: MemoryDeadLetterStore, clock: ManualClock
) -> None:
    """Nothing is quarantined unsent but what may have ended redrives."""
    for _ in range(2):
        await redrive(store, to=Target(b=Nack(), c=Nack()), dry_run=False, clock=clock)
    last = await redrive(store, to=Target(b=Nack()), dry_run=False, attempts=1, clock=clock)
    assert counts(last) == {"selected": 2, "delivered": 1, "failed": 1, "quarantined": 1}
    [found] = await stored(store)
    assert (found.event.id, found.redrives, found.failures, found.attempts) == ("b", 3, 3, 4)
    assert not found.possibly_delivered


async def test_what_failed_after_a_redrive_that_came_to_no_end_may_have_arrived(clock: ManualClock) -> None:
    store = MemoryDeadLetterStore(clock=clock)
    await store.add(letter())
    assert await store.lease(letter().id, 10)
    await clock.sleep(11)
    await redrive(store, to=Target(**{"1": Nack(status=400)}), dry_run=False, clock=clock)
    [found] = await stored(store)
    assert (found.possibly_delivered, found.redrives, found.failures, found.attempts) == (True, 2, 1, 2)


# Leases.


async def test_two_redrives_at_once_send_each_letter_once(clock: ManualClock) -> None:
    """K-D2: each is processed once."""
    store, target = MemoryDeadLetterStore(clock=clock), Target()
    for number in range(50):
        await store.add(letter(id=f"{number}"))
    reports = await asyncio.gather(
        *(redrive(store, to=target, dry_run=False, concurrency=3, clock=clock) for _ in range(3))
    )
    assert Counter(target.ids) == {f"{number}": 1 for number in range(50)}
    assert sum(report.delivered for report in reports) == 50
    assert len(store) == 0


@virtual
async def test_a_delivery_ends_before_its_lease_does(clock: LoopClock) -> None:
    async def sleepy(event: Event) -> None:
        await asyncio.sleep(1000)

    store = MemoryDeadLetterStore(clock=clock)
    await store.add(letter())
    report = await redrive(store, to=HandlerSink(sleepy), dry_run=False, lease=100, clock=clock)
    assert (counts(report), clock.monotonic()) == ({"selected": 1, "failed": 1}, 90)
    [found] = await stored(store)
    assert (found.error, found.reason) == ("timeout", "not done within 90% of the lease")


@virtual
async def test_a_cancelled_redrive_gives_back_what_it_has(clock: LoopClock) -> None:
    """A handler that is cut off with the redrive has not failed."""

    async def sleepy(event: Event) -> None:
        if event.id == "2":
            await asyncio.sleep(1000)

    store = MemoryDeadLetterStore(clock=clock)
    for name in "123":
        await store.add(letter(id=name))
    task = asyncio.create_task(redrive(store, to=sleepy, dry_run=False, clock=clock))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [(found.event.id, found.redrives) for found in await stored(store)] == [("2", 0), ("3", 0)]
    assert (await redrive(store, to=Target(), dry_run=False, clock=clock)).delivered == 2


@virtual
async def test_a_redrive_that_is_cancelled_while_it_leases_gives_that_back(clock: LoopClock) -> None:
    """Else a letter would be quarantined in the end that was never sent."""

    class Slow(MemoryDeadLetterStore):
        async def lease(self, *given: Any) -> Any:
            found = await super().lease(*given)
            await asyncio.sleep(2)
            return found

    store, target = Slow(clock=clock), Target()
    for name in "ab":
        await store.add(letter(id=name))
    assert await MemoryDeadLetterStore.lease(store, letter(id="b").id, 100)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await redrive(store, to=target, dry_run=False, concurrency=2, clock=clock)
    assert [(found.event.id, found.redrives) for found in await stored(store)] == [("a", 0), ("b", 1)]
    assert (await redrive(store, to=target, dry_run=False, clock=clock)).delivered == 1
    assert target.ids == ["a"]


class Slow(MemoryDeadLetterStore):
    """Takes five seconds to settle, and may fail then."""

    error: Exception | None = None

    async def settle(self, *given: Any) -> bool:
        await asyncio.sleep(5)
        if self.error is not None:
            raise self.error
        return await super().settle(*given)


@virtual
async def test_what_was_delivered_is_removed_although_the_redrive_is_cancelled(clock: LoopClock) -> None:
    store = Slow(clock=clock)
    await store.add(letter())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await redrive(store, to=Target(), dry_run=False, clock=clock)
    assert (len(store), clock.monotonic()) == (0, 5)


def test_what_cannot_be_settled_after_a_cancellation_is_told(caplog: pytest.LogCaptureFixture) -> None:
    @virtual
    async def run(clock: LoopClock) -> None:
        store = Slow(clock=clock)
        store.error = OSError("away")
        await store.add(letter())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await redrive(store, to=Target(), dry_run=False, clock=clock)
        await asyncio.sleep(0)
        assert len(store) == 1

    run()
    assert "redrive: a letter was not settled, its lease will run out" in caplog.messages


@virtual
async def test_a_second_cancellation_waits_for_nothing(clock: LoopClock) -> None:
    store = Slow(clock=clock)
    await store.add(letter())
    task = asyncio.create_task(redrive(store, to=Target(), dry_run=False, clock=clock))
    for _ in range(2):
        await asyncio.sleep(1)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (len(store), clock.monotonic()) == (1, 2)
    await asyncio.sleep(1)


async def test_a_store_that_fails_ends_the_redrive_loudly(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    """What was sent and cannot be removed would come again with every further letter."""

    class Away(MemoryDeadLetterStore):
        async def settle(self, *given: Any) -> bool:
            raise OSError("away")

    store, target = Away(clock=clock), Target()
    for name in "ab":
        await store.add(letter(id=name))
    with pytest.raises(OSError, match="away"):
        await redrive(store, to=target, dry_run=False, clock=clock)
    assert target.ids == ["a"]
    assert "redrive: delivered, but it may still be in the store: id='a' source='/s' type='t'" in caplog.messages
    assert len(store) == 2


# Letters that come back.


async def test_an_event_that_becomes_the_same_letter_again_stays(clock: ManualClock) -> None:
    """The redrive goes to what has the stage in front of it: its acknowledgement only means "stored"."""
    store = MemoryDeadLetterStore(clock=clock)

    async def orders(event: Event) -> None:
        raise Reject("still wrong")

    chain = wrap(orders, dead_letters(store, clock=clock))
    await chain(new())
    await clock.sleep(60)
    for number in (1, 2):
        report = await redrive(store, to=chain, dry_run=False, attempts=2, clock=clock)
        assert counts(report) == {"selected": 1, "overtaken": 1}
        [found] = await stored(store)
        assert (found.redrives, found.times) == (number, number + 1)
    last = await redrive(store, to=chain, dry_run=False, attempts=2, clock=clock)
    assert counts(last) == {"selected": 1, "failed": 1, "quarantined": 1}


async def test_letters_that_come_while_it_runs_are_for_the_next(clock: ManualClock) -> None:
    """Or it might go on for ever."""
    store = MemoryDeadLetterStore(clock=clock)
    await store.add(letter())

    async def multiply(event: Event) -> None:
        await clock.sleep(1)
        await store.add(letter(id=event.id + "1", first_at=clock.now(), last_at=clock.now()))

    report = await redrive(store, to=multiply, dry_run=False, clock=clock)
    assert counts(report) == {"selected": 1, "delivered": 1, "newer": 1}
    assert await ids(store) == ["11"]


async def test_a_failure_of_a_letter_that_was_taken_over_is_not_ours(clock: ManualClock) -> None:
    store = MemoryDeadLetterStore(clock=clock)
    await store.add(letter())

    async def slow(event: Event) -> None:
        await clock.sleep(400)
        assert await store.lease(letter().id, 100)
        raise ValueError

    assert counts(await redrive(store, to=slow, dry_run=False, clock=clock)) == {"selected": 1, "overtaken": 1}
    assert (await stored(store))[0].reason == "broken"


# Progress.


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_progress_is_told_after_each_letter(store: MemoryDeadLetterStore, clock: ManualClock, kind: str) -> None:
    seen: list[tuple[int, int, str, bool]] = []

    def plain(report: Redriven, letter: DeadLetter, result: Result | None) -> None:
        seen.append((report.delivered, report.failed, letter.event.id, bool(result)))

    async def asynchronous(report: Redriven, letter: DeadLetter, result: Result | None) -> None:
        plain(report, letter, result)

    await redrive(
        store,
        to=Target(b=Nack()),
        dry_run=False,
        progress=plain if kind == "plain" else asynchronous,
        clock=clock,
    )
    assert seen == [(1, 0, "a", True), (1, 1, "b", False), (2, 1, "c", True)]


async def test_what_progress_raises_ends_the_redrive_and_loses_nothing(
    store: MemoryDeadLetterStore, clock: ManualClock
) -> None:
    def stop(*_: object) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError):
        await redrive(store, to=Target(), dry_run=False, progress=stop, clock=clock)
    assert await ids(store) == [*"bc"]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("rate", 0),
        ("limit", 0),
        ("attempts", 0),
        ("attempts", None),
        ("concurrency", 0),
        ("lease", 0),
        ("dry_run", 1),
        ("progress", 5),
    ],
)
async def test_settings_that_make_no_sense_are_refused(store: MemoryDeadLetterStore, argument: str, value: Any) -> None:
    given: dict[str, Any] = {argument: value}
    with pytest.raises((TypeError, ValueError), match=argument):
        await redrive(store, to=Target(), **given)
    with pytest.raises(TypeError, match="store: must be a DeadLetterStore"):
        await redrive(object())  # type: ignore[arg-type]


# Purging.


async def test_a_purge_is_loud(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    """K-D2: age and count."""
    store = MemoryDeadLetterStore(clock=clock)
    for hours in range(6):
        await store.add(letter(id=f"{hours}", last_at=START - timedelta(hours=6 - hours)))
    assert await purge(store, older_than=4.5 * 3600, clock=clock) == 2
    assert await purge(store, keep=3) == 1
    assert await purge(store, older_than=2.5 * 3600, keep=1, clock=clock) == 2
    assert await ids(store) == ["5"]
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "purged 2 dead letters for good: last failed more than 16200 s ago"),
        (logging.WARNING, "purged 1 dead letters for good: beyond the newest 3"),
        (
            logging.WARNING,
            "purged 2 dead letters for good: last failed more than 9000 s ago, or beyond the newest 1",
        ),
    ]


async def test_a_purge_of_everything_must_be_said(store: MemoryDeadLetterStore) -> None:
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: purge(store), "keep=0 throws everything away"),
        (lambda: purge(store, keep=-1), "keep: must be 0 or more"),
        (lambda: purge(store, older_than=0), "older_than: must be above 0"),
    ]
    for call, text in wrong:
        with pytest.raises(ValueError, match=text):
            await call()
    assert len(store) == 3
    assert await purge(store, keep=0) == 3
