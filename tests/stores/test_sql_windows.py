from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cloudevents_kit._tally import Tally
from cloudevents_kit.stores import StoreError
from cloudevents_kit.stores.sql import SqlStore, _window_closing
from cloudevents_kit.stores.sql._windows import SqlWindowStore
from cloudevents_kit.testing import WindowStoreConformance
from cloudevents_kit.testing._windows import MakeWindows, add
from tests.support.sql import age, execute


class TestConformance(WindowStoreConformance):
    @pytest.fixture
    def make(self, opened: SqlStore) -> MakeWindows:
        def make(**limits: Any) -> SqlWindowStore:
            return SqlWindowStore(opened.windows._rows.lane, "", **limits)

        return make


@pytest.mark.parametrize("key", ["", "\x00", '"quoted"', "x" * 10_000, "\ud800", "ä"])
async def test_any_text_is_a_key(opened: SqlStore, key: str) -> None:
    windows = opened.windows
    assert await add(windows, "1", key=key) == "counted"
    given: list[str] = []

    async def hand_out(tally: Tally) -> None:
        given.append(tally.key)

    found = await windows.read(key, 0)
    assert found is not None
    assert found.key == key
    assert await windows.close(10, hand_out) == []
    assert given == [key]


async def test_many_keys_are_handed_out_in_their_order_and_each_once(opened: SqlStore) -> None:
    windows = opened.windows
    keys = [f"{number:03}" for number in range(120)]
    await asyncio.gather(*(add(windows, key, key=key) for key in keys))
    assert windows.status == {"open": 1, "waiting": 0, "closed": 0, "keys": 120, "remembered": 120}
    given: list[str] = []

    async def hand_out(tally: Tally) -> None:
        given.append(tally.key)

    await windows.close(10, hand_out)
    assert given == keys
    assert windows.status == {"open": 0, "waiting": 0, "closed": 1, "keys": 120, "remembered": 0}


async def test_what_is_being_handed_out_is_held_for_as_long_as_that_takes(
    opened: SqlStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_window_closing, "_LEASE", 0.3)
    windows = opened.windows
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


async def test_what_a_dead_process_was_handing_out_is_handed_out_after_a_minute(opened: SqlStore, url: str) -> None:
    windows = opened.windows
    await add(windows, "1")
    await windows._closing._close(_window_closing._Close(10, silently=False))
    await windows._closing._take(_window_closing._Take("of the dead", (-1, "")))
    given: list[str] = []

    async def hand_out(tally: Tally) -> None:
        given.append(tally.key)

    await windows.close(10, hand_out)
    assert given == []
    await age(url, "cek_window_states", "held", 60)
    await windows.close(10, hand_out)
    assert given == ["k"]


async def test_a_store_that_is_closed_meanwhile_leaves_what_was_not_handed_out(opened: SqlStore, url: str) -> None:
    windows = opened.windows
    await add(windows, "1")

    async def hand_out(tally: Tally) -> None:
        await opened.__aexit__()

    with pytest.raises(StoreError, match="is not open"):
        await windows.close(10, hand_out)
    assert await execute(url, "SELECT count(*) FROM cek_window_states WHERE waiting") == [(1,)]
