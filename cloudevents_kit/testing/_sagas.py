"""What every journal of sagas must do."""

import asyncio
from typing import Any

import pytest

from cloudevents_kit.saga import Journal
from cloudevents_kit.testing._ticks import Timed


async def save(journal: Journal, id: str = "1", version: int = 0, saga: str = "order", **given: Any) -> bool:
    """Save an entry that is due at once."""
    state = given.pop("state", b'{"a":1}')
    return await journal.save(saga, id, state, version=version, **{"due": 0.0, "lease": "", "expires": None, **given})


async def lease(journal: Journal, saga: str = "order", token: str = "t", seconds: float = 1000.0) -> Any:
    """Lease what is due."""
    return await journal.lease(saga, seconds, token)


@pytest.mark.asyncio
class JournalConformance(Timed):
    """What every `Journal` must do.

    A subclass gives the fixture ``journal``: an empty one for each test, opened.
    """

    async def test_what_was_saved_is_loaded_as_it_was(self, journal: Journal) -> None:
        state = '{"a": [1, 2.5, null, "ä€😀 \\u0000 \'\\"%"]}'.encode()
        assert await journal.load("order", "1") is None
        assert await save(journal, state=state, due=1e6, lease="token")
        found: Any = await journal.load("order", "1")
        assert found == ("1", 1, found[2], "token", state)
        assert 1e6 - 60 < found[2] <= 1e6
        assert await save(journal, version=1, due=None, state=b"{}")
        assert await journal.load("order", "1") == ("1", 2, None, "", b"{}")

    async def test_a_save_needs_the_version_that_is_there(self, journal: Journal) -> None:
        assert not await save(journal, version=1)
        assert await journal.load("order", "1") is None
        assert await save(journal, state=b"1", due=None)
        for version in (0, 2):
            assert not await save(journal, version=version, state=b"2", lease="x")
        assert await journal.load("order", "1") == ("1", 1, None, "", b"1")
        assert await lease(journal) is None

    async def test_of_many_saves_at_once_one_wins(self, journal: Journal) -> None:
        for version in range(3):
            saved = await asyncio.gather(*(save(journal, version=version, state=str(n).encode()) for n in range(10)))
            found: Any = await journal.load("order", "1")
            assert sum(saved) == 1
            assert found[1] == version + 1
            assert found[4] == str(saved.index(True)).encode()

    async def test_sagas_keep_apart(self, journal: Journal) -> None:
        assert await save(journal, saga="a", state=b"1", due=None, expires=0.0)
        assert await save(journal, saga="b", state=b"2")
        assert await journal.load("a", "1") == ("1", 1, None, "", b"1")
        found = await lease(journal, saga="b")
        assert (found[0], found[4]) == ("1", b"2")
        await self.passes(1)
        assert await journal.forget("b") == 0
        assert await journal.forget("a") == 1

    async def test_a_lease_takes_what_has_been_due_for_longest(self, journal: Journal) -> None:
        for id, due in (("late", 2.0), ("early", 1.0), ("later", 1000.0), ("over", None)):
            await save(journal, id, due=None if due is None else due * self.tick)
        assert await lease(journal) is None
        await self.passes(3)
        found = await lease(journal, token="x")
        assert found == ("early", 2, found[2], "x", b'{"a":1}')
        assert 900 < found[2] <= 1000
        assert (await journal.load("order", "early"))[:2] == ("early", 2)  # type: ignore[index]
        assert (await lease(journal))[0] == "late"
        assert await lease(journal) is None

    async def test_a_lease_voids_the_version_before_and_ends(self, journal: Journal) -> None:
        await save(journal)
        assert (await lease(journal, token="first", seconds=5 * self.tick))[1] == 2
        assert not await save(journal, version=1)
        await self.passes(3)
        assert await lease(journal) is None
        await self.passes(3)
        assert (await lease(journal, token="second"))[1:4:2] == (3, "second")
        assert not await save(journal, version=2)
        assert await save(journal, version=3, due=None)
        assert await lease(journal) is None

    async def test_many_at_once_lease_each_entry_once(self, journal: Journal) -> None:
        for number in range(10):
            await save(journal, str(number))
        found = await asyncio.gather(*(lease(journal, token=str(n)) for n in range(15)))
        assert sorted(one[0] for one in found if one is not None) == sorted(map(str, range(10)))

    async def test_all_entries_of_a_saga_are_read_page_by_page(self, journal: Journal) -> None:
        names = [f"{number:02}" for number in range(5)] + ["a", "B", "ä", "%", "a/b"]
        for number, id in enumerate(names):
            expires = 1000.0 if number % 2 else None
            assert await save(journal, id, due=None if number % 3 else 1e6, expires=expires)
        assert await save(journal, saga="other")
        for expiring, wanted in ((True, names), (False, names[::2])):
            found: list[str] = []
            while page := await journal.read("order", found[-1] if found else "", 3, expiring=expiring):
                assert len(page) <= 3
                found += [entry[0] for entry in page]
            assert sorted(found) == sorted(wanted)
        (entry,) = await journal.read("other", "", 10, expiring=False)
        assert (entry[0], entry[1], entry[3], entry[4]) == ("1", 1, "", b'{"a":1}')
        assert not await journal.read("none", "", 10, expiring=True)

    async def test_what_has_expired_is_forgotten(self, journal: Journal) -> None:
        for id, expires in (("old", 1.0), ("now", 2.0), ("new", 1000.0), ("never", None)):
            await save(journal, id, due=None, expires=None if expires is None else expires * self.tick)
        assert await journal.forget("order") == 0
        await self.passes(3)
        assert await journal.forget("order") == 2
        left = [await journal.load("order", id) is not None for id in ("old", "now", "new", "never")]
        assert left == [False, False, True, True]
        assert await save(journal, "old")  # as if it had never been

    async def test_a_save_changes_when_it_expires(self, journal: Journal) -> None:
        await save(journal, due=None, expires=0.0)
        await save(journal, version=1, due=None)
        await self.passes(1)
        assert await journal.forget("order") == 0

    @pytest.mark.parametrize("id", ["a/b:c'\"%_\\ ;--", "ä€😀", "x" * 256])
    async def test_any_printable_text_of_256_characters_is_an_id(self, journal: Journal, id: str) -> None:
        assert await save(journal, id, saga=id)
        assert (await lease(journal, saga=id))[0] == id
