import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudevents_kit import Event, Retry, settle, wrap
from cloudevents_kit.stages import (
    count,
    distinct,
    sum_of,
)
from cloudevents_kit.stages._windows import moment_of, moment_of_event, text_of_moment
from cloudevents_kit.stores.memory import MemoryWindowStore
from cloudevents_kit.testing import WindowStoreConformance
from cloudevents_kit.testing._windows import MakeWindows
from tests.support.aggregates import at, clocked, take
from tests.support.clock import START
from tests.support.events import new, read
from tests.support.virtual import LoopClock, virtual


class TestMemory(WindowStoreConformance):
    @pytest.fixture
    def make(self) -> MakeWindows:
        return MemoryWindowStore


@virtual
async def test_four_workers_and_a_thousand_events_of_one_key(clock: LoopClock) -> None:
    """K-D6: count and sum are exact, distinct counts distinct, and a query by key finds it."""
    values = {"orders": count(), "revenue": sum_of("data.total"), "customers": distinct("data.customer")}
    stage = clocked(clock, values, by="data.shop", name="sales")
    rng = random.Random(6)

    async def handle(event: Event) -> None:
        await asyncio.sleep(rng.random())

    handler = wrap(handle, stage)
    waiting = [at(n % 10, f"{n}", data={"shop": 7, "total": 0.1, "customer": n % 42}) for n in range(1000)]

    async def work() -> None:
        while waiting:
            await handler(waiting.pop())

    await asyncio.gather(*[work() for _ in range(4)])
    found = await stage.query(7)
    assert found == {
        "name": "sales",
        "key": "7",
        "start": "2026-01-01T00:00:00Z",
        "end": "2026-01-01T00:00:10Z",
        "count": 1000,
        "values": {"orders": 1000, "revenue": 100.0, "customers": 42},
        "closed": False,
        "approximate": [],
    }
    assert await stage.query("7") == found
    assert await stage.query("8") is None


@virtual
async def test_an_event_that_comes_again_counts_once(clock: LoopClock) -> None:
    """K-D6: by source and id."""
    stage = clocked(clock)
    handler = wrap(take, stage)
    for _ in range(3):
        await handler(at(1, "a"))
    await handler(at(1, "a", source="/another"))
    found = await stage.query()
    assert found is not None
    assert found["count"] == 2
    assert stage.counts == {"repeated": 2}


@virtual
async def test_an_event_in_fifty_copies_at_once_counts_once(clock: LoopClock) -> None:
    """K-D6, trap 21."""
    stage = clocked(clock)

    async def handle(event: Event) -> None:
        await asyncio.sleep(1)

    handler = wrap(handle, stage)
    await asyncio.gather(*[handler(at(1)) for _ in range(50)])
    found = await stage.query()
    assert found is not None
    assert found["count"] == 1
    assert stage.counts == {"repeated": 49}


@virtual
async def test_an_event_counts_when_it_succeeds_at_last(clock: LoopClock) -> None:
    """K-D6: one that failed and came again counts once."""
    stage = clocked(clock)
    ends: list[Exception | None] = [ValueError(), Retry(), None]

    async def handle(event: Event) -> None:
        end = ends.pop(0)
        if end:
            raise end

    handler = wrap(handle, stage)
    for error in (ValueError, Retry):
        with pytest.raises(error):
            await handler(at(1))
        assert await stage.query() is None
    await handler(at(1))
    found = await stage.query()
    assert found is not None
    assert found["count"] == 1


@virtual
async def test_of_fifty_tasks_those_that_are_cancelled_do_not_count(clock: LoopClock) -> None:
    """K-D6: and leave nothing behind that would keep the window open."""
    stage = clocked(clock, {"sum": sum_of("data")})

    async def handle(event: Event) -> None:
        await asyncio.sleep(event.data % 5)

    handler = wrap(handle, stage)
    tasks = [asyncio.ensure_future(handler(at(n % 10, f"{n}", data=n))) for n in range(50)]
    await asyncio.sleep(1.5)
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(end, asyncio.CancelledError) for end in ends] == [n % 5 > 1 for n in range(50)]
    assert stage.status["in_work"] == 0
    found = await stage.query()
    assert found is not None
    assert (found["count"], found["values"]["sum"]) == (20, sum(n for n in range(50) if n % 5 < 2))


# Windows.


@virtual
async def test_windows_go_by_the_time_of_the_event(clock: LoopClock) -> None:
    """K-D6: not by when it comes."""
    stage = clocked(clock)
    handler = wrap(take, stage)
    await asyncio.sleep(100)
    for second in (0, 9.999999, 10, 3, 12):
        await handler(at(second))
    counts = {one["start"]: one["count"] for one in await stage.windows()}
    assert counts == {"2026-01-01T00:00:00Z": 3, "2026-01-01T00:00:10Z": 2}
    for when in (START, "2026-01-01T01:00:09.9+01:00"):
        found = await stage.query(at=when)
        assert found is not None
        assert found["count"] == 3
    newest = await stage.query()
    assert newest is not None
    assert newest["count"] == 2
    assert await stage.query(at=START + timedelta(hours=1)) is None


@virtual
async def test_a_window_closes_by_the_times_of_events_after_its_lateness(clock: LoopClock) -> None:
    """K-D6: late events are counted as such, and go on."""
    stage = clocked(clock)
    passed: list[Event] = []

    async def handle(event: Event) -> None:
        passed.append(event)

    handler = wrap(handle, stage)
    await asyncio.sleep(100)
    await handler(at(1))
    await handler(at(14.999999))
    await handler(at(2))
    first = await stage.query(at=START)
    assert first is not None
    assert (first["count"], first["closed"]) == (2, False)
    await handler(at(15))
    late = at(3)
    await handler(late)
    first = await stage.query(at=START)
    assert first is not None
    assert (first["count"], first["closed"]) == (2, True)
    assert stage.counts == {"late": 1}
    assert passed[-1] is late


@virtual
async def test_an_event_that_came_in_time_counts_however_long_it_takes(clock: LoopClock) -> None:
    stage = clocked(clock)
    go = asyncio.Event()

    async def handle(event: Event) -> None:
        if event.id == "slow":
            await go.wait()

    handler = wrap(handle, stage)
    await asyncio.sleep(100)
    slow = asyncio.ensure_future(handler(at(1, "slow")))
    await asyncio.sleep(0)
    await handler(at(50))
    await handler(at(2))
    first = await stage.query(at=START)
    assert first is None
    assert stage.counts == {"late": 1}
    go.set()
    await slow
    first = await stage.query(at=START)
    assert first is not None
    assert (first["count"], first["closed"]) == (1, True)


@virtual
async def test_a_time_ahead_of_the_clock_closes_nothing(clock: LoopClock) -> None:
    stage = clocked(clock, ahead=60)
    handler = wrap(take, stage)
    await handler(at(1))
    await handler(at(60))
    await handler(at(60.000001))
    await handler(at(2))
    assert [(one["closed"], one["count"]) for one in await stage.windows()] == [(False, 2), (False, 1)]
    assert stage.counts == {"ahead": 1}
    await asyncio.sleep(15)
    await handler(at(61))  # now the clock has passed the first window, and this event says so
    assert [(one["closed"], one["count"]) for one in await stage.windows()] == [(True, 2), (False, 2)]


@virtual
async def test_without_events_the_clock_closes_what_is_over(clock: LoopClock) -> None:
    stage = clocked(clock, idle=30)
    handler = wrap(take, stage)
    await handler(at(1))
    await handler(at(40))
    await asyncio.sleep(29)
    assert [one["closed"] for one in await stage.windows()] == [False, False]
    await asyncio.sleep(1)
    assert [one["closed"] for one in await stage.windows()] == [True, False]
    await asyncio.sleep(1000)
    assert [one["closed"] for one in await stage.windows()] == [True, True]
    await handler(at(50))  # older than the clock, but of a window that nobody has closed
    assert stage.counts == {}


@virtual
async def test_without_an_idle_time_only_events_close(clock: LoopClock) -> None:
    stage = clocked(clock, idle=None)
    await wrap(take, stage)(at(1))
    await asyncio.sleep(100_000)
    assert [one["closed"] for one in await stage.windows()] == [False]


@virtual
async def test_events_without_a_time_are_not_given_one(clock: LoopClock) -> None:
    stage = clocked(clock)
    assert await settle(wrap(take, stage), new(time=None))
    assert await stage.windows() == []
    assert stage.counts == {"untimed": 1}


@virtual
async def test_events_without_a_time_may_count_when_they_come(clock: LoopClock) -> None:
    stage = clocked(clock, without_time="arrival")
    handler = wrap(take, stage)
    await asyncio.sleep(9)
    await handler(new(time=None))
    await asyncio.sleep(1)
    await handler(new(time=None))  # the same again, in the next window
    await handler(new(time=None, id="2"))
    assert [one["count"] for one in await stage.windows()] == [1, 1]
    assert stage.counts == {"untimed": 3, "repeated": 1}


@given(
    st.one_of(
        st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
            lambda when: when.isoformat()
        ),
        st.sampled_from(
            [
                "2026-01-01T00:00:00Z",
                "2026-01-01t00:00:00z",
                "2026-01-01T00:00:00.1Z",
                "2026-01-01T00:00:00.123456789Z",
                "2016-12-31T23:59:60Z",
                "2026-01-01T00:00:00.5-23:59",
                "2026-01-01T00:00:00-00:00",
                "0001-01-01T00:00:00Z",
                "9999-12-31T23:59:59.999999Z",
            ]
        ),
    )
)
def test_a_moment_is_the_time_of_the_event(text: str) -> None:
    event = read(time=text)
    assert event.time is not None
    moment = moment_of_event(event, text)
    assert moment == moment_of(event.time)
    if event.time.year < 9999:
        assert datetime.fromisoformat(text_of_moment(moment)) == event.time


@virtual
async def test_a_window_that_begins_before_the_calendar_can_be_shown(clock: LoopClock) -> None:
    stage = clocked(clock, size=7 * 86400)
    await wrap(take, stage)(read(time="0001-01-01T00:00:00Z"))
    (window,) = await stage.windows()
    assert window["start"] == "0001-01-01T00:00:00Z"
