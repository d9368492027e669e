"""A sender: two orders and a question to the receiver of receive.py, and what became of each.

    uv run python examples/send.py [url]

Exits with 1 if an event was not delivered.
"""

import asyncio
import sys

from cloudevents_kit import Ack, Event, Nack, Result, RetryPolicy, Sender, Undelivered


def tell(event: Event, result: Result) -> None:
    match result:
        case Ack(reply=Event(data=data)):
            print(f"{event.type}: answered, {data}")
        case Ack(status=status):
            print(f"{event.type}: acknowledged with {status}")
        case Nack(status=status, reason=reason):
            print(f"{event.type}: refused with {status}, {reason}")
        case Undelivered(error=error, possibly_delivered=maybe, attempts=attempts):
            print(f"{event.type}: no answer after {len(attempts)} attempts, {error}; may have arrived: {maybe}")


async def main(url: str) -> int:
    order = Event(type="com.example.order.created", source="/orders", data={"number": 1, "items": ["lamp", "chair"]})
    empty = Event(type="com.example.order.created", source="/orders", data={"number": 2, "items": []})
    question = Event(type="com.example.price.asked", source="/orders", data={"item": "lamp"})

    async with Sender(url, retry=RetryPolicy(attempts=3)) as sender:
        results = [await sender.send(order), await sender.send(empty), await sender.request(question)]
    for event, result in zip((order, empty, question), results, strict=True):
        tell(event, result)
    return 1 if any(result.is_undelivered for result in results) else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8080/")))
