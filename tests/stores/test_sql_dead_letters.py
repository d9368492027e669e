"""Dead letters in SQLite and in PostgreSQL: the same as in memory, and they outlive the process."""

import asyncio
import os
from typing import Any

import pytest
import sqlalchemy as sa

from cloudevents_kit.dead_letter import DeadLetterStore, redrive
from cloudevents_kit.stores import open_store
from cloudevents_kit.stores.sql import SqlStore
from cloudevents_kit.stores.sql._dead_letters import SqlDeadLetterStore, _Add, _Lease, _Settle
from cloudevents_kit.testing import DeadLetterStoreConformance
from cloudevents_kit.testing._dead_letters import letter, stored
from cloudevents_kit.testing._events import new
from tests.support.sql import age, execute


@pytest.fixture
def store(opened: SqlStore) -> SqlDeadLetterStore:
    return opened.dead_letters


class TestSqlDeadLetterStore(DeadLetterStoreConformance):
    url: str

    @pytest.fixture
    def store(self, opened: SqlStore, url: str) -> DeadLetterStore:
        type(self).url = url
        return opened.dead_letters

    async def passes(self, ticks: float) -> None:
        await age(self.url, "cek_dead_letters", "until", ticks * self.tick)


async def test_letters_outlive_their_process(url: str) -> None:
    async with open_store(url) as first:
        assert await first.dead_letters.add(letter())
        before = await stored(first.dead_letters)
    async with open_store(url) as second:
        assert await stored(second.dead_letters) == before


async def test_scopes_keep_their_letters_apart(opened: SqlStore) -> None:
    some, others = opened.scoped("a").dead_letters, opened.scoped("b").dead_letters
    assert await some.add(letter())
    assert await others.add(letter(reason="other"))
    assert await others.purge(None, 0) == 1
    assert [one.reason for one in await stored(some)] == ["broken"]
    assert await others.lease(letter().id, 10) is None


async def test_two_processes_that_add_the_same_failure_make_one_letter(url: str) -> None:
    async with open_store(url) as one, open_store(url) as other:
        given = [letter(id=f"{number % 5}") for number in range(50)]
        await asyncio.gather(*((one, other)[n % 2].dead_letters.add(given[n]) for n in range(50)))
        assert sorted((each.event.id, each.times) for each in await stored(one.dead_letters)) == [
            (f"{number}", 10) for number in range(5)
        ]


async def test_a_call_that_is_repeated_because_its_answer_was_lost_comes_to_the_same_end(
    store: SqlDeadLetterStore,
) -> None:
    async def twice(operation: Any, item: Any) -> list[Any]:
        return [await operation(item), await operation(item)]

    given = letter()
    assert await twice(store._add, _Add(given, given.id)) == [True, True]
    assert [one.times for one in await stored(store)] == [1]
    wanted = _Lease(given.id, 10)
    first, second = await twice(store._lease, wanted)
    assert first == second
    assert first[1].redrives == 1
    assert await twice(store._settle, _Settle(given.id, wanted.token, given)) == [True, True]
    leased = await store.lease(given.id, 10)
    assert leased is not None
    assert await twice(store._settle, _Settle(given.id, leased[0], None)) == [True, True]
    assert await stored(store) == []


async def test_a_letter_that_cannot_be_read_says_so_and_holds_up_no_other(
    store: SqlDeadLetterStore, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(25):
        await store.add(letter(id=f"{number}"))
    nonsense = "x'7b7d'" if url.startswith("sqlite") else "'\\x7b7d'"
    await execute(url, f"UPDATE cek_dead_letters SET letter = {nonsense} WHERE position < 25")
    assert [one.event.id for one in await store.read(0, 10)] == ["24"]
    assert await store.read(25, 10) == []
    told = [
        f"passed over, and still in the store: the dead letter at position {n} cannot be read" for n in range(1, 25)
    ]
    assert [message.partition(":")[0] for message in caplog.messages] == ["passed over, and still in the store"] * 24
    assert all(message.startswith(begin) for message, begin in zip(caplog.messages, told, strict=True))
    with pytest.raises(ValueError, match="the dead letter at position 1 cannot be read"):
        await store.lease(letter(id="0").id, 10)
    with pytest.raises(ValueError, match="the dead letter at position 2 cannot be read"):
        await store.add(letter(id="1"))
    assert (await redrive(store, to=lambda _: None, dry_run=False)).delivered == 1
    assert await store.purge(None, 0) == 24


async def test_a_large_event_comes_back_byte_for_byte(store: SqlDeadLetterStore) -> None:
    event = new(data=os.urandom(5_000_000))
    assert await store.add(letter(event))
    [found] = await stored(store)
    assert found.event.raw == event.raw


async def test_few_statements_are_needed(store: SqlDeadLetterStore, opened: SqlStore) -> None:
    """A new letter is one insert; each turns into a wait for the database."""
    seen: list[str] = []

    @sa.event.listens_for(opened._database._engine.sync_engine, "before_cursor_execute")
    def note(*given: Any) -> None:
        if "cek_" in given[2]:
            seen.append(given[2].split()[0])

    given = letter()
    assert await store.add(given)
    assert await store.add(given)
    token, leased = await store.lease(given.id, 10) or ("", given)
    assert await store.settle(given.id, token, leased)
    token, _ = await store.lease(given.id, 10) or ("", given)
    assert await store.settle(given.id, token, None)
    put, again, lease = ["INSERT"], ["INSERT", "SELECT", "UPDATE"], ["SELECT", "UPDATE"]
    assert seen == [*put, *again, *lease, *lease, *lease, "SELECT", "DELETE"]
