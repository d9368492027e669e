from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cloudevents_kit._tally import Tally
from cloudevents_kit.stores import StoreError, open_store
from cloudevents_kit.stores.redis import RedisStore, _window_closing
from cloudevents_kit.stores.redis._windows import RedisWindowStore
from cloudevents_kit.testing import WindowStoreConformance
from cloudevents_kit.testing._windows import MakeWindows, add, states, total
from tests.support.redis import age, run


def limited(store: RedisStore, **limits: Any) -> RedisWindowStore:
    return RedisWindowStore(store._lanes, "", **limits)


class TestConformance(WindowStoreConformance):
    @pytest.fixture
    def make(self, redis_store: RedisStore) -> MakeWindows:
        return lambda **limits: limited(redis_store, **limits)


@pytest.mark.parametrize("key", ["", "\x00", '"quoted"', "x" * 10_000, "\ud800", "ä"])
async def test_any_text_is_a_key(redis_store: RedisStore, key: str) -> None:
    windows = redis_store.windows
    assert await add(windows, "1", key=key) == "counted"
    given: list[str] = []

    async def hand_out(tally: Tally) -> None:
        given.append(tally.key)

    found = await windows.read(key, 0)
    assert found is not None
    assert found.key == key
    assert await windows.close(10, hand_out) == []
    assert given == [key]


async def test_many_keys_are_handed_out_each_once_and_nothing_is_left(redis_store: RedisStore, redis_url: str) -> None:
    windows = limited(redis_store, keep=1)
    keys = [f"{number:03}" for number in range(220)]
    await asyncio.gather(*(add(windows, key, key=key) for key in keys))
    assert windows.status == {"open": 1, "waiting": 0, "closed": 0, "keys": 220, "remembered": 220}
    given: list[str] = []

    async def hand_out(tally: Tally) -> None:
        given.append(tally.key)

    await windows.close(10, hand_out)
    assert given == keys
    assert windows.status == {"open": 0, "waiting": 0, "closed": 1, "keys": 220, "remembered": 0}
    await add(windows, "later", start=10)
    await windows.close(20, None)
    assert windows.status == {"open": 0, "waiting": 0, "closed": 1, "keys": 1, "remembered": 0}
    await age(redis_url, 120)
    left = {key.decode() for key in await run(redis_url, "KEYS", "cek:w:*")}
    assert left == {"cek:w:0::mark", "cek:w:0::closed", "cek:w:0::w:10", "cek:w:0::s:10"}


async def test_large_windows_are_closed_in_several_steps(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_window_closing, "_CLOSED_AT_ONCE", 3)
    windows = redis_store.windows
    for start in (0, 10, 20, 30):
        await asyncio.gather(*(add(windows, f"{start}-{key}", start=start, key=str(key)) for key in range(3)))
    given: list[tuple[int, str]] = []

    async def hand_out(tally: Tally) -> None:
        given.append((tally.start, tally.key))

    await windows.close(30, hand_out)
    assert given == [(start, str(key)) for start in (0, 10, 20) for key in range(3)]
    assert windows.status == {"open": 1, "waiting": 0, "closed": 3, "keys": 12, "remembered": 3}


async def test_what_is_being_handed_out_is_held_for_as_long_as_that_takes(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_window_closing, "_LEASE", 0.3)
    windows = redis_store.windows
    await add(windows, "1")
    given: list[str] = []
    leave = asyncio.Event()

    async def hand_out(tally: Tally) -> None:
        given.append(tally.key)
        await leave.wait()

    slow = asyncio.ensure_future(windows.close(10, hand_out))
    await asyncio.sleep(0.8)
    assert await windows.close(10, hand_out) == []
    leave.set()
    assert await slow == []
    assert given == ["k"]


async def test_what_a_dead_process_was_handing_out_is_handed_out_after_a_minute(
    redis_store: RedisStore, redis_url: str
) -> None:
    windows = redis_store.windows
    await add(windows, "1")
    given: list[str] = []

    async def hand_out(tally: Tally) -> None:
        given.append(tally.key)

    async def die(tally: Tally) -> None:
        await redis_store.__aexit__()

    with pytest.raises(StoreError, match="is not open"):
        await windows.close(10, die)
    async with redis_store:
        assert await windows.close(10, hand_out) == []
        assert given == []
        await age(redis_url, 60)
        assert await windows.close(10, hand_out) == []
        assert given == ["k"]


async def test_what_several_processes_add_to_one_key_is_all_counted(redis_store: RedisStore, redis_url: str) -> None:
    async with open_store(redis_url) as second, open_store(redis_url) as third:
        stores = (redis_store.windows, second.windows, third.windows)
        added = await asyncio.gather(*(add(stores[number % 3], str(number), value=number) for number in range(1500)))
        again = await asyncio.gather(*(add(stores[number % 2], str(number)) for number in range(100)))
        assert set(added) == {"counted"}
        assert set(again) == {"repeated"}
        assert [await states(store) for store in stores] == [[sum(range(1500))]] * 3


async def test_a_fold_that_loses_the_race_is_made_again_on_what_is_there(
    redis_store: RedisStore, redis_url: str
) -> None:
    async with open_store(redis_url) as other:
        windows = redis_store.windows
        await add(windows, "1", value=1)
        await add(other.windows, "2", value=10)
        folded: list[Any] = []

        def fold(values: list[Any], before: list[Any] | None) -> list[Any]:
            folded.append(before)
            return total(values, before)

        assert await windows.add(0, "k", ("/s", "3"), [100], fold, anywhere=False) == "counted"
        assert folded == [[1], [11]]
        assert await states(windows) == [111]


async def test_a_fold_that_fails_on_what_was_overtaken_is_made_again(redis_store: RedisStore, redis_url: str) -> None:
    async with open_store(redis_url) as other:
        windows = redis_store.windows
        await add(windows, "1", value=1)
        await add(other.windows, "2", value=10)

        def fold(values: list[Any], before: list[Any] | None) -> list[Any]:
            if before == [1]:
                raise ArithmeticError
            return total(values, before)

        assert await windows.add(0, "k", ("/s", "3"), [100], fold, anywhere=False) == "counted"


async def test_one_that_never_wins_is_told_so(redis_url: str) -> None:
    async with open_store(redis_url, patience=0.2) as store, open_store(redis_url) as other:
        numbers = iter(range(10**9))
        await add(store.windows, "first")

        def fold(values: list[Any], before: list[Any] | None) -> list[Any]:
            return [*(before or ()), 1]

        windows: Any = store.windows
        attempt = windows._try

        async def overtaken(*given: Any) -> None:
            await add(other.windows, f"other {next(numbers)}")
            await attempt(*given)

        windows._try = overtaken
        mine = windows.add(0, "k", ("/s", "mine"), [1], fold, anywhere=False)
        found = await asyncio.gather(mine, add(windows, "another", key="another"), return_exceptions=True)
        assert "is contended: others change these windows all the time" in str(found[0])
        assert isinstance(found[0], StoreError)
        assert found[1] == "counted"
        assert await states(windows, "another") == [1]


async def test_folds_that_fail_among_others_leave_these_as_they_are(redis_store: RedisStore) -> None:
    windows = redis_store.windows

    def fail(values: list[Any], before: list[Any] | None) -> list[Any]:
        raise ArithmeticError

    found = await asyncio.gather(
        add(windows, "1"),
        windows.add(0, "k", ("/s", "2"), [1], fail, anywhere=False),
        windows.add(0, "other", ("/s", "3"), [1], fail, anywhere=False),
        windows.add(0, "k", ("/s", "1"), [1], fail, anywhere=False),
        windows.add(0, "k", ("/s", "2"), [1], total, anywhere=False),
        add(windows, "4"),
        return_exceptions=True,
    )
    assert [one if isinstance(one, str) else type(one) for one in found] == [
        "counted", ArithmeticError, ArithmeticError, "repeated", "counted", "counted",
    ]  # fmt: skip
    assert await states(windows) == [3]
    assert await states(windows, "other") is None


async def test_states_that_are_no_json_fail_their_key_and_no_other(redis_store: RedisStore) -> None:
    windows = redis_store.windows

    def make(values: list[Any], before: list[Any] | None) -> list[Any]:
        return [object()]

    wrong = windows.add(0, "wrong", ("/s", "1"), [1], make, anywhere=False)
    found = await asyncio.gather(wrong, add(windows, "2"), return_exceptions=True)
    assert isinstance(found[0], TypeError)
    assert found[1] == "counted"
    with pytest.raises(TypeError):
        await windows.add(0, "wrong", ("/s", "1"), [1], make, anywhere=False)
    assert await states(windows, "wrong") is None


async def test_what_is_remembered_of_states_is_bounded(redis_store: RedisStore) -> None:
    windows = redis_store.windows
    await asyncio.gather(*(add(windows, str(number), key=str(number)) for number in range(1200)))
    assert len(windows._known) == 1000
    assert await add(windows, "again", key="0") == "counted"
    assert await states(windows, "0") == [2]
