"""What every implementation of `OutboxStore` must do; each one runs the same tests.

class TestSql(OutboxStoreConformance):
    @pytest.fixture
    async def store(self) -> AsyncIterator[OutboxStore]: ...
"""

import asyncio

import pytest

from cloudevents_kit import from_json, to_json
from cloudevents_kit.outbox import OutboxStore
from tests.support.dead_letters import EVENTS
from tests.support.events import new


async def add(store: OutboxStore, *ids: str, key: str | None = None) -> None:
    """Store small events, one after the other."""
    for id in ids:
        await store.add(new(id=id), key=key)


class OutboxStoreConformance:
    """Subclasses give the fixture ``store``: an empty one for each test, opened. Times are in ticks."""

    tick: float = 1.0
    """Seconds of a tick: as short as the store can tell for sure."""

    async def passes(self, ticks: float) -> None:
        """Let time pass; a store with a clock of its own moves that."""
        await asyncio.sleep(ticks * self.tick)

    async def lease(self, store: OutboxStore, most: int = 100) -> dict[str, str]:
        """Lease for ten ticks; return tokens by id."""
        found = await store.lease(most, 10 * self.tick)
        tokens = {event.id: token for token, event, _ in found}
        assert len({*tokens.values()}) == len(found)
        return tokens

    @pytest.mark.parametrize("form", [form for form, event in EVENTS.items() if from_json(to_json(event)) == event])
    async def test_an_event_comes_out_as_it_was(self, store: OutboxStore, form: str) -> None:
        await store.add(EVENTS[form], key=None)
        [(_, event, attempts)] = await store.lease(5, 10 * self.tick)
        assert event == EVENTS[form]
        assert attempts == 0

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
        [(_, event, attempts)] = await store.lease(5, 10 * self.tick)
        assert (event.id, attempts) == ("a", 0)

    async def test_what_failed_is_due_again_after_its_delay_with_its_attempts(self, store: OutboxStore) -> None:
        await add(store, "a", "b")
        tokens = await self.lease(store)
        await store.settle({tokens["a"]: (3, 5 * self.tick), tokens["b"]: (1, 0.0)})
        [(_, event, attempts)] = await store.lease(5, 100 * self.tick)
        assert (event.id, attempts) == ("b", 1)
        await self.passes(6)
        [(_, event, attempts)] = await store.lease(5, 100 * self.tick)
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
        assert await store.lag() == (0, 0.0)

    async def test_of_one_key_only_the_first_is_due_until_it_is_gone(self, store: OutboxStore) -> None:
        await add(store, "a1", "a2", "a3", key="a")
        await add(store, "b1", key="b")
        await add(store, "c1", "c2")
        first = await self.lease(store)
        assert [*first] == ["a1", "b1", "c1", "c2"]
        assert await self.lease(store) == {}
        await store.settle({first["b1"]: None, first["a1"]: (1, 5 * self.tick)})
        assert await self.lease(store) == {}
        await self.passes(6)
        again = await self.lease(store)
        assert "a1" in again
        await store.settle({again["a1"]: None})
        assert [*await self.lease(store)] == ["a2"]

    async def test_the_lag_is_how_many_there_are_and_how_old_the_oldest_is(self, store: OutboxStore) -> None:
        assert await store.lag() == (0, 0.0)
        await add(store, "a", "b")
        await self.passes(3)
        count, age = await store.lag()
        assert count == 2
        assert 3 * self.tick <= age < 60 * self.tick
        tokens = await self.lease(store)
        assert (await store.lag())[0] == 2
        await store.settle(dict.fromkeys(tokens.values()))
        assert await store.lag() == (0, 0.0)

    async def test_many_at_once_get_no_event_twice(self, store: OutboxStore) -> None:
        await asyncio.gather(*(add(store, str(number)) for number in range(200)))
        found = await asyncio.gather(*(store.lease(7, 100 * self.tick) for _ in range(40)))
        ids = [event.id for leased in found for _, event, _ in leased]
        assert len(ids) == len({*ids}) == 200
        await asyncio.gather(*(store.settle({token: None for token, _, _ in leased}) for leased in found))
        assert (await store.lag())[0] == 0
