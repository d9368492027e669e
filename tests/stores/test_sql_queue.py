from __future__ import annotations

import asyncio

import pytest

from cloudevents_kit import EventError
from cloudevents_kit.stages import QueueStore
from cloudevents_kit.stores import open_store
from cloudevents_kit.stores.sql import SqlStore
from tests.support.events import new
from tests.support.queue_store import QueueStoreConformance
from tests.support.sql import age, execute


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
    assert isinstance(found[0], EventError)
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


async def test_a_capacity_holds_for_several_stores(url: str) -> None:
    async with open_store(url) as one, open_store(url) as other:
        found = await asyncio.gather(
            *(
                (one if number % 2 else other).queue.put(new(id=str(number)), key=None, capacity=7)
                for number in range(30)
            )
        )
    assert sum(found) == 7
