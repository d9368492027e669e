"""What every `DeadLetterStore` must do."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloudevents_kit._event import Event
from cloudevents_kit.dead_letter import DeadLetter, DeadLetterStore, Tried
from cloudevents_kit.testing._events import EVENTS, exact, new
from cloudevents_kit.testing._ticks import Timed

AT = datetime(2025, 12, 31, 23, 0, 0, 123456, tzinfo=UTC)


def letter(event: Event | None = None, **given: Any) -> DeadLetter:
    """Return the letter of an event that failed at `AT`, the same each time."""
    about_event = {name: given.pop(name) for name in ("id", "source") if name in given}
    if event is None:
        event = new(data={"a": 1}, **about_event)
    fields: dict[str, Any] = {
        "event": event,
        "direction": "inbound",
        "destination": "orders",
        "status": 500,
        "reason": "broken",
        "error": "ValueError",
        "attempts": 1,
        "tries": (Tried(AT, 500, "ValueError", 0.25),),
        "first_at": AT,
        "last_at": AT + timedelta(seconds=0.25),
    }
    return DeadLetter(**{**fields, **given})


async def stored(store: DeadLetterStore) -> Sequence[DeadLetter]:
    """Return all letters."""
    return await store.read(0, 10_000)


@pytest.mark.asyncio
class DeadLetterStoreConformance(Timed):
    """What every `DeadLetterStore` must do.

    A subclass gives the fixture ``store``: an empty one for each test, opened.
    """

    async def taken(self, store: DeadLetterStore, one: DeadLetter) -> tuple[str, DeadLetter]:
        """Lease for ten ticks what is there to be leased."""
        found = await store.lease(one.id, 10 * self.tick)
        assert found is not None
        return found

    # What is kept.

    @pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
    async def test_an_event_comes_back_byte_for_byte(self, store: DeadLetterStore, event: Event) -> None:
        given = letter(event)
        assert await store.add(given)
        [kept] = await stored(store)
        assert exact(kept.event) == exact(event)
        _, leased = await self.taken(store, given)
        assert exact(leased.event) == exact(event)

    async def test_everything_else_comes_back(self, store: DeadLetterStore) -> None:
        given = letter(path=("a", "b"), reason="x\n\u00e4\U0001f600'\"\\", quarantined=True, possibly_delivered=True)
        assert await store.add(given)
        [kept] = await stored(store)
        assert kept.position > 0
        assert replace(kept, position=0) == given

    async def test_letters_are_read_in_the_order_they_came(self, store: DeadLetterStore) -> None:
        for number in range(5):
            assert await store.add(letter(id=f"{number}"))
        found = await stored(store)
        assert [one.event.id for one in found] == [*"01234"]
        assert [one.position for one in found] == sorted({one.position for one in found})
        assert await store.read(0, 2) == found[:2]
        assert await store.read(found[1].position, 2) == found[2:4]
        assert await store.read(found[4].position, 2) == []

    async def test_what_is_not_the_same_failure_is_another_letter(self, store: DeadLetterStore) -> None:
        given = [
            letter(),
            letter(id="2"),
            letter(source="/other"),
            letter(destination="other"),
            letter(direction="outbound"),
        ]
        for one in given:
            assert await store.add(one)
        assert [one.id for one in await stored(store)] == [one.id for one in given]

    async def test_the_same_failure_adds_to_its_letter(self, store: DeadLetterStore) -> None:
        first, other = letter(attempts=3, possibly_delivered=True, status=503), letter(id="2")
        later = letter(attempts=2, status=422, last_at=AT + timedelta(hours=1), reason="again")
        for one in (first, other, later):
            assert await store.add(one)
        merged, _ = found = await stored(store)
        assert [one.event.id for one in found] == ["1", "2"]
        assert merged == replace(first.again(later), position=merged.position)
        assert (merged.attempts, merged.times, merged.status, merged.reason) == (5, 2, 422, "again")
        assert merged.possibly_delivered
        assert merged.first_at == first.first_at

    async def test_many_that_come_at_once_are_one_letter(self, store: DeadLetterStore) -> None:
        assert all(await asyncio.gather(*(store.add(letter(id=f"{n % 2}")) for n in range(20))))
        assert sorted((one.event.id, one.times, one.attempts) for one in await stored(store)) == [
            ("0", 10, 10),
            ("1", 10, 10),
        ]

    # Leases.

    async def test_of_many_at_once_one_gets_the_lease(self, store: DeadLetterStore) -> None:
        given = letter()
        await store.add(given)
        found = await asyncio.gather(*(store.lease(given.id, 10 * self.tick) for _ in range(20)))
        assert sum(one is not None for one in found) == 1
        assert await store.lease(given.id, 10 * self.tick) is None

    async def test_a_lease_counts_as_a_redrive_and_tells_the_letter(self, store: DeadLetterStore) -> None:
        given = letter()
        await store.add(given)
        _, leased = await self.taken(store, given)
        assert leased.redrives == 1
        assert await stored(store) == [leased]
        await self.passes(11)
        assert (await self.taken(store, given))[1].redrives == 2

    async def test_letters_are_leased_apart(self, store: DeadLetterStore) -> None:
        given = [letter(id=f"{number}") for number in range(10)]
        for one in given:
            await store.add(one)
        found = await asyncio.gather(*(self.taken(store, one) for one in given))
        assert len({token for token, _ in found}) == 10
        assert [one.id for _, one in found] == [one.id for one in given]

    async def test_what_is_not_there_is_not_leased(self, store: DeadLetterStore) -> None:
        assert await store.lease(letter().id, 10 * self.tick) is None
        assert not await store.settle(letter().id, "token", None)

    async def test_a_letter_that_was_delivered_is_gone(self, store: DeadLetterStore) -> None:
        given, other = letter(), letter(id="2")
        await store.add(given)
        await store.add(other)
        token, _ = await self.taken(store, given)
        assert await store.settle(given.id, token, None)
        assert not await store.settle(given.id, token, None)
        assert await store.lease(given.id, 10 * self.tick) is None
        assert [one.event.id for one in await stored(store)] == ["2"]

    async def test_a_letter_that_failed_is_free_and_as_it_was_given_back(self, store: DeadLetterStore) -> None:
        given = letter()
        await store.add(given)
        await store.add(letter(id="2"))
        token, leased = await self.taken(store, given)
        back = replace(leased, quarantined=True, reason="once more", redrives=7)
        assert await store.settle(given.id, token, back)
        assert (await stored(store))[0] == back
        assert not await store.settle(given.id, token, None)
        again, leased = await self.taken(store, given)
        assert leased == replace(back, redrives=8)
        assert again != token

    async def test_only_the_last_lease_settles(self, store: DeadLetterStore) -> None:
        given = letter()
        await store.add(given)
        first, leased = await self.taken(store, given)
        await self.passes(11)
        second, _ = await self.taken(store, given)
        assert not await store.settle(given.id, first, None)
        assert not await store.settle(given.id, first, leased)
        assert await store.lease(given.id, 10 * self.tick) is None
        assert await store.settle(given.id, second, None)

    async def test_a_lease_that_ran_out_still_settles_if_nobody_took_it(self, store: DeadLetterStore) -> None:
        given = letter()
        await store.add(given)
        token, _ = await self.taken(store, given)
        await self.passes(11)
        assert await store.settle(given.id, token, None)
        assert await stored(store) == []

    async def test_a_failure_that_comes_again_makes_the_lease_void(self, store: DeadLetterStore) -> None:
        given = letter()
        await store.add(given)
        token, leased = await self.taken(store, given)
        assert await store.add(given)
        assert not await store.settle(given.id, token, None)
        assert not await store.settle(given.id, token, leased)
        [kept] = await stored(store)
        assert (kept.times, kept.redrives) == (2, 1)
        assert (await self.taken(store, given))[1].redrives == 2

    # Purging.

    async def test_the_old_ones_are_purged(self, store: DeadLetterStore) -> None:
        for hours in range(5):
            await store.add(letter(id=f"{hours}", last_at=AT + timedelta(hours=hours)))
        assert await store.purge(AT + timedelta(hours=2), None) == 2
        assert [one.event.id for one in await stored(store)] == [*"234"]
        assert await store.purge(AT + timedelta(hours=2), None) == 0

    async def test_all_but_the_newest_are_purged(self, store: DeadLetterStore) -> None:
        for number in range(5):
            await store.add(letter(id=f"{number}"))
        assert await store.purge(None, 5) == 0
        assert await store.purge(None, 2) == 3
        assert [one.event.id for one in await stored(store)] == [*"34"]
        assert await store.purge(None, 0) == 2

    async def test_both_rules_hold_and_without_one_nothing_goes(self, store: DeadLetterStore) -> None:
        for hours in range(5):
            await store.add(letter(id=f"{hours}", last_at=AT - timedelta(hours=hours)))
        assert await store.purge(None, None) == 0
        assert await store.purge(AT - timedelta(hours=3), 3) == 3
        assert [one.event.id for one in await stored(store)] == [*"23"]

    async def test_what_is_leased_is_not_purged(self, store: DeadLetterStore) -> None:
        given = letter()
        await store.add(given)
        await store.add(letter(id="2"))
        token, leased = await self.taken(store, given)
        assert await store.purge(None, 0) == 1
        assert await store.settle(given.id, token, leased)
        assert await store.purge(None, 0) == 1

    async def test_positions_are_never_used_again(self, store: DeadLetterStore) -> None:
        await store.add(letter())
        [first] = await stored(store)
        await store.purge(None, 0)
        await store.add(letter())
        [second] = await stored(store)
        assert second.position > first.position
