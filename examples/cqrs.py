"""Commands and queries are events that are answered; what happened is in a log, and what is read is a view of it.

    uv run python examples/cqrs.py

The shop has one receiver. A command decides on the state of one order, appends what happened, and says how far the log
is then; a query reads a view, and may ask for one that is as far as the asker's own command.
"""

import asyncio
import logging
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from cloudevents_kit import Ack, Event, Nack, Receiver, Reject, Result, Retry, Router, Sender, on, stages
from cloudevents_kit.event_log import Conflict, EventLog, Projection
from cloudevents_kit.stores import open_store

SHOP = "/shop"


@dataclass
class Place:
    """A command."""

    order: str
    items: list[str]


@dataclass
class Cancel:
    """A command."""

    order: str


@dataclass
class Ask:
    """A query: how many orders have an item, in a view that is at least so far."""

    item: str
    position: int = 0


@dataclass
class Order:
    """What one order is: all that a command needs to decide."""

    status: str = "new"
    items: list[str] = field(default_factory=list)


def apply(order: Order, event: Event) -> Order:
    match event.type:
        case "com.example.order.placed":
            return Order("placed", event.data["items"])
        case "com.example.order.cancelled":
            return Order("cancelled", order.items)
    return order


class Commands:
    """The side that writes."""

    def __init__(self, log: EventLog) -> None:
        self.log = log

    @on("com.example.order.place")
    async def place(self, command: Event, data: Place) -> Event:
        """Take a new order."""
        order, version = await self.log.fold(data.order, apply, Order)
        if order.status != "new":
            raise Reject(f"order {data.order} is {order.status}", status=422)
        happened = command.reply(
            type="com.example.order.placed", source=SHOP, id=f"{command.id}-placed", data={"items": data.items}
        )
        return await self.append(command, data.order, happened, version)

    @on("com.example.order.cancel")
    async def cancel(self, command: Event, data: Cancel) -> Event:
        """Take one back that was placed."""
        order, version = await self.log.fold(data.order, apply, Order)
        if order.status != "placed":
            raise Reject(f"order {data.order} is {order.status}", status=422)
        happened = command.reply(
            type="com.example.order.cancelled", source=SHOP, id=f"{command.id}-cancelled", data={"items": order.items}
        )
        return await self.append(command, data.order, happened, version)

    async def append(self, command: Event, stream: str, happened: Event, version: int) -> Event:
        """Append what was decided on, if the order is still what it was then."""
        try:
            done = await self.log.append(stream, happened, expected=version)
        except Conflict as conflict:
            raise Retry(reason="somebody else was quicker") from conflict
        return command.reply(type="com.example.done", source=SHOP, data={"position": done.position})


class Popular:
    """The side that reads: a view that a projection keeps up to date; here in memory, and so made at each start."""

    def __init__(self) -> None:
        self.orders: dict[str, int] = {}

    @on("com.example.order.placed")
    async def placed(self, event: Event) -> None:
        """Count one order more."""
        for item in event.data["items"]:
            self.orders[item] = self.orders.get(item, 0) + 1

    @on("com.example.order.cancelled")
    async def cancelled(self, event: Event) -> None:
        """Count one order less."""
        for item in event.data["items"]:
            self.orders[item] -= 1


class Queries:
    """What can be asked."""

    def __init__(self, log: EventLog, view: Popular) -> None:
        self.log, self.view = log, view

    @on("com.example.item.asked")
    async def asked(self, query: Event, data: Ask) -> Event:
        """Tell how many orders have an item."""
        async with asyncio.timeout(2):  # out of time is a 503: ask again
            await self.log.reached("popular", data.position)
        count = self.view.orders.get(data.item, 0)
        return query.reply(type="com.example.item.told", source=SHOP, data={"orders": count})


def tell(what: str, result: Result) -> int:
    """Print an answer; return the position that it names."""
    match result:
        case Ack(reply=Event(data=data)):
            print(f"     {what}: {data}")
            return int(data.get("position", 0))
        case Nack(reason=reason, status=status):
            print(f"     {what}: {status} {reason}")
    return 0


async def customer(sender: Sender) -> None:
    def event(kind: str, id: str, **data: object) -> Event:
        return Event(type=f"com.example.{kind}", source="/customer", id=id, data=data)

    print("1. Commands")
    tell("place 1", await sender.request(event("order.place", "c1", order="order-1", items=["lamp", "chair"])))
    tell("place 2", await sender.request(event("order.place", "c2", order="order-2", items=["lamp"])))
    tell("another order 2", await sender.request(event("order.place", "c3", order="order-2", items=["lamp"])))
    last = tell("cancel 1", await sender.request(event("order.cancel", "c4", order="order-1")))
    tell(
        "place 1 once more", await sender.request(event("order.place", "c1", order="order-1", items=["lamp", "chair"]))
    )
    print("2. A query that sees all of it")
    tell("orders of lamps", await sender.request(event("item.asked", "q1", item="lamp", position=last)))


async def shop(url: str) -> None:
    view = Popular()

    async def empty(_: object) -> None:
        view.orders.clear()

    projection = Projection("popular", view, reset=empty)
    async with open_store(url) as store, EventLog(store.event_log, projection) as log:
        await log.rebuild("popular")  # as it is in memory; one in tables goes on where it was
        router = Router()
        router.include(Commands(log))
        router.include(Queries(log, view))
        once = stages.deduplicate(store.deduplication)  # a command that comes twice gets the same answer twice
        async with Receiver(router, once, port=0) as receiver, Sender(receiver.url) as sender:
            await customer(sender)


async def main() -> None:
    logging.basicConfig(level=logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        await shop(f"sqlite:///{Path(folder) / 'shop.db'}")


if __name__ == "__main__":
    asyncio.run(main())
