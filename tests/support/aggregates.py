"""An `aggregate` with short windows, and events at a second of the test."""

from datetime import timedelta
from typing import Any

from cloudevents_kit import Event
from cloudevents_kit.stages import Aggregate, aggregate
from cloudevents_kit.stores.memory import MemoryWindowStore
from tests.support.clock import START
from tests.support.events import new
from tests.support.virtual import LoopClock


async def take(event: Event) -> None: ...


def at(second: float, id: str = "", **given: Any) -> Event:
    when = START + timedelta(seconds=second)
    return new(id=id or f"at {second}", time=when, **given)


def clocked(clock: LoopClock, of: Any = None, **given: Any) -> Aggregate:
    return aggregate(of, **{"size": 10, "lateness": 5, "clock": clock, **given})


class BrokenStore(MemoryWindowStore):
    """Not there while ``down``."""

    def __init__(self, error: type[BaseException] = ConnectionError) -> None:
        super().__init__()
        self.error = error
        self.down = True

    def put(self, *given: Any, **more: Any) -> Any:
        if self.down:
            raise self.error
        return super().put(*given, **more)

    async def close(self, *given: Any) -> Any:
        if self.down:
            raise self.error
        return await super().close(*given)

    async def windows(self) -> Any:
        if self.down:
            raise self.error
        return await super().windows()
