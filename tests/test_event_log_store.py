"""The event log in memory does what every store of it does."""

import pytest

from cloudevents_kit.event_log import EventLogStore
from cloudevents_kit.stores.memory_event_log import MemoryEventLogStore
from cloudevents_kit.testing import EventLogStoreConformance
from tests.support.clock import ManualClock


class TestMemory(EventLogStoreConformance):
    @pytest.fixture
    def store(self) -> EventLogStore:
        self.clock = ManualClock()
        return MemoryEventLogStore(clock=self.clock)

    async def passes(self, ticks: float) -> None:
        await self.clock.sleep(ticks * self.tick)
