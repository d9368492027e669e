"""Where dead letters are kept: each store does the same."""

import pytest

from cloudevents_kit.dead_letter import DeadLetterStore
from cloudevents_kit.stores.memory_dead_letters import MemoryDeadLetterStore
from cloudevents_kit.testing import DeadLetterStoreConformance
from cloudevents_kit.testing._dead_letters import letter, stored
from tests.support.clock import ManualClock


class TestMemoryDeadLetterStore(DeadLetterStoreConformance):
    clock: ManualClock

    @pytest.fixture
    def store(self, clock: ManualClock) -> DeadLetterStore:
        type(self).clock = clock
        return MemoryDeadLetterStore(clock=clock)

    async def passes(self, ticks: float) -> None:
        await self.clock.advance(ticks * self.tick)


async def test_memory_that_is_full_refuses_and_drops_nothing() -> None:
    """K-D2: the documented policy is to refuse; what is there may be added to all the same."""
    store = MemoryDeadLetterStore(capacity=2)
    assert [await store.add(letter(id=id)) for id in ("1", "2", "3", "1")] == [True, True, False, True]
    assert [(one.event.id, one.times) for one in await stored(store)] == [("1", 2), ("2", 1)]
    assert len(store) == 2


async def test_memory_holds_no_more_than_max_bytes_and_gives_them_back() -> None:
    """K-D2."""
    store = MemoryDeadLetterStore(max_bytes=10_000)
    big = letter(reason="x" * 6000)
    assert await store.add(big)
    assert not await store.add(letter(id="2", reason="x" * 6000))
    assert await store.add(letter(id="3"))
    assert [one.event.id for one in await stored(store)] == ["1", "3"]
    found = await store.lease(big.id, 10)
    assert found is not None
    assert await store.settle(big.id, found[0], letter())
    assert await store.add(letter(id="2", reason="x" * 6000))
    assert await store.purge(None, 0) == 3
    assert await store.add(letter(reason="x" * 9000))


@pytest.mark.parametrize("given", [{"capacity": 0}, {"max_bytes": 0}])
def test_a_limit_that_makes_no_sense_is_refused(given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        MemoryDeadLetterStore(**given)  # type: ignore[arg-type]


def test_memory_says_that_it_forgets() -> None:
    assert "forgotten at a restart" in (MemoryDeadLetterStore.__doc__ or "")
