"""What every implementation of `saga.Journal` must do; each one runs the same tests.

class TestSql(JournalConformance):
    @pytest.fixture
    async def journal(self) -> AsyncIterator[Journal]: ...
"""

import asyncio
from typing import Any

import pytest

from cloudevents_kit.saga import Journal


async def save(journal: Journal, id: str = "1", version: int = 0, saga: str = "order", **given: Any) -> bool:
    """Save an entry that is due at once."""
    state = given.pop("state", b'{"a":1}')
    return await journal.save(saga, id, state, version=version, **{"due": 10.0, "lease": "", "expires": None, **given})


async def lease(journal: Journal, now: float = 10.0, saga: str = "order", token: str = "t", lasts: float = 5.0) -> Any:
    """Lease what is due."""
    return await journal.lease(saga, now=now, until=now + lasts, token=token)


class JournalConformance:
    """Subclasses give the fixture ``journal``: an empty one for each test, opened."""

    async def test_what_was_saved_is_loaded_as_it_was(self, journal: Journal) -> None:
        state = '{"a": [1, 2.5, null, "ä€😀 \\u0000 \'\\"%"]}'.encode()
        assert await journal.load("order", "1") is None
        assert await save(journal, state=state, due=1_767_225_600.125, lease="token")
        assert await journal.load("order", "1") == ("1", 1, 1_767_225_600.125, "token", state)
        assert await save(journal, version=1, due=None, state=b"{}")
        assert await journal.load("order", "1") == ("1", 2, None, "", b"{}")

    async def test_a_save_needs_the_version_that_is_there(self, journal: Journal) -> None:
        assert not await save(journal, version=1)
        assert await journal.load("order", "1") is None
        assert await save(journal, state=b"1")
        for version in (0, 2):
            assert not await save(journal, version=version, state=b"2", due=None, lease="x")
        assert await journal.load("order", "1") == ("1", 1, 10.0, "", b"1")

    async def test_of_many_saves_at_once_one_wins(self, journal: Journal) -> None:
        for version in range(3):
            saved = await asyncio.gather(*(save(journal, version=version, state=str(n).encode()) for n in range(10)))
            found: Any = await journal.load("order", "1")
            assert sum(saved) == 1
            assert found[1] == version + 1
            assert found[4] == str(saved.index(True)).encode()

    async def test_sagas_keep_apart(self, journal: Journal) -> None:
        assert await save(journal, saga="a", state=b"1")
        assert await save(journal, saga="b", state=b"2")
        assert await journal.load("a", "1") == ("1", 1, 10.0, "", b"1")
        found = await lease(journal, saga="b")
        assert (found[0], found[4]) == ("1", b"2")
        assert await journal.forget("a", now=1e12) == 0

    async def test_a_lease_takes_what_has_been_due_for_longest(self, journal: Journal) -> None:
        for id, due in (("late", 9.0), ("early", 7.0), ("later", 11.0), ("over", None)):
            await save(journal, id, due=due)
        assert await lease(journal, token="x") == ("early", 2, 15.0, "x", b'{"a":1}')
        assert await journal.load("order", "early") == ("early", 2, 15.0, "x", b'{"a":1}')
        assert (await lease(journal))[0] == "late"
        assert await lease(journal) is None

    async def test_a_lease_voids_the_version_before_and_ends(self, journal: Journal) -> None:
        await save(journal)
        assert (await lease(journal, token="first"))[1] == 2
        assert not await save(journal, version=1)
        assert await lease(journal, now=14.9) is None
        assert (await lease(journal, now=15.0, token="second"))[1:4] == (3, 20.0, "second")
        assert not await save(journal, version=2)
        assert await save(journal, version=3, due=None)
        assert await lease(journal, now=1e9) is None

    async def test_many_at_once_lease_each_entry_once(self, journal: Journal) -> None:
        for number in range(10):
            await save(journal, str(number), due=float(number))
        found = await asyncio.gather(*(lease(journal, token=str(n)) for n in range(15)))
        assert sorted(one[0] for one in found if one is not None) == sorted(map(str, range(10)))

    async def test_what_has_expired_is_forgotten(self, journal: Journal) -> None:
        for id, expires in (("old", 5.0), ("now", 10.0), ("new", 10.5), ("never", None)):
            await save(journal, id, due=None, expires=expires)
        assert await journal.forget("order", now=10.0) == 2
        assert [await journal.load("order", id) is None for id in ("old", "now", "new", "never")] == [
            True,
            True,
            False,
            False,
        ]
        assert await save(journal, "old")  # as if it had never been

    async def test_a_save_changes_when_it_expires(self, journal: Journal) -> None:
        await save(journal, due=None, expires=5.0)
        await save(journal, version=1, due=None)
        assert await journal.forget("order", now=10.0) == 0

    @pytest.mark.parametrize("id", ["a/b:c'\"%_\\ ;--", "ä€😀", "x" * 256])
    async def test_any_printable_text_of_256_characters_is_an_id(self, journal: Journal, id: str) -> None:
        assert await save(journal, id, saga=id)
        assert (await lease(journal, saga=id))[0] == id
