"""What every store of windows must do: run each of `CHECKS` on a new store with the limits that it is given."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cloudevents_kit._tally import Tally
from cloudevents_kit.stages import WindowStore

#: Returns a new, empty store; takes the limits of `MemoryWindowStore`, by the same names.
Make = Callable[..., WindowStore]
Check = Callable[[Make], Awaitable[None]]
CHECKS: list[Check] = []


def check(function: Check) -> Check:
    CHECKS.append(function)
    return function


def total(values: list[Any], states: list[Any] | None) -> list[Any]:
    return [(states or [0])[0] + values[0]]


async def add(store: WindowStore, event: str, start: int = 0, key: str = "k", value: int = 1, **more: Any) -> str:
    return await store.add(start, key, (more.pop("source", "/s"), event), [value], total, **{"anywhere": False, **more})


async def states(store: WindowStore, key: str = "k", start: int | None = None) -> list[Any] | None:
    tally = await store.read(key, start)
    return None if tally is None else tally.states


@check
async def an_event_counts_once_in_its_window(make: Make) -> None:
    store = make()
    assert await add(store, "1", value=5) == "counted"
    assert await add(store, "1", value=5) == "repeated"
    assert await add(store, "1", value=5, key="other") == "repeated"
    assert await add(store, "1", value=7, source="/another") == "counted"
    assert await add(store, "1", value=9, start=10) == "counted"
    assert await states(store, start=0) == [12]
    assert await states(store, "other") is None
    assert await states(store, "other", 0) is None


@check
async def one_that_may_be_anywhere_counts_once_in_all_open_windows(make: Make) -> None:
    store = make()
    assert await add(store, "1") == "counted"
    assert await add(store, "1", start=10, anywhere=True) == "repeated"
    await store.close(10, None)
    assert await add(store, "1", start=10, anywhere=True) == "counted"


@check
async def what_fails_changes_nothing(make: Make) -> None:
    store = make()
    await add(store, "1")

    def fail(values: list[Any], states: list[Any] | None) -> list[Any]:
        raise ArithmeticError

    for start in (0, 10):
        with pytest.raises(ArithmeticError):
            await store.add(start, "k", ("/s", "2"), [1], fail, anywhere=False)
    assert await states(store) == [1]
    assert [(window.start, window.events) for window in await store.windows()] == [(0, 1)]
    assert await add(store, "2") == "counted"


@check
async def many_at_once_lose_nothing(make: Make) -> None:
    store = make()
    added = await asyncio.gather(*[add(store, str(number % 100), value=number % 100) for number in range(200)])
    assert sorted(added) == ["counted"] * 100 + ["repeated"] * 100
    assert await states(store) == [sum(range(100))]


@check
async def a_closed_window_takes_no_more_and_is_kept_for_reading(make: Make) -> None:
    store = make(keep=1)
    await add(store, "1")
    await add(store, "2", start=10)
    assert await store.close(10, None) == []
    assert await add(store, "3") == "late"
    assert await add(store, "3", start=-10) == "late"
    found = await store.read("k", 0)
    assert found == Tally(0, "k", [1], closed=True, complete=True)
    assert [(one.start, one.closed) for one in await store.windows()] == [(0, True), (10, False)]
    await store.close(20, None)
    assert await store.read("k", 0) is None
    assert await store.close(0, None) == []
    assert await add(store, "4", start=10) == "late"


@check
async def the_newest_window_that_has_the_key_is_read(make: Make) -> None:
    store = make()
    assert await store.read("k", None) is None
    await add(store, "1", start=10, value=1)
    await add(store, "2", start=0, value=2)
    await add(store, "3", start=20, key="other", value=3)
    assert await states(store) == [1]
    await store.close(30, None)
    assert await states(store) == [1]


@check
async def each_key_of_a_closed_window_is_handed_out_once(make: Make) -> None:
    store = make()
    for number in range(6):
        await add(store, str(number), start=number // 3 * 10, key=str(number % 3))
    given: list[tuple[int, str]] = []

    async def hand_out(tally: Tally) -> None:
        given.append((tally.start, tally.key))
        await asyncio.sleep(0)

    assert await asyncio.gather(*[store.close(20, hand_out) for _ in range(5)]) == [[]] * 5
    assert await store.close(20, hand_out) == []
    assert given.count((0, "1")) == 1
    assert sorted(given) == [(start, key) for start in (0, 10) for key in "012"]


@check
async def what_was_not_taken_is_handed_out_again(make: Make) -> None:
    store = make(keep=0)
    await add(store, "1", key="good")
    await add(store, "2", key="bad")
    given: list[str] = []

    async def hand_out(tally: Tally) -> None:
        given.append(tally.key)
        if tally.key == "bad" and given.count("bad") == 1:
            raise ConnectionError

    errors = await store.close(10, hand_out)
    assert [type(error) for error in errors] == [ConnectionError]
    assert await states(store, "bad") == [1]  # kept, whatever the limit
    assert await store.close(10, hand_out) == []
    assert sorted(given) == ["bad", "bad", "good"]
    assert await states(store, "bad") is None


@check
async def one_that_was_cancelled_is_handed_out_again(make: Make) -> None:
    store = make()
    await add(store, "1")
    given: list[str] = []
    called = asyncio.Event()

    async def hand_out(tally: Tally) -> None:
        given.append(tally.key)
        if len(given) == 1:
            called.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(store.close(10, hand_out))
    await called.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.close(10, hand_out) == []
    assert given == ["k", "k"]


@check
async def further_keys_and_windows_overflow(make: Make) -> None:
    store = make(max_keys=2, max_windows=2)
    for number in range(4):
        await add(store, str(number), key=str(number))
    assert await add(store, "5", key="1") == "counted"
    (window,) = await store.windows()
    assert (window.keys, window.events, window.overflow) == (2, 3, 2)
    assert await add(store, "6", start=10) == "counted"
    assert await add(store, "6", start=20) == "overflow"

    async def fail(tally: Tally) -> None:
        raise ConnectionError

    await store.close(10, fail)  # waits, and takes up room
    assert await add(store, "6", start=20) == "overflow"
    await store.close(10, None)
    assert await add(store, "6", start=20) == "counted"


@check
async def an_event_beyond_the_limit_counts_but_is_not_remembered_and_the_window_says_so(make: Make) -> None:
    store = make(max_events=1)
    assert await add(store, "1") == "counted"
    tally = await store.read("k", 0)
    assert tally is not None
    assert tally.complete
    assert [await add(store, "2"), await add(store, "2")] == ["unremembered"] * 2
    assert await add(store, "1") == "repeated"
    tally = await store.read("k", 0)
    assert tally is not None
    assert not tally.complete
    assert tally.states == [3]
    await store.close(10, None)  # makes room
    assert await add(store, "3", start=10) == "counted"


@check
async def a_close_without_anybody_to_hand_out_to_may_come_in_between(make: Make) -> None:
    store = make()
    await add(store, "1")

    async def hand_out(tally: Tally) -> None:
        assert await store.close(10, None) == []

    assert await store.close(10, hand_out) == []

    await add(store, "2", start=10)

    async def fail(tally: Tally) -> None:
        await store.close(20, None)
        raise ConnectionError

    assert len(await store.close(20, fail)) == 1
    assert await store.close(20, fail) == []
