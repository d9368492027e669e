from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cloudevents_kit import EventError
from cloudevents_kit.stages import QueueStore
from cloudevents_kit.stores import StoreError, open_store
from cloudevents_kit.stores.sql import SqlStore
from cloudevents_kit.stores.sql._queue import _FRONT
from cloudevents_kit.testing import QueueStoreConformance
from tests.support.events import new
from tests.support.sql import age, execute, made


class TestConformance(QueueStoreConformance):
    url: str

    @pytest.fixture
    def store(self, opened: SqlStore, url: str) -> QueueStore:
        type(self).url = url
        return opened.queue

    async def passes(self, ticks: float) -> None:
        await age(self.url, "cek_queue", "due", ticks * self.tick)


async def test_an_event_that_cannot_be_read_fails_whoever_gets_it_and_stops_nobody(opened: SqlStore, url: str) -> None:
    queue = opened.queue
    for identity in "ab":
        await queue.put(new(id=identity), key=None, capacity=9)
    await execute(url, "UPDATE cek_queue SET event = CAST('x' AS BLOB) WHERE id = 1" if url.startswith("sqlite")
                  else "UPDATE cek_queue SET event = 'x' WHERE id = 1")  # fmt: skip
    found = await asyncio.gather(queue.lease(10), queue.lease(10), queue.lease(10), return_exceptions=True)
    assert isinstance(found[0], StoreError)
    assert str(found[0]).startswith("the event in row 1 of cek_queue cannot be read: ")
    assert isinstance(found[0].__cause__, EventError)
    assert isinstance(found[1], tuple)
    assert (found[1][1].id, found[2]) == ("b", None)


async def test_leases_of_different_lengths_may_come_at_once(opened: SqlStore, url: str) -> None:
    queue = opened.queue
    for identity in "ab":
        await queue.put(new(id=identity), key=None, capacity=9)
    short, long = await asyncio.gather(queue.lease(5), queue.lease(50))
    assert short is not None
    assert long is not None
    await age(url, "cek_queue", "due", 10)
    assert [await queue.ack(short[0]), await queue.ack(long[0])] == [False, True]


async def test_behind_many_of_one_key_the_others_go_on(opened: SqlStore) -> None:
    """And of each key the first, in its order, whatever waits for it."""
    queue = opened.queue
    many = _FRONT + 50
    for first in range(0, many, 50):
        await asyncio.gather(*(queue.put(new(id=f"a{first + n}"), key="a", capacity=999) for n in range(50)))
    for identity, key in (("b0", "b"), ("n0", None), ("c0", "c"), ("b1", "b"), ("n1", None)):
        assert await queue.put(new(id=identity), key=key, capacity=999)
    found = await asyncio.gather(*(queue.lease(60) for _ in range(7)))
    leased = {one[1].id: one[0] for one in found if one is not None}
    assert [*leased] == ["a0", "b0", "n0", "c0", "n1"]
    assert await queue.nack(leased["b0"], delay=60)
    for name in ("a0", "c0"):
        assert await queue.ack(leased[name])
    again, none = await asyncio.gather(queue.lease(60), queue.lease(60))
    assert again is not None
    assert (again[1].id, none) == ("a1", None)


async def test_a_lease_costs_no_more_the_more_of_its_key_wait(tmp_path: Path) -> None:
    """Counted in steps of SQLite's machine: the first of each key is found in an index, whatever waits behind it."""
    steps: list[int] = []

    def step() -> None:
        steps[-1] += 1

    async with made(open_store(f"sqlite:///{tmp_path / 'events.db'}")) as store:
        queue = store.queue
        await queue.put(new(id="first"), key="a", capacity=1)
        assert await queue.lease(60)
        raw: Any = await queue._lease._lane._connection.get_raw_connection()  # type: ignore[union-attr]
        for many in (500, 3000):
            await asyncio.gather(*(queue.put(new(id=str(number)), key="a", capacity=9999) for number in range(many)))
            steps.append(0)
            await raw.driver_connection.set_progress_handler(step, 10)
            assert await queue.lease(60) is None
            await raw.driver_connection.set_progress_handler(None, 0)
    few, many = steps
    assert 0 < many < 1.5 * few


@pytest.mark.parametrize("key", ["\x00", "x" * 10_000, '"', "\ud800"])
async def test_any_text_is_a_key(opened: SqlStore, key: str) -> None:
    queue = opened.queue
    for identity in ("a", "b" * 10_000):
        assert await queue.put(new(id=identity), key=key, capacity=9)
    leased = await queue.lease(10)
    assert leased is not None
    assert await queue.lease(10) is None
    assert await queue.ack(leased[0])
    assert await queue.lease(10) is not None


async def test_a_capacity_counts_what_is_there_and_not_what_was(opened: SqlStore) -> None:
    """Whatever numbers are between the first and the last."""
    queue = opened.queue
    for identity in "abcdefgh":
        assert await queue.put(new(id=identity), key=None, capacity=8)
    assert not await queue.put(new(id="i"), key=None, capacity=8)
    tokens = {}
    while (leased := await queue.lease(60)) is not None:
        tokens[leased[1].id] = leased[0]
    for identity in "cd":
        assert await queue.ack(tokens[identity])
    assert await queue.nack(tokens["e"], delay=None)
    assert [await queue.put(new(id=identity), key=None, capacity=8) for identity in "ijkl"] == [True] * 3 + [False]


async def test_a_capacity_holds_for_several_stores(url: str) -> None:
    async with open_store(url) as one, open_store(url) as other:
        found = await asyncio.gather(
            *(
                (one if number % 2 else other).queue.put(new(id=str(number)), key=None, capacity=7)
                for number in range(30)
            )
        )
    assert sum(found) == 7
