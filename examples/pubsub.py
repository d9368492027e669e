"""One event to everybody who wants it: remote services and handlers of this process alike.

    uv run python examples/pubsub.py

The search service is another process, reached over HTTP; mail, stock and statistics are handlers here. One of them is
broken, one is slow, one comes later and leaves again: the others do not notice, and the publisher learns of each.
"""

import asyncio
import logging
from dataclasses import dataclass

from cloudevents_kit import Event, Receiver, RetryPolicy, Sender, filters
from cloudevents_kit.pubsub import FanOut, Published, Subscription, quorum

dead_letters: list[str] = []


@dataclass
class Order:
    """What the shop tells of an order."""

    id: int
    total: float


def created(number: int) -> Event:
    data = {"id": number, "total": 19.5}
    return Event(type="com.example.order.created", source="/shop", id=str(number), data=data)


async def mail(event: Event, order: Order) -> None:
    print(f"  mail: order {order.id} confirmed")


async def stock(event: Event) -> None:
    raise ConnectionError("the warehouse does not answer")


async def statistics(event: Event) -> None:
    await asyncio.sleep(0.2)
    print(f"  statistics: counted {event.id}")


async def search(event: Event) -> None:
    print(f"  search service: indexed {event.id}")


def bury(event: Event, error: Exception) -> None:
    dead_letters.append(f"{event.id}: {error}")  # a real shop stores it: see cloudevents_kit.dead_letter


def tell(published: Published) -> None:
    for name, result in published.items():
        print(f"  {name}: {result.outcome}")
    print(f"  in all: {published.result.outcome}")


async def publish(events: FanOut) -> None:
    print("Two of three are enough, and nobody waits longer than 5 seconds:")
    tell(await events.publish(created(1), timeout=5))

    print("The warehouse gets retries, and then dead letters:")
    events.cancel("stock")
    policy = RetryPolicy(attempts=3, initial=0.01)
    events.subscribe(Subscription("stock", stock, filters.prefix(type="com.example."), retry=policy, dead_letter=bury))
    tell(await events.publish(created(2)))
    print(f"  dead letters: {dead_letters}")

    print("Statistics come later, and the publisher does not wait for them:")
    events.subscribe(Subscription("statistics", statistics, filters.exact(source="/shop")))
    events.cancel("stock")
    print(f"  subscribers: {', '.join(events.subscribers_for('com.example.order.created'))}")
    queued = await events.publish_soon(created(3))
    print(f"  queued for {', '.join(queued.taken)}")
    print(f"  not sent when it was closed: {len(await events.close())}")


async def main() -> None:
    async with Receiver(search, port=0) as receiver, Sender(receiver.url) as sender:
        events = FanOut([Subscription("search", sender)], policy=quorum(2), limit=1)
        events.on("com.example.order.*")(mail)
        events.subscribe(Subscription("stock", stock, filters.prefix(type="com.example.")))
        async with events:
            await publish(events)


if __name__ == "__main__":
    logging.basicConfig(level=logging.CRITICAL)  # the log has the traceback of the broken warehouse
    asyncio.run(main())
