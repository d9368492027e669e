"""What every `WindowStore` must do."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from cloudevents_kit._tally import Tally
from cloudevents_kit.stages import WindowStore

MakeWindows = Callable[..., WindowStore]
STATES: list[list[Any]] = [
    [2**53 + 1, -(2**63), 10**30],
    [0.1, 1e300, -0.0],
    [None, True, "", "\u00e4\U0001f600\x00'\"\\"],
    [[], {}, {"a": [{}]}],
]
"""What a careless store would change."""


def total(values: list[Any], states: list[Any] | None) -> list[Any]:
    """Add up."""
    return [(states or [0])[0] + values[0]]


async def add(store: WindowStore, event: str, start: int = 0, key: str = "k", value: int = 1, **more: Any) -> str:
    """Count an event."""
    return await store.add(start, key, (more.pop("source", "/s"), event), [value], total, **{"anywhere": False, **more})


async def states(store: WindowStore, key: str = "k", start: int | None = None) -> list[Any] | None:
    """Return what a window has of a key."""
    tally = await store.read(key, start)
    return None if tally is None else tally.states


@pytest.mark.asyncio
class WindowStoreConformance:
    """What every `WindowStore` must do; a subclass gives the fixture ``make``, which returns what makes stores.

    That is called once in each test, with some of ``max_windows``, ``max_keys``, ``max_events`` and ``keep``, and
    returns an empty store, opened, with these limits; see `MemoryWindowStore` for what they are.
    """

    async def test_an_event_counts_once_in_its_window(self, make: MakeWindows) -> None:
        store = make()
        assert await add(store, "1", value=5) == "counted"
        assert await add(store, "1", value=5) == "repeated"
        assert await add(store, "1", value=5, key="other") == "repeated"
        assert await add(store, "1", value=7, source="/another") == "counted"
        assert await add(store, "1", value=9, start=10) == "counted"
        assert await states(store, start=0) == [12]
        assert await states(store, "other") is None
        assert await states(store, "other", 0) is None

    async def test_one_that_may_be_anywhere_counts_once_in_all_open_windows(self, make: MakeWindows) -> None:
        store = make()
        assert await add(store, "1") == "counted"
        assert await add(store, "1", start=10, anywhere=True) == "repeated"
        await store.close(10, None)
        assert await add(store, "1", start=10, anywhere=True) == "counted"

    async def test_what_fails_changes_nothing(self, make: MakeWindows) -> None:
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

    async def test_many_at_once_lose_nothing(self, make: MakeWindows) -> None:
        store = make()
        added = await asyncio.gather(*[add(store, str(number % 100), value=number % 100) for number in range(200)])
        assert sorted(added) == ["counted"] * 100 + ["repeated"] * 100
        assert await states(store) == [sum(range(100))]

    @pytest.mark.parametrize("given", STATES)
    async def test_states_come_back_as_they_were(self, make: MakeWindows, given: list[Any]) -> None:
        store = make()
        before: list[list[Any] | None] = []

        def keep(values: list[Any], states: list[Any] | None) -> list[Any]:
            before.append(states)
            return given

        for event in "12":
            assert await store.add(0, "k", ("/s", event), [1], keep, anywhere=False) == "counted"
        tally = await store.read("k", None)
        assert tally is not None
        assert (repr(tally.states), repr(before[-1])) == (repr(given), repr(given))

    async def test_windows_of_all_times_are_apart_and_in_order(self, make: MakeWindows) -> None:
        """In microseconds since 1970, from the year 1 to 9999."""
        store = make()
        starts = [
            -62_135_596_800_000_000,
            -1000,
            0,
            1_780_000_000_000_000,
            1_780_000_000_001_000,
            253_402_300_799_999_000,
        ]
        for start in reversed(starts):
            assert await add(store, "1", start=start, value=start) == "counted"
        assert [window.start for window in await store.windows()] == starts
        assert [await states(store, start=start) for start in starts] == [[start] for start in starts]
        given: list[int] = []

        async def hand_out(tally: Tally) -> None:
            given.append(tally.start)

        assert await store.close(starts[4], hand_out) == []
        assert given == starts[:4]
        assert await add(store, "2", start=starts[3]) == "late"
        assert await add(store, "2", start=starts[4]) == "counted"

    async def test_a_closed_window_takes_no_more_and_is_kept_for_reading(self, make: MakeWindows) -> None:
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

    async def test_the_newest_window_that_has_the_key_is_read(self, make: MakeWindows) -> None:
        store = make()
        assert await store.read("k", None) is None
        await add(store, "1", start=10, value=1)
        await add(store, "2", start=0, value=2)
        await add(store, "3", start=20, key="other", value=3)
        assert await states(store) == [1]
        await store.close(30, None)
        assert await states(store) == [1]

    async def test_each_key_of_a_closed_window_is_handed_out_once(self, make: MakeWindows) -> None:
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

    async def test_what_was_not_taken_is_handed_out_again(self, make: MakeWindows) -> None:
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

    async def test_one_that_was_cancelled_is_handed_out_again(self, make: MakeWindows) -> None:
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

    async def test_further_keys_and_windows_overflow(self, make: MakeWindows) -> None:
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

    async def test_an_event_beyond_the_limit_counts_but_is_not_remembered_and_the_window_says_so(
        self, make: MakeWindows
    ) -> None:
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

    async def test_a_close_without_anybody_to_hand_out_to_may_come_in_between(self, make: MakeWindows) -> None:
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
