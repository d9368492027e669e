from time import process_time

import pytest

from cloudevents_kit.stages import DedupeStore
from cloudevents_kit.stores.memory import MemoryDedupeStore, MemoryQueueStore
from cloudevents_kit.testing import DedupeStoreConformance
from tests.support.clock import ManualClock
from tests.support.events import new


class TestMemoryDedupeStore(DedupeStoreConformance):
    clock: ManualClock

    @pytest.fixture
    def store(self, clock: ManualClock) -> DedupeStore:
        type(self).clock = clock
        return MemoryDedupeStore(clock=clock)

    async def passes(self, ticks: float) -> None:
        await self.clock.advance(ticks)


def finish(store: MemoryDedupeStore, *keys: str, outcome: bytes = b"", ttl: float = 100.0) -> None:
    for key in keys:
        assert store.take(key, key, 10) is None
        assert store.keep(key, key, outcome, ttl)


def known(store: MemoryDedupeStore, *keys: str) -> list[str]:
    return [key for key in keys if isinstance(store.take(key, "?", 0.0), bytes)]


def test_no_more_than_max_entries_are_kept_and_the_oldest_go_first() -> None:
    """K-D1: memory holds at most max_entries."""
    store = MemoryDedupeStore(max_entries=3, clock=ManualClock())
    finish(store, *"abcd")
    assert (store.size, store.evicted) == (3, 1)
    assert known(store, *"abcd") == [*"bcd"]


def test_a_large_store_makes_room_for_several_at_once() -> None:
    """K-D1: a dict that loses its first keys one by one looks for them longer each time."""
    store = MemoryDedupeStore(max_entries=640, clock=ManualClock())
    for number in range(2000):
        finish(store, str(number))
        assert store.size <= 640
    assert store.size > 620
    assert known(store, *map(str, range(1380, 2000))) == [*map(str, range(1380, 2000))]


async def test_what_has_expired_is_no_loss() -> None:
    clock = ManualClock()
    store = MemoryDedupeStore(max_entries=2, clock=clock)
    finish(store, "a", ttl=1)
    await clock.advance(1)
    finish(store, "b", "c")
    assert (store.size, store.evicted) == (2, 0)


def test_running_claims_are_never_evicted() -> None:
    store = MemoryDedupeStore(max_entries=1, clock=ManualClock())
    assert store.take("running", "mine", 100) is None
    finish(store, *"abc")
    assert store.take("running", "other", 100) == 100
    assert store.keep("running", "mine", b"", 100)


def test_outcomes_are_kept_within_max_bytes() -> None:
    store = MemoryDedupeStore(max_bytes=10, clock=ManualClock())
    finish(store, *"abc", outcome=b"1234")
    assert known(store, *"abc") == [*"bc"]
    finish(store, "too large", outcome=b"12345678901")
    assert known(store, "b", "c", "too large") == [*"bc"]
    finish(store, *"de", outcome=b"1234")
    assert known(store, *"bcde") == [*"de"]


@pytest.mark.parametrize("given", [{"max_entries": 0}, {"max_bytes": -1}])
def test_a_limit_that_makes_no_sense_is_refused(given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        MemoryDedupeStore(**given)  # type: ignore[arg-type]


def test_it_says_that_it_forgets() -> None:
    assert "forgotten at a restart" in (MemoryDedupeStore.__doc__ or "")


def test_what_nobody_claims_any_more_can_be_committed_once() -> None:
    store = MemoryDedupeStore(clock=ManualClock())
    assert store.take("a", "mine", 100) is None
    store.drop("a", "mine")
    assert store.keep("a", "mine", b"", 100)
    assert not store.keep("a", "mine", b"other", 100)


async def test_an_event_is_queued_in_the_same_time_however_many_are_there() -> None:
    store = MemoryQueueStore()
    events = [new(id=str(number)) for number in range(20_000)]
    began = process_time()
    for event in events:
        assert await store.put(event, key=None, capacity=20_000)
    assert process_time() - began < 2  # it would be 7 s, if each looked at all the others
    assert len(store) == 20_000
    assert not await store.put(new(id="one more"), key=None, capacity=20_000)


async def lease(store: MemoryQueueStore) -> str:
    leased = await store.lease(10)
    assert leased is not None
    return leased[0]


async def test_what_is_parked_or_done_makes_room() -> None:
    store = MemoryQueueStore()
    for number in range(2):
        assert await store.put(new(id=str(number)), key=None, capacity=2)
    first, second = await lease(store), await lease(store)
    assert await store.nack(first, delay=0)
    assert len(store) == 2
    assert await store.nack(await lease(store), delay=None)
    assert (len(store), [event.id for event in store.parked]) == (1, ["0"])
    assert await store.ack(second)
    assert len(store) == 0
    assert await store.put(new(id="0"), key=None, capacity=1)  # parked no more
    assert (len(store), store.parked) == (1, [])
