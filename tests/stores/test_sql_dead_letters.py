"""Dead letters in SQLite and in PostgreSQL: the same as in memory, and they outlive the process."""

import asyncio
from typing import Any

import pytest

from cloudevents_kit.dead_letter import DeadLetter, DeadLetterStore
from cloudevents_kit.stores import open_store
from cloudevents_kit.stores.sql import SqlStore
from cloudevents_kit.stores.sql._dead_letters import SqlDeadLetterStore, _Add, _Lease, _Settle
from tests.support.conformance_dead_letters import LONG, DeadLetterStoreConformance, lease
from tests.support.dead_letters import letter, stored
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

    async def expires(self, store: DeadLetterStore, one: DeadLetter) -> None:
        await age(self.url, "cek_dead_letters", "until", LONG + 1)


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
    assert await others.lease(letter().id, LONG) is None


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
    wanted = _Lease(given.id, LONG)
    first, second = await twice(store._lease, wanted)
    assert first == second
    assert first[1].redrives == 1
    assert await twice(store._settle, _Settle(given.id, wanted.token, given)) == [True, True]
    token, _ = await lease(store, given)
    assert await twice(store._settle, _Settle(given.id, token, None)) == [True, True]
    assert await stored(store) == []


async def test_a_letter_that_cannot_be_read_says_so_and_can_be_purged(store: SqlDeadLetterStore, url: str) -> None:
    given = letter()
    await store.add(given)
    nonsense = "x'7b7d'" if url.startswith("sqlite") else "'\\x7b7d'"
    await execute(url, f"UPDATE cek_dead_letters SET letter = {nonsense}")
    for call in (store.lease(given.id, LONG), store.read(0, 10)):
        with pytest.raises(ValueError, match="the dead letter at position 1 cannot be read"):
            await call
    assert await store.purge(None, 0) == 1
