"""A shop with a saga, for tests of sagas: what its steps do, and what they fail with."""

import asyncio
from typing import Any

from cloudevents_kit import Event, Result, RetryPolicy, settle
from cloudevents_kit.saga import Context, Journal, Saga, Step
from cloudevents_kit.stores.memory_journal import MemoryJournal
from tests.support.events import new
from tests.support.virtual import LoopClock

POLICY = RetryPolicy(attempts=3, initial=10, jitter=False, deadline=None)
EVENT = new(type="order.created", data={"number": 7})


class Shop:
    """Does the steps, and notes what it does; ``fails`` has what each is to raise, in turn."""

    def __init__(self, **fails: list[Exception]) -> None:
        self.fails = fails
        self.done: list[str] = []
        self.contexts: list[Context] = []
        self.takes = 0.0

    def step(self, name: str, **given: Any) -> Step:
        return Step(name, self.work(name), self.work(f"{name}_undo"), **given)

    def work(self, name: str) -> Any:
        async def work(step: Context) -> Any:
            self.contexts.append(step)
            await asyncio.sleep(self.takes)
            if self.fails.get(name):
                raise self.fails[name].pop(0)
            self.done.append(name)
            return {"did": name}

        return work

    def saga(self, clock: LoopClock, journal: Journal | None = None, **given: Any) -> Saga:
        steps = given.pop("steps", [self.step(name) for name in ("reserve", "pay", "ship")])
        journal = MemoryJournal(clock=clock) if journal is None else journal
        return Saga("order", steps, journal=journal, clock=clock, **{"retry": POLICY, **given})


async def answer(handler: Any, event: Event) -> Any:
    """Return the result of handing ``event`` to a handler."""
    return await settle(handler, event)


async def over(saga: Saga, event: Event = EVENT) -> Any:
    """Wait until the saga is over; return the report."""
    while True:
        report = await saga.find(saga.id_of(event))
        assert report is not None
        if report.status in {"completed", "compensated", "stuck"}:
            return report
        await asyncio.sleep(0.5)


def command(step: Context) -> Event:
    return step.make(type="pay", source="/orders", data=step.event.data)


class Bank:
    """A sink that answers with ``results`` in turn, and keeps what it was sent."""

    def __init__(self, *results: Result) -> None:
        self.results = [*results]
        self.sent: list[Event] = []

    async def send(self, event: Event, /) -> Result:
        self.sent.append(event)
        return self.results.pop(0)


def told(event: Event, **given: Any) -> Event:
    return event.reply(**{"type": "paid", "source": "/bank", "data": {"receipt": 1}, **given})


def saga(shop: Shop, clock: LoopClock, pay: Any, journal: MemoryJournal | None = None, **given: Any) -> Saga:
    steps = [shop.step("reserve"), Step("pay", pay, shop.work("pay_undo")), shop.step("ship")]
    return shop.saga(clock, journal, steps=steps, **given)


async def status(saga: Saga, id: str) -> str:
    report = await saga.find(id)
    assert report is not None
    return report.status
