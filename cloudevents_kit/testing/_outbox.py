"""What every `OutboxStore` must do."""

import asyncio
from datetime import UTC, datetime

import pytest

from cloudevents_kit.outbox import OutboxStore
from cloudevents_kit.testing._events import EVENTS, exact, new
from cloudevents_kit.testing._ticks import Timed


async def add(store: OutboxStore, *ids: str, key: str | None = None) -> None:
    """Store small events, one after the other."""
    for id in ids:
        await store.add(new(id=id), key=key)


@pytest.mark.asyncio
class OutboxStoreConformance(Timed):
    """What every `OutboxStore` must do.

    A subclass gives the fixture ``store``: an empty one for each test, opened.
    """

    async def lease(self, store: OutboxStore, most: int = 100) -> dict[str, str]:
        """Lease for ten ticks; return tokens by id."""
        found = await store.lease(most, 10 * self.tick)
        tokens = {event.id: token for token, event, *_ in found}
        assert len({*tokens.values()}) == len(found)
        return tokens

    @pytest.mark.parametrize("form", EVENTS)
    @pytest.mark.parametrize("key", [None, "k"])
    async def test_an_event_comes_out_as_it_was(self, store: OutboxStore, form: str, key: str | None) -> None:
        await store.add(EVENTS[form], key=key)
        [(_, event, attempts, found)] = await store.lease(5, 10 * self.tick)
        assert exact(event) == exact(EVENTS[form])
        assert (attempts, found) == (0, key)

    async def test_events_come_in_their_order_no_more_than_asked_for_and_each_once(self, store: OutboxStore) -> None:
        await add(store, *"abcde")
        assert [*await self.lease(store, 3)] == ["a", "b", "c"]
        assert [*await self.lease(store, 3)] == ["d", "e"]
        assert await self.lease(store) == {}

    async def test_the_same_source_and_id_is_one_event(self, store: OutboxStore) -> None:
        await add(store, "a", "a")
        await store.add(new(id="a", source="/other"), key=None)
        assert (await store.lag())[0] == 2
        assert len(await store.lease(5, 10 * self.tick)) == 2
        await add(store, "a")
        assert await self.lease(store) == {}

    async def test_what_was_delivered_is_gone_and_may_be_added_again(self, store: OutboxStore) -> None:
        await add(store, "a", "b")
        tokens = await self.lease(store)
        await store.settle({tokens["a"]: None})
        await self.passes(11)
        assert {*await self.lease(store)} == {"b"}
        await add(store, "a")
        assert {*await self.lease(store)} == {"a"}

    async def test_a_lease_runs_out_and_is_not_an_attempt(self, store: OutboxStore) -> None:
        await add(store, "a")
        await self.lease(store)
        await self.passes(9)
        assert await self.lease(store) == {}
        await self.passes(2)
        [(_, event, attempts, _)] = await store.lease(5, 10 * self.tick)
        assert (event.id, attempts) == ("a", 0)

    async def test_what_failed_is_due_again_after_its_delay_with_its_attempts(self, store: OutboxStore) -> None:
        await add(store, "a", "b")
        tokens = await self.lease(store)
        await store.settle({tokens["a"]: (3, 5 * self.tick), tokens["b"]: (1, 0.0)})
        [(_, event, attempts, _)] = await store.lease(5, 100 * self.tick)
        assert (event.id, attempts) == ("b", 1)
        await self.passes(6)
        [(_, event, attempts, _)] = await store.lease(5, 100 * self.tick)
        assert (event.id, attempts) == ("a", 3)

    async def test_a_void_lease_delays_nothing_but_a_delivery_counts(self, store: OutboxStore) -> None:
        await add(store, "a")
        first = (await self.lease(store))["a"]
        await self.passes(11)
        second = (await self.lease(store))["a"]
        await store.settle({first: (5, 0.0)})
        assert await self.lease(store) == {}
        await store.settle({second: None})
        await store.settle({second: None})
        assert await store.lag() == (0, 0.0, 0)

    async def test_of_one_key_only_the_first_is_due_until_it_is_gone(self, store: OutboxStore) -> None:
        """And with it those right behind it, as many as the store likes."""
        await add(store, "a1", "a2", "a3", key="a")
        await add(store, "b1", key="b")
        await add(store, "c1", "c2")
        first = await self.lease(store)
        assert {"a1", "b1", "c1", "c2"} <= first.keys()
        of_a = [id for id in first if id[0] == "a"]
        assert of_a == ["a1", "a2", "a3"][: len(of_a)]
        assert await self.lease(store) == {}
        await store.settle({token: (1, 5 * self.tick) if id == "a1" else (0, 0.0) for id, token in first.items()})
        assert [id for id in await self.lease(store) if id[0] == "a"] == []
        await self.passes(11)
        again = await self.lease(store)
        assert next(id for id in again if id[0] == "a") == "a1"
        await store.settle({token: None for id, token in again.items() if id == "a1"})
        await store.settle({token: (0, 0.0) for id, token in again.items() if id != "a1"})
        assert next(id for id in await self.lease(store) if id[0] == "a") == "a2"

    async def test_of_one_key_nothing_overtakes_what_is_leased_or_waits(self, store: OutboxStore) -> None:
        """Also if what is in front of it was given back first, or is the only one that can be leased."""
        await add(store, "a1", "a2", "a3", "a4", key="a")
        first = await self.lease(store, 2)
        await store.settle({first["a1"]: (0, 0.0)})
        await add(store, "a5", key="a")
        got = [*await self.lease(store)]
        assert got == ["a1"] if "a2" in first else ["a1", "a2", "a3", "a4", "a5"][: len(got)]

    async def test_one_for_later_is_not_due_before_its_time(self, store: OutboxStore) -> None:
        """Nor does it count as late."""
        await store.add(new(id="later"), key=None, due=5 * self.tick)
        await add(store, "now")
        assert [*await self.lease(store)] == ["now"]
        waiting, _, later = await store.lag()
        assert (waiting, later) == (1, 1)
        await self.passes(4)
        assert await self.lease(store) == {}
        await self.passes(2)
        assert [*await self.lease(store)] == ["later"]
        waiting, age, later = await store.lag()
        assert (waiting, later) == (2, 0)
        assert age < 30 * self.tick

    async def test_a_moment_that_has_passed_is_now_and_one_in_years_is_not(self, store: OutboxStore) -> None:
        await add(store, "a")
        for year in (1, 1969, 2020, 9999):
            await store.add(new(id=str(year)), key=None, due=datetime(year, 1, 1, tzinfo=UTC))
        assert [*await self.lease(store)] == ["a", "1", "1969", "2020"]
        waiting, age, later = await store.lag()
        assert (waiting, later) == (4, 1)
        assert age < 60 * self.tick

    async def test_what_waits_can_be_cancelled_and_nothing_else(self, store: OutboxStore) -> None:
        await store.add(new(id="later"), key=None, due=100 * self.tick)
        await add(store, "sent", "failed", "waits")
        await store.add(new(id="waits", source="/other"), key=None, due=100 * self.tick)
        tokens = await self.lease(store, 2)
        await store.settle({tokens["failed"]: (1, 100 * self.tick)})
        assert [await store.cancel("/s", id) for id in ("later", "sent", "failed", "waits", "none")] == [
            True, False, True, True, False,
        ]  # fmt: skip
        assert not await store.cancel("/s", "later")
        assert (await store.lag())[::2] == (1, 1)
        await store.settle({tokens["sent"]: None})
        assert not await store.cancel("/s", "sent")
        assert await store.cancel("/other", "waits")
        assert await store.lag() == (0, 0.0, 0)

    async def test_what_was_being_sent_when_its_lease_ran_out_cannot_be_cancelled(self, store: OutboxStore) -> None:
        """For nobody can tell whether it was sent; until somebody has told how it ended."""
        await add(store, "a")
        await self.lease(store)
        await self.passes(11)
        assert not await store.cancel("/s", "a")
        token = (await self.lease(store))["a"]
        await store.settle({token: (0, 0.0)})
        assert await store.cancel("/s", "a")

    async def test_of_many_who_cancel_one_is_told_so(self, store: OutboxStore) -> None:
        await add(store, "a")
        assert sorted(await asyncio.gather(*(store.cancel("/s", "a") for _ in range(5)))) == [False] * 4 + [True]

    async def test_the_lag_is_how_many_there_are_and_how_old_the_oldest_is(self, store: OutboxStore) -> None:
        assert await store.lag() == (0, 0.0, 0)
        await add(store, "a", "b")
        await self.passes(3)
        count, age, later = await store.lag()
        assert (count, later) == (2, 0)
        assert 3 * self.tick <= age < 60 * self.tick
        tokens = await self.lease(store)
        assert (await store.lag())[0] == 2
        await store.settle(dict.fromkeys(tokens.values()))
        assert await store.lag() == (0, 0.0, 0)

    async def test_neither_events_with_a_key_nor_those_without_keep_the_others_from_being_leased(
        self, store: OutboxStore
    ) -> None:
        """Wherever one event is leased at a time, and each of them fails."""
        await add(store, "a", "b", "c", "d")
        await add(store, "k", key="k")
        found: list[str] = []
        for failed in range(1, 11):
            [(token, event, *_)] = await store.lease(1, 10 * self.tick)
            found.append(event.id)
            await store.settle({token: (failed, 0.0)})
        assert {*found} == {*"abcdk"}

    async def test_when_it_is_cleared_nothing_is_left_whoever_has_leased_it(self, store: OutboxStore) -> None:
        await add(store, "a", "b", "c")
        await add(store, "k1", "k2", key="k")
        await store.add(new(id="later"), key=None, due=100 * self.tick)
        tokens = await self.lease(store, 2)
        assert await store.clear() == 6
        assert await store.lag() == (0, 0.0, 0)
        await store.settle(dict.fromkeys(tokens.values(), (1, 0.0)))
        assert await self.lease(store) == {}
        assert await store.clear() == 0
        await add(store, "a")
        assert [*await self.lease(store)] == ["a"]

    async def test_many_at_once_get_no_event_twice(self, store: OutboxStore) -> None:
        await asyncio.gather(*(add(store, str(number)) for number in range(200)))
        found = await asyncio.gather(*(store.lease(7, 100 * self.tick) for _ in range(40)))
        ids = [event.id for leased in found for _, event, *_ in leased]
        assert len(ids) == len({*ids}) == 200
        await asyncio.gather(*(store.settle({token: None for token, *_ in leased}) for leased in found))
        assert (await store.lag())[0] == 0
